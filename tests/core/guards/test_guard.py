"""What all guards share.

How they are named, observed and switched, and how they serve functions and blocks.
"""

from __future__ import annotations

import gc
import inspect
from collections.abc import Awaitable
from typing import Any, assert_type

import anyio
import pytest

from postfacta_core.events import ListenerFailed, Mode, ModeChanged, PolicyCreated
from postfacta_core.guards._guard import RAISE, BlockGuard
from postfacta_core.guards.hedge import Hedge
from postfacta_core.guards.timeout import Timeout
from postfacta_core.testing import RecordingObserver
from tests.kit.every import every


class Diary(BlockGuard):
    """Writes down what the base asks of it."""

    kind = "diary"

    def __init__(self, name: str = "diary", **options: Any) -> None:
        super().__init__(name, **options)
        self.lines: list[object] = []
        self.instead: Any = RAISE
        self._announce()
        self.lines.clear()

    def _enter(self, function: object, args: Any, kwargs: Any) -> int:
        self.lines.append("enter")
        return len(self.lines)

    def _passed(self, ticket: int, result: Any) -> Any:
        self.lines.append(("passed", ticket, result))
        return result

    def _failed(self, ticket: int, error: Exception) -> Any:
        self.lines.append(("failed", ticket, type(error)))
        return self.instead

    def _dropped(self, ticket: int) -> None:
        self.lines.append(("dropped", ticket))

    def _mode_was_set(self) -> None:
        self.lines.append(self.mode)

    def spoil(self) -> None:
        self._report(KeyError("status"))


class Killed(BaseException):
    """Ends a thread."""


async def answer(number: int, *, more: int = 0) -> int:
    return number + more


async def fail(_: int) -> int:
    raise KeyError("status")


def answer_now(number: int, *, more: int = 0) -> int:
    return number + more


def fail_now(_: int) -> int:
    raise KeyError("status")


async def test_a_call_that_returns_has_passed() -> None:
    diary = Diary()
    assert_type(await diary.call(answer, 7), int)
    assert diary.call_sync(answer_now, 8) == 8
    assert diary.lines == ["enter", ("passed", 1, 7), "enter", ("passed", 3, 8)]
    assert (await diary.call(answer, 7, more=1), await diary(answer)(7, more=2)) == (8, 9)
    assert (diary.call_sync(answer_now, 7, more=1), diary(answer_now)(7, more=2)) == (8, 9)


async def test_a_call_that_raises_has_failed() -> None:
    diary = Diary()
    with pytest.raises(KeyError):
        await diary.call(fail, 7)
    with pytest.raises(KeyError):
        diary.call_sync(fail_now, 7)
    assert diary.lines == ["enter", ("failed", 1, KeyError), "enter", ("failed", 3, KeyError)]


async def test_a_guard_may_answer_in_the_place_of_an_error() -> None:
    diary = Diary()
    diary.instead = None
    assert await diary.call(fail, 7) is None
    assert diary.call_sync(fail_now, 7) is None


async def test_a_call_that_is_cancelled_or_killed_has_no_outcome() -> None:
    def killed() -> None:
        raise Killed

    diary = Diary()
    with anyio.move_on_after(0.001):
        await diary.call(anyio.sleep_forever)
    with pytest.raises(Killed):
        diary.call_sync(killed)
    assert diary.lines == ["enter", ("dropped", 1), "enter", ("dropped", 3)]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_coroutine_that_the_collector_closes_has_no_outcome() -> None:
    diary = Diary()

    class Never:
        def __await__(self) -> Any:
            yield

    async def never() -> None:
        await Never()

    call: Any = diary.call(never)
    call.send(None)
    del call
    gc.collect()
    assert diary.lines == ["enter", ("dropped", 1)]


async def test_a_block_is_held_like_a_call() -> None:
    diary = Diary()
    async with diary.block():
        with diary.block():
            pass
    with pytest.raises(KeyError):
        async with diary.block():
            raise KeyError
    with pytest.raises(Killed), diary.block():
        raise Killed
    assert diary.lines == [
        *("enter", "enter", ("passed", 2, None), ("passed", 1, None)),
        *("enter", ("failed", 5, KeyError), "enter", ("dropped", 7)),
    ]


def test_blocks_need_not_nest() -> None:
    diary = Diary()
    first, second = diary.block(), diary.block()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    second.__exit__(None, None, None)
    assert diary.lines == ["enter", "enter", ("passed", 1, None), ("passed", 2, None)]


async def test_a_block_is_entered_once() -> None:
    block = Diary().block()
    with block:
        with pytest.raises(RuntimeError, match="was entered before: call block"), block:
            raise AssertionError
        with pytest.raises(RuntimeError, match="was entered before: call block"):
            await block.__aenter__()


def test_a_guard_of_async_functions_says_why_it_guards_no_plain_one() -> None:
    with every() as case:
        for guard in (Hedge("search", delay=1.0), Timeout(1.0)):
            with (
                case(guard.kind),
                pytest.raises(TypeError, match=r"cannot guard a plain function: a .*thread"),
            ):
                guard.call_sync(answer_now, 7)


async def test_a_decorated_function_keeps_its_signature() -> None:
    diary = Diary()
    guarded, guarded_now = diary(answer), diary(answer_now)
    call: Awaitable[int] = guarded(7)
    assert await call == 7
    assert_type(guarded_now(7), int)
    assert (guarded.__name__, guarded_now.__name__) == ("answer", "answer_now")
    assert inspect.iscoroutinefunction(guarded)
    assert not inspect.iscoroutinefunction(guarded_now)


def test_a_plain_function_that_returns_a_coroutine_is_refused() -> None:
    def later() -> Any:
        return answer(7)

    with pytest.raises(
        TypeError, match="a plain function that returns a coroutine: make it an async def"
    ):
        Diary()(later)()


def test_a_mode_is_text_or_member_and_each_change_is_observed() -> None:
    observer = RecordingObserver()
    diary = Diary(mode="shadow", observer=observer)
    assert diary.mode is Mode.SHADOW
    diary.mode = "enforce"
    diary.mode = Mode.ENFORCE
    with pytest.raises(ValueError, match=r"Diary\.mode must be one of 'enforce', 'shadow', 'off'"):
        diary.mode = "banana"
    assert diary.lines == [Mode.ENFORCE, Mode.ENFORCE]
    assert observer.of(ModeChanged) == [ModeChanged("diary", Mode.SHADOW, Mode.ENFORCE)]
    assert [event.policy for event in observer.of(PolicyCreated)] == ["diary"]
    assert repr(diary) == "Diary('diary', mode='enforce')"


def test_a_name_is_one_that_a_metric_label_can_have() -> None:
    wrong: list[Any] = ["", "a" * 65, "two words", 3, None, b"billing"]
    with every() as case:
        for name in wrong:
            with (
                case(name),
                pytest.raises(ValueError, match=r"^Diary\.name must be a text of 1 to 64 letters"),
            ):
                Diary(name)


def test_what_foreign_code_raises_is_reported() -> None:
    observer = RecordingObserver()
    diary = Diary(observer=observer)
    diary.spoil()
    assert observer.of(ListenerFailed) == [ListenerFailed("diary", "KeyError('status')")]
    assert (list(diary.collect()), diary.status()) == ([], {})
