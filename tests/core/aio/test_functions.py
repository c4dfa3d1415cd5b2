"""A function that a guard cannot serve is refused before it runs, and the answer of one that ran is never lost."""

from __future__ import annotations

import functools
import types
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from typing import Any, Final

import anyio
import pytest

from postfacta_core import Bulkhead, CircuitBreaker, Fallback, Hedge, Outgoing, Pipeline, Retry, Timeout

GUARDS: Final[dict[str, Callable[[], Any]]] = {
    "Retry": lambda: Retry("billing"),
    "Timeout": lambda: Timeout(5),
    "Hedge": lambda: Hedge("billing", delay=5.0),
    "Bulkhead": lambda: Bulkhead("billing", 4),
    "Pipeline": lambda: Pipeline(Timeout(5), Retry("billing")),
}
CALLERS: Final[dict[str, Callable[[], Any]]] = {
    **GUARDS,
    "CircuitBreaker": lambda: CircuitBreaker("billing"),
    "Outgoing": lambda: Outgoing("billing"),
    "Outgoing with guards": lambda: Outgoing("billing", Retry("billing")),
}
MODED: Final = ("Retry", "Hedge", "Bulkhead", "CircuitBreaker")


class Payments:
    """Counts what was paid."""

    def __init__(self) -> None:
        self.made = 0

    def pay(self, amount: int) -> str:
        """Pay at once."""
        self.made += 1
        return f"paid {amount}"

    async def pay_later(self, amount: int) -> str:
        """Pay after a turn of the loop."""
        await anyio.lowlevel.checkpoint()
        return self.pay(amount)

    def numbers(self) -> Iterator[int]:
        """Pay while it is read."""
        self.made += 1
        yield self.made

    async def numbers_later(self) -> AsyncIterator[int]:
        """Pay while it is read."""
        self.made += 1
        yield self.made


def _of_class(kind: type[object]) -> str:
    return kind.__name__


class AsyncObject:
    """Is called like an async function."""

    async def __call__(self, amount: int) -> str:
        return f"paid {amount}"


@pytest.mark.parametrize("guard", GUARDS)
@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (Payments().pay, "pay is a plain one, which would block the event loop: make it an async def"),
        (len, "len is a plain one"),
        (functools.partial(Payments().pay, 1), "is a plain one"),
        (Payments().numbers, "runs after the call. Guard the calls inside of it"),
        (Payments().numbers_later, "runs after the call. Guard the calls inside of it"),
        (staticmethod(Payments().pay), "put @staticmethod above it"),
        (classmethod(_of_class), "put @classmethod above it"),
        (None, "decorates functions, not None"),
        ("pay", "decorates functions, not 'pay'"),
    ],
    ids=["plain", "builtin", "partial", "generator", "async-generator", "static", "class", "none", "text"],
)
def test_what_cannot_be_guarded_is_refused_at_decoration(guard: str, function: Any, reason: str) -> None:
    with pytest.raises(TypeError, match=f"^{guard} .*{reason}"):
        GUARDS[guard]()(function)


@pytest.mark.parametrize("guard", [*GUARDS, "CircuitBreaker"])
@pytest.mark.parametrize(
    "function",
    [Payments().pay_later, AsyncObject(), functools.partial(Payments().pay_later)],
    ids=["async", "object", "partial"],
)
async def test_async_functions_of_each_kind_are_decorated(guard: str, function: Any) -> None:
    # `wraps` takes the name of a function, which a partial and an object do not have.
    guarded = CALLERS[guard]()(function)
    assert await guarded(7) == "paid 7"


@pytest.mark.parametrize("guard", CALLERS)
async def test_the_answer_of_a_plain_function_is_not_lost(guard: str) -> None:
    payments = Payments()
    assert await CALLERS[guard]().call(payments.pay, 7) == "paid 7"
    assert payments.made == 1


@pytest.mark.parametrize("guard", MODED)
@pytest.mark.parametrize("mode", ["off", "shadow"])
async def test_the_answer_of_a_plain_function_is_not_lost_in_any_mode(guard: str, mode: str) -> None:
    payments, policy = Payments(), CALLERS[guard]()
    policy.mode = mode
    assert await policy.call(payments.pay, 7) == "paid 7"
    assert payments.made == 1


@pytest.mark.parametrize("mode", ["off", "shadow", "enforce"])
async def test_a_fallback_keeps_the_answer_of_a_plain_function(mode: str) -> None:
    payments, fallback = Payments(), Fallback[str]("billing", mode=mode)
    answer: Any = await fallback.call("key", payments.pay, 7)  # type: ignore[arg-type] # it is no coroutine function
    assert (answer.value, payments.made) == ("paid 7", 1)


@pytest.mark.parametrize("guard", CALLERS)
async def test_a_function_that_returns_a_coroutine_is_awaited(guard: str) -> None:
    payments = Payments()
    assert await CALLERS[guard]().call(lambda: payments.pay_later(7)) == "paid 7"


@types.coroutine
def pay_as_of_old() -> Generator[None, None, str]:
    """Return what was awaitable before there was `async def`."""
    yield from anyio.lowlevel.checkpoint().__await__()
    return "paid 7"


@pytest.mark.parametrize("guard", CALLERS)
async def test_a_coroutine_made_of_a_generator_is_awaited(guard: str) -> None:
    assert await CALLERS[guard]().call(pay_as_of_old) == "paid 7"


@pytest.mark.parametrize("guard", CALLERS)
@pytest.mark.parametrize("function", ["numbers", "numbers_later"])
async def test_a_generator_function_is_refused_before_its_body_begins(guard: str, function: str) -> None:
    payments = Payments()
    with pytest.raises(TypeError, match="Guard the calls inside of it"):
        await CALLERS[guard]().call(getattr(payments, function))
    assert payments.made == 0


async def test_an_error_of_a_plain_function_is_tried_again() -> None:
    tries: list[int] = []

    def flaky() -> str:
        tries.append(1)
        if len(tries) == 1:
            raise ConnectionError
        return "answer"

    retry = Retry("billing", retryable=ConnectionError, luck=lambda: 0.999)
    assert await retry.call(flaky) == "answer"  # type: ignore[arg-type] # it is no coroutine function


def test_a_plain_function_that_returns_a_coroutine_is_refused_by_the_breaker() -> None:
    payments = Payments()

    @CircuitBreaker("billing")
    def pay() -> Any:
        return payments.pay_later(7)

    with pytest.raises(TypeError, match="a plain function that returns a coroutine: make it an async def"):
        pay()
    assert payments.made == 0
