"""A function that a guard cannot serve is refused before it runs, and the answer of one that ran is never lost."""

from __future__ import annotations

import functools
import types
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from typing import Any, Final

import anyio
import pytest

from postfacta_core import Bulkhead, CircuitBreaker, Fallback, Hedge, Pipeline, Retry, Timeout
from tests.kit.every import every

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
}
PLAIN: Final = ("Retry", "Bulkhead", "CircuitBreaker")
"""Those that serve plain functions too."""
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


def test_what_cannot_be_guarded_is_refused_at_decoration() -> None:
    cases: dict[str, tuple[Any, str]] = {
        "plain": (
            Payments().pay,
            "pay is a plain one, which would block the event loop: make it an async def",
        ),
        "builtin": (len, "len is a plain one"),
        "partial": (functools.partial(Payments().pay, 1), "is a plain one"),
        "generator": (Payments().numbers, "runs after the call. Guard the calls inside of it"),
        "async-generator": (
            Payments().numbers_later,
            "runs after the call. Guard the calls inside of it",
        ),
        "static": (staticmethod(Payments().pay), "put @staticmethod above it"),
        "class": (classmethod(_of_class), "put @classmethod above it"),
        "none": (None, "decorates functions, not None"),
        "text": ("pay", "decorates functions, not 'pay'"),
    }
    with every() as case:
        for guard in GUARDS:
            for name, (function, reason) in cases.items():
                if guard in PLAIN and "is a plain one" in reason:
                    continue
                with case(guard, name), pytest.raises(TypeError, match=f"^{guard} .*{reason}"):
                    GUARDS[guard]()(function)


def test_plain_functions_of_each_kind_are_decorated() -> None:
    payments = Payments()
    with every() as case:
        for guard in PLAIN:
            for name, function in (
                ("plain", payments.pay),
                ("partial", functools.partial(payments.pay)),
            ):
                with case(guard, name):
                    guarded = CALLERS[guard]()(function)
                    assert guarded(7) == "paid 7"


async def test_async_functions_of_each_kind_are_decorated() -> None:
    guards: list[str] = [*GUARDS, "CircuitBreaker"]
    functions: dict[str, Any] = {
        "async": Payments().pay_later,
        "object": AsyncObject(),
        "partial": functools.partial(Payments().pay_later),
    }
    with every() as case:
        for guard in guards:
            for name, function in functions.items():
                with case(guard, name):
                    # `wraps` takes the name of a function, which a partial and an object do not
                    # have.
                    guarded = CALLERS[guard]()(function)
                    assert await guarded(7) == "paid 7"


async def test_the_answer_of_a_plain_function_is_not_lost() -> None:
    with every() as case:
        for guard in CALLERS:
            with case(guard):
                payments = Payments()
                assert await CALLERS[guard]().call(payments.pay, 7) == "paid 7"
                assert payments.made == 1


async def test_the_answer_of_a_plain_function_is_not_lost_in_any_mode() -> None:
    with every() as case:
        for guard in MODED:
            for mode in ("off", "shadow"):
                with case(guard, mode):
                    payments, policy = Payments(), CALLERS[guard]()
                    policy.mode = mode
                    assert await policy.call(payments.pay, 7) == "paid 7"
                    assert payments.made == 1


async def test_a_fallback_keeps_the_answer_of_a_plain_function() -> None:
    with every() as case:
        for mode in ("off", "shadow", "enforce"):
            with case(mode):
                payments, fallback = Payments(), Fallback("billing", key=str, mode=mode)
                answer: Any = await fallback.ask(payments.pay, 7)  # type: ignore[arg-type] # it is no coroutine function
                assert (answer.value, payments.made) == ("paid 7", 1)


async def test_a_function_that_returns_a_coroutine_is_awaited() -> None:
    payments = Payments()
    with every() as case:
        for guard in CALLERS:
            with case(guard):
                assert await CALLERS[guard]().call(lambda: payments.pay_later(7)) == "paid 7"


@types.coroutine
def pay_as_of_old() -> Generator[None, None, str]:
    """Return what was awaitable before there was `async def`."""
    yield from anyio.lowlevel.checkpoint().__await__()
    return "paid 7"


async def test_a_coroutine_made_of_a_generator_is_awaited() -> None:
    with every() as case:
        for guard in CALLERS:
            with case(guard):
                assert await CALLERS[guard]().call(pay_as_of_old) == "paid 7"


async def test_a_generator_function_is_refused_before_its_body_begins() -> None:
    with every() as case:
        for guard in CALLERS:
            for function in ("numbers", "numbers_later"):
                with case(guard, function):
                    payments = Payments()
                    # In a pipeline the innermost guard sees the function.
                    owner = "Retry" if guard == "Pipeline" else guard
                    with pytest.raises(
                        TypeError, match=rf"^{owner} cannot .*Guard the calls inside of it"
                    ):
                        await CALLERS[guard]().call(getattr(payments, function))
                    assert payments.made == 0


async def test_an_error_of_a_plain_function_is_tried_again() -> None:
    tries: list[int] = []

    def flaky() -> str:
        tries.append(1)
        if len(tries) == 1:
            raise ConnectionError
        return "answer"

    retry = Retry("billing", on=ConnectionError, luck=lambda: 0.999)
    assert await retry.call(flaky) == "answer"  # type: ignore[arg-type] # it is no coroutine function


def test_a_plain_function_that_returns_a_coroutine_is_refused_by_the_breaker() -> None:
    payments = Payments()

    @CircuitBreaker("billing")
    def pay() -> Any:
        return payments.pay_later(7)

    with pytest.raises(
        TypeError, match="a plain function that returns a coroutine: make it an async def"
    ):
        pay()
    assert payments.made == 0
