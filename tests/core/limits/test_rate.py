"""A hit is spent from all rates or from none.

A store that is away is reported once, and delays no one.
"""

from __future__ import annotations

import math
from functools import partial
from itertools import pairwise

import anyio
import pytest
from limits.aio.storage import Storage

from postfacta_adapters.limits import SharedStore
from postfacta_core.backoff import Backoff
from postfacta_core.events import Mode, ModeChanged, PolicyCreated, Sample, StoreChanged
from postfacta_core.limits._rates import Rate
from postfacta_core.limits.rate import RateCounter, hit_all, parse_rates
from postfacta_core.telemetry.catalogue import POLICY_METRICS
from postfacta_core.testing import ManualClock, RecordingObserver
from tests.kit.every import every
from tests.kit.interleaving import interleaved
from tests.kit.storage import HitLists


class Faulty(HitLists):
    """A shared store that can be made to fail, or to take its time."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__(clock)
        self.error: Exception | None = None
        self.gate: anyio.Event | None = None
        self.clock = clock
        self.bridge: object = None
        # Seconds that pass on our clock while the gate is shut.
        self.takes = 0.0
        self.asked = 0
        self.hits: list[str] = []

    async def get_sliding_window(self, key: str, expiry: int) -> tuple[int, float, int, float]:
        self.asked += 1
        found = await super().get_sliding_window(key, expiry)
        await anyio.lowlevel.checkpoint()
        if self.gate is not None:
            self.clock.advance(self.takes)
            await self.gate.wait()
        if self.error is not None:
            raise self.error
        return found

    async def acquire_sliding_window_entry(
        self, key: str, limit: int, expiry: int, amount: int = 1
    ) -> bool:
        self.hits.append(key)
        return await super().acquire_sliding_window_entry(key, limit, expiry, amount)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(1200.0)


@pytest.fixture
def observer() -> RecordingObserver:
    return RecordingObserver()


@pytest.fixture
def storage(clock: ManualClock) -> Faulty:
    return Faulty(clock)


def shared(storage: Storage, clock: ManualClock, *, timeout: float = 5.0) -> SharedStore:
    return SharedStore(
        storage,
        timeout=timeout,
        backoff=Backoff(base=1.0, cap=8.0),
        clock=clock,
        luck=lambda: 0.0,
    )


def numbers(limiter: RateCounter) -> dict[tuple[str, ...], float]:
    return {(sample.metric, *sample.labels): sample.value for sample in limiter.tally()}


def decided(limiter: RateCounter, decision: str, mode: str = "enforce") -> float:
    return numbers(limiter).get(
        ("postfacta_ratelimit_decisions_total", limiter.name, decision, mode), 0
    )


# Rates


@pytest.mark.parametrize(
    ("text", "rates"),
    [
        ("100/minute", (Rate(amount=100, period=60.0),)),
        ("100 per minute", (Rate(amount=100, period=60.0),)),
        ("5/10 seconds", (Rate(amount=5, period=10.0),)),
        ("10/second;1000/hour", (Rate(amount=10, period=1.0), Rate(amount=1000, period=3600.0))),
    ],
)
def test_rates_are_read_as_limits_writes_them(text: str, rates: tuple[Rate, ...]) -> None:
    assert parse_rates(text) == rates
    assert parse_rates(rates) == rates
    assert parse_rates(rates[0]) == rates[:1]


def test_a_store_counts_in_whole_seconds() -> None:
    with pytest.raises(ValueError, match=r"RateCounter\.rates must be of whole seconds"):
        RateCounter("a", Rate(amount=1, period=0.5), store=SharedStore("async+memory://"))


def test_a_storage_that_would_block_the_loop_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"the address of an async storage, .* not 'memory://\.\.\.'"
    ):
        SharedStore("memory://")


# In memory


async def test_a_caller_may_spend_its_rate_and_no_more(clock: ManualClock) -> None:
    limiter = RateCounter("client", "2/minute", clock=clock)
    assert [(await limiter.hit("a")).allowed for _ in range(3)] == [True, True, False]
    assert (await limiter.hit("b")).allowed
    clock.advance(30.0)
    decision = await limiter.hit("a")
    assert (decision.allowed, decision.limit, decision.remaining, decision.period) == (
        True,
        2,
        0,
        60.0,
    )
    assert numbers(limiter) == {
        ("postfacta_ratelimit_decisions_total", "client", "allowed", "enforce"): 4,
        ("postfacta_ratelimit_decisions_total", "client", "limited", "enforce"): 1,
        ("postfacta_ratelimit_keys", "client"): 2,
    }


async def test_a_hit_may_cost_more_than_one(clock: ManualClock) -> None:
    limiter = RateCounter("client", "10/minute", clock=clock)
    assert (await limiter.hit("a", 7)).remaining == 3
    assert not (await limiter.hit("a", 4)).allowed
    assert (await limiter.hit("a", 3)).allowed
    assert (await limiter.hit("a", 0)).allowed
    with pytest.raises(ValueError, match="less than 0"):
        await limiter.hit("a", -1)
    with pytest.raises(ValueError, match="less than 0"):
        limiter.charge("a", -1)


async def test_a_long_key_is_one_key_and_takes_little(clock: ManualClock) -> None:
    limiter = RateCounter("client", "1/minute", clock=clock)
    assert (await limiter.hit("k" * 9999)).allowed
    assert not (await limiter.hit("k" * 9999)).allowed
    assert not (await hit_all([limiter.charge("k" * 9999)]))[0].allowed
    assert (await limiter.hit("k" * 9998)).allowed


async def test_what_one_limiter_refuses_is_spent_from_none(clock: ManualClock) -> None:
    mine, all_ = (
        RateCounter("client", "1/minute", clock=clock),
        RateCounter("global", "3/minute", clock=clock),
    )
    allowed = await hit_all([mine.charge("a"), all_.charge("")])
    assert [decision.remaining for decision in allowed] == [0, 2]
    for _ in range(20):
        refused = await hit_all([mine.charge("a"), all_.charge("")])
        assert [decision.allowed for decision in refused] == [False, True]
    assert [d.remaining for d in await hit_all([mine.charge("b"), all_.charge("")])] == [0, 1]
    assert await hit_all([]) == []


async def test_in_shadow_all_pass_and_are_counted_as_if_not(
    clock: ManualClock, observer: RecordingObserver
) -> None:
    limiter = RateCounter("client", "1/minute", mode="shadow", clock=clock, observer=observer)
    assert [(await limiter.hit("a")).allowed for _ in range(3)] == [True, True, True]
    other = RateCounter("global", "9/minute", clock=clock)
    both = await hit_all([limiter.charge("a"), other.charge("")])
    assert [decision.allowed for decision in both] == [True, True]
    assert both[1].remaining == 8
    assert (decided(limiter, "allowed", "shadow"), decided(limiter, "limited", "shadow")) == (1, 3)
    limiter.mode = Mode.OFF
    assert (await limiter.hit("a")).allowed
    assert [
        decision.allowed for decision in await hit_all([limiter.charge("a"), other.charge("")])
    ] == [True] * 2
    limiter.mode = "enforce"
    limiter.mode = Mode.ENFORCE
    assert limiter.mode is Mode.ENFORCE
    assert not (await limiter.hit("a")).allowed
    assert decided(limiter, "limited") == 1
    assert observer.of(ModeChanged) == [
        ModeChanged("client", Mode.SHADOW, Mode.OFF),
        ModeChanged("client", Mode.OFF, Mode.ENFORCE),
    ]


def test_counts_are_apart_for_each_mode_and_the_plain_ones_are_there_from_the_start() -> None:
    limiter = RateCounter("client", "2/minute")
    assert [limiter.hit_now("a").allowed for _ in range(2)] == [True, True]
    limiter.mode = Mode.SHADOW
    assert limiter.hit_now("a").allowed
    name = "postfacta_ratelimit_decisions_total"
    assert [sample for sample in limiter.tally() if sample.metric == name] == [
        Sample(name, ("client", "allowed", "enforce"), 2),
        Sample(name, ("client", "allowed", "shadow"), 0),
        Sample(name, ("client", "limited", "shadow"), 1),
    ]


def test_a_limiter_announces_itself_once_with_names_of_metrics(
    clock: ManualClock, observer: RecordingObserver, storage: Faulty
) -> None:
    limiter = RateCounter("client", "1/minute", store=shared(storage, clock), observer=observer)
    assert [event.policy for event in observer.of(PolicyCreated)] == ["client"]
    samples = list(observer.of(PolicyCreated)[0].tally())
    assert {sample.metric for sample in samples} == {
        name for name in POLICY_METRICS if "ratelimit" in name
    }
    assert all(
        len(sample.labels) == len(POLICY_METRICS[sample.metric].labels) for sample in samples
    )
    assert numbers(limiter)["postfacta_ratelimit_store_up", "client"] == 1.0


# With a store


async def test_the_store_decides_and_counts(clock: ManualClock, storage: Faulty) -> None:
    store = shared(storage, clock)
    one, other = (RateCounter("client", "3/minute", store=store, clock=clock) for _ in range(2))
    first = await one.hit("a")
    assert (first.allowed, first.limit, first.remaining, first.reset_after, first.retry_after) == (
        True,
        3,
        2,
        60,
        0,
    )
    assert (await other.hit("a", 2)).remaining == 0
    clock.advance(15.0)
    refused = await one.hit("a")
    assert (refused.allowed, refused.remaining) == (False, 0)
    assert refused.retry_after == pytest.approx(45.0, abs=0.5)
    assert (await one.hit("b", 4)).retry_after == math.inf
    assert (await one.hit("b")).allowed
    assert (decided(one, "allowed"), decided(one, "limited")) == (2, 2)
    assert numbers(one)["postfacta_ratelimit_keys", "client"] == 0


async def test_what_a_store_refuses_is_spent_from_no_limiter_and_no_rate(
    clock: ManualClock, storage: Faulty
) -> None:
    store = shared(storage, clock)
    mine = RateCounter("client", "1/minute;9/hour", store=store, clock=clock)
    all_ = RateCounter("global", "5/minute", store=store, clock=clock)
    for _ in range(9):
        await hit_all([mine.charge("a"), all_.charge("")])
    decisions = await hit_all([mine.charge("a"), all_.charge("")])
    assert [decision.allowed for decision in decisions] == [False, True]
    assert len(storage.hits) == 3
    assert decided(all_, "allowed") == 10


async def test_a_hit_that_comes_second_after_both_were_tested_is_refused(
    clock: ManualClock, storage: Faulty
) -> None:
    limiter = RateCounter("client", "1/minute", store=shared(storage, clock), clock=clock)
    storage.gate = anyio.Event()
    results: list[bool] = []

    async def hit() -> None:
        decision = await limiter.hit("a")
        results.append(decision.allowed)
        assert decision.allowed or decision.retry_after > 0

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(hit)
        tasks.start_soon(hit)
        await anyio.wait_all_tasks_blocked()
        storage.gate.set()
    assert sorted(results) == [False, True]


async def test_limiters_of_two_stores_are_not_hit_together(
    clock: ManualClock, storage: Faulty
) -> None:
    one = RateCounter("a", "1/minute", store=shared(storage, clock))
    for store in (shared(storage, clock), None):
        other = RateCounter("b", "1/minute", store=store)
        with pytest.raises(ValueError, match="share one store"):
            await hit_all([one.charge(""), other.charge("")])


async def test_without_its_store_each_process_counts_by_itself_and_reports_once(
    clock: ManualClock, observer: RecordingObserver, storage: Faulty
) -> None:
    limiter = RateCounter(
        "client", "2/minute", store=shared(storage, clock), clock=clock, observer=observer
    )
    storage.error = ConnectionError("no route")
    decisions = [await limiter.hit("a") for _ in range(3)]
    assert [decision.allowed for decision in decisions] == [True, True, False]
    assert all(decision.allowed or 0 < decision.retry_after <= 30.0 for decision in decisions)
    assert storage.asked == 1
    assert [decided(limiter, name) for name in ("local", "limited")] == [2, 1]
    assert numbers(limiter)["postfacta_ratelimit_store_up", "client"] == 0.0
    assert observer.of(StoreChanged) == [
        StoreChanged("client", available=False, error="ConnectionError")
    ]


async def test_a_store_is_asked_again_after_waits_that_grow_and_comes_back_by_itself(
    clock: ManualClock, observer: RecordingObserver, storage: Faulty
) -> None:
    limiter = RateCounter(
        "client", "99/minute", store=shared(storage, clock), clock=clock, observer=observer
    )
    storage.error = OSError()
    asked: list[float] = []
    for tick in range(400):
        before = storage.asked
        await limiter.hit("a")
        if storage.asked > before:
            asked.append(tick / 10)
        clock.advance(0.1)
    assert [round(b - a) for a, b in pairwise(asked)] == [1, 2, 4, 8, 8, 8, 8]
    assert len(observer.of(StoreChanged)) == 1
    storage.error = None
    clock.advance(8.0)
    assert (await limiter.hit("a")).remaining == 98
    assert [(event.available, event.error) for event in observer.of(StoreChanged)] == [
        (False, "OSError"),
        (True, ""),
    ]
    # After that it is as at the beginning: one failure, one second.
    storage.error = OSError()
    await limiter.hit("a")
    clock.advance(1.0)
    storage.error = None
    assert (await limiter.hit("a")).remaining == 97


async def test_a_store_that_does_not_answer_holds_a_request_for_its_timeout_and_the_next_not_at_all(
    clock: ManualClock, observer: RecordingObserver, storage: Faulty
) -> None:
    store = shared(storage, clock, timeout=0.1)
    mine, all_ = (
        RateCounter(name, "5/minute;9/hour", store=store, clock=clock, observer=observer)
        for name in ("a", "b")
    )
    storage.gate, storage.takes = anyio.Event(), 0.1
    with anyio.fail_after(1.0):
        decisions = await hit_all([mine.charge("a"), all_.charge("")])
    assert [decision.allowed for decision in decisions] == [True, True]
    assert (storage.asked, decided(mine, "local"), decided(all_, "local")) == (1, 1, 1)
    await hit_all([mine.charge("a"), all_.charge("")])
    assert storage.asked == 1
    changes = observer.of(StoreChanged)
    assert [(event.policy, event.error) for event in changes] == [
        ("a", "TimeoutError"),
        ("b", "TimeoutError"),
    ]


async def test_a_timeout_of_a_loop_that_is_busy_is_no_news_of_a_store_that_just_answered(
    clock: ManualClock, observer: RecordingObserver, storage: Faulty
) -> None:
    store = shared(storage, clock, timeout=0.1)
    limiter = RateCounter("client", "9/minute", store=store, clock=clock, observer=observer)
    await limiter.hit("a")
    storage.gate, storage.takes = anyio.Event(), 0.3
    for _ in range(3):
        assert (await limiter.hit("a")).allowed
        assert store.is_up
    assert decided(limiter, "local") == 3
    # By now it answered 1.2 seconds ago: that is news.
    await limiter.hit("a")
    assert not store.is_up


@pytest.mark.clock("20 ms for one turn of the loop")
async def test_one_that_got_its_turn_too_late_does_without_the_store_which_stays_up(
    clock: ManualClock, storage: Faulty, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("postfacta_adapters.limits._MOST_AT_ONCE", 1)
    store = SharedStore(storage, timeout=0.02, clock=clock)
    limiter = RateCounter("client", "9/minute", store=store, clock=clock)
    release = anyio.Event()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(store.ask, release.wait)
        await anyio.wait_all_tasks_blocked()
        assert (await limiter.hit("a")).allowed
        assert (storage.asked, decided(limiter, "local")) == (0, 1)
        release.set()
    assert store.is_up
    assert (await limiter.hit("a")).allowed
    assert (storage.asked, decided(limiter, "allowed")) == (1, 1)


async def test_at_most_16_requests_ask_the_store_at_once(
    clock: ManualClock, storage: Faulty
) -> None:
    store = SharedStore(storage, timeout=5.0, clock=clock)
    limiter = RateCounter("client", "99/minute", store=store, clock=clock)
    storage.gate = anyio.Event()
    async with anyio.create_task_group() as tasks:
        for _ in range(20):
            tasks.start_soon(limiter.hit, "a")
        await anyio.wait_all_tasks_blocked()
        assert storage.asked == 16
        storage.gate.set()
    assert (storage.asked, decided(limiter, "allowed")) == (20, 20)


async def test_a_caller_that_leaves_tells_nothing_of_the_store(
    clock: ManualClock, observer: RecordingObserver, storage: Faulty
) -> None:
    limiter = RateCounter(
        "client", "5/minute", store=shared(storage, clock), clock=clock, observer=observer
    )
    storage.gate = anyio.Event()
    with anyio.move_on_after(0.001):
        await limiter.hit("a")
    store = limiter.store
    assert store is not None
    assert numbers(limiter)["postfacta_ratelimit_store_up", "client"] == 1.0
    assert (decided(limiter, "allowed"), observer.of(StoreChanged)) == (0, [])
    # Nor does one that leaves while it tries a store that was away: the next one tries.
    storage.gate, storage.error = None, OSError()
    await limiter.hit("a")
    clock.advance(1.0)
    storage.gate, storage.error = anyio.Event(), None
    with anyio.move_on_after(0.001):
        await limiter.hit("a")
    assert not store.is_up
    storage.gate = None
    assert (await limiter.hit("a")).allowed
    assert numbers(limiter)["postfacta_ratelimit_store_up", "client"] == 1.0


async def test_news_from_before_the_last_change_changes_nothing(
    clock: ManualClock, storage: Faulty
) -> None:
    store = shared(storage, clock)
    outcomes: dict[str, anyio.Event] = {
        name: anyio.Event() for name in ("fails", "fails late", "answers late")
    }

    async def work(name: str) -> None:
        await outcomes[name].wait()
        if name.startswith("fails"):
            raise OSError

    async with anyio.create_task_group() as tasks:
        for name in outcomes:
            tasks.start_soon(store.ask, partial(work, name))
        for outcome in outcomes.values():
            await anyio.wait_all_tasks_blocked()
            outcome.set()
    assert not store.is_up
    # One failure, one second; then one trial at a time.
    assert not await store.ask(anyio.lowlevel.checkpoint)
    clock.advance(1.0)
    assert await store.ask(anyio.lowlevel.checkpoint)
    assert store.is_up


async def test_while_one_request_tries_the_store_the_others_do_not_wait(
    clock: ManualClock, storage: Faulty
) -> None:
    limiter = RateCounter("client", "5/minute", store=shared(storage, clock), clock=clock)
    storage.error = OSError()
    await limiter.hit("a")
    clock.advance(1.0)
    storage.gate, storage.error = anyio.Event(), None
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(limiter.hit, "a")
        await anyio.wait_all_tasks_blocked()
        asked = storage.asked
        assert (await limiter.hit("a")).allowed
        assert (storage.asked, decided(limiter, "local")) == (asked, 2)
        storage.gate.set()


class Client:
    """What a storage of `limits` keeps of its server."""

    def __init__(self) -> None:
        self.closed = 0
        self.storage = self

    async def aclose(self) -> None:
        self.closed += 1
        raise OSError("it was gone already")


async def test_a_store_is_closed_whatever_its_client_says_and_one_without_a_client_too(
    storage: Faulty, clock: ManualClock
) -> None:
    async with shared(storage, clock) as store:
        assert (await RateCounter("client", "1/minute", store=store).hit("a")).allowed
    client = Client()
    storage.bridge = client
    async with shared(storage, clock):
        assert client.closed == 0
    assert client.closed == 1


async def test_a_limiter_that_is_off_or_in_shadow_refuses_nothing_whatever_the_store_does(
    clock: ManualClock, storage: Faulty
) -> None:
    store = shared(storage, clock)
    limiter = RateCounter("client", "1/minute", store=store, mode="off", clock=clock)
    assert (await limiter.hit("a")).allowed
    assert storage.asked == 0
    limiter.mode = "shadow"
    assert [(await limiter.hit("a")).allowed for _ in range(3)] == [True, True, True]
    assert len(storage.hits) == 1
    storage.error = OSError()
    assert [(await limiter.hit("a")).allowed for _ in range(2)] == [True, True]
    assert (decided(limiter, "local", "shadow"), decided(limiter, "limited", "shadow")) == (1, 3)


async def test_an_observer_that_raises_changes_no_decision(
    clock: ManualClock, storage: Faulty
) -> None:
    def raises(event: object) -> None:
        raise ZeroDivisionError

    limiter = RateCounter(
        "client", "5/minute", store=shared(storage, clock), observer=raises, clock=clock
    )
    storage.error = OSError()
    assert (await limiter.hit("a")).allowed


async def test_a_window_of_the_store_slides(clock: ManualClock) -> None:
    limiter = RateCounter(
        "client", "3/minute", store=SharedStore(HitLists(clock), clock=clock, timeout=5.0)
    )
    assert [(await limiter.hit("a")).allowed for _ in range(4)] == [True, True, True, False]
    clock.advance(121.0)
    assert (await limiter.hit("a")).remaining == 2


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_storage_of_limits_can_be_given_by_its_address() -> None:
    # A busy machine takes longer than its 50 ms.
    limiter = RateCounter("client", "1/minute", store=SharedStore("async+memory://", timeout=5.0))
    assert [(await limiter.hit("a")).allowed for _ in range(2)] == [True, False]


def test_the_storage_of_limits_that_grows_with_its_keys_is_never_chosen_by_us() -> None:
    assert RateCounter("client", "1/minute").store is None


def test_no_more_is_allowed_whenever_threads_change_places() -> None:
    with every() as case:
        for seed in range(10):
            with case(seed):
                limiter = RateCounter("partner", "3/minute", max_keys=2, clock=ManualClock())
                allowed = list[str]()

                def work(limiter: RateCounter = limiter, allowed: list[str] = allowed) -> None:
                    for number in range(4):
                        keys = "a", f"new {number % 2}"
                        allowed.extend(key for key in keys if limiter.hit_now(key).allowed)

                interleaved([work, work, work], within="core/limits/", seed=seed)
                assert allowed.count("a") == 3
                counts = {
                    sample.labels[1]: sample.value
                    for sample in limiter.tally()
                    if sample.labels[1:]
                }
                assert counts == {"allowed": len(allowed), "limited": 24 - len(allowed)}
