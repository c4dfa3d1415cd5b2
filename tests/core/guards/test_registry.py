"""The registry lists the guards that are alive, and finds each by kind and name."""

from __future__ import annotations

import gc

import pytest

from postfacta_core.guards._guard import Guard, Registry, registry
from postfacta_core.guards.breaker import CircuitBreaker
from postfacta_core.guards.bulkhead import Bulkhead
from postfacta_core.guards.retry import Retry
from tests.kit.every import every


def test_a_guard_is_listed_with_settings_and_status_while_it_lives() -> None:
    bulkhead = Bulkhead("reports", 4, max_waiting=2)
    retry = Retry("reports")
    assert [(each.kind, each.name) for each in registry] == [
        ("bulkhead", "reports"),
        ("retry", "reports"),
    ]
    found = registry.find("bulkhead", "reports")
    assert found is bulkhead
    assert found.settings() == {
        "slots": 4,
        "max_waiting": 2,
        "max_wait": 1.0,
        "lends": False,
        "mode": "enforce",
    }
    assert found.status() == {"used": 0, "waiting": 0}
    assert registry.find("retry", "reports").status() == {"budget_tokens": 100}
    del found, bulkhead, retry
    gc.collect()
    assert list(registry) == []


def test_what_is_not_listed_is_answered_by_what_is() -> None:
    _kept = Retry("billing")
    with pytest.raises(KeyError, match=r"no breaker 'billing'; there are \['retry billing'\]"):
        registry.find("breaker", "billing")


def test_a_name_that_another_line_has_taken_is_refused() -> None:
    first = Retry("billing")
    with pytest.raises(
        ValueError,
        match=r"^Retry\.name must be a name of its own: 'billing' at .*:\d+ was given at",
    ):
        Retry("billing")
    assert registry.find("retry", "billing") is first


def test_a_name_passes_on_where_the_same_line_makes_it_again() -> None:
    guards = [Retry("billing") for _ in range(2)]
    assert registry.find("retry", "billing") is guards[-1]


def test_a_guard_that_cannot_be_made_takes_no_name() -> None:
    with pytest.raises(ValueError, match="attempts"):
        Retry("billing", attempts=0)
    assert list(registry) == []


def test_a_registry_that_was_cleared_has_no_names() -> None:
    one, kept = Registry(), Retry("billing")
    one.add(kept)
    one.clear()
    assert list(one) == []


def test_a_guard_that_only_the_collector_can_find_holds_no_name() -> None:
    CircuitBreaker("billing").force_open()
    assert CircuitBreaker("billing").status()["state"] == "closed"


class Counted(Guard):
    """A guard of a team's own, as docs/how-to/pipeline.md has it."""

    kind = "counter"

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._announce()


class Tagged(Counted):
    """One more constructor between the call and the base."""

    def __init__(self, name: str) -> None:
        super().__init__(name=name)


def test_a_guard_of_ones_own_has_a_name_of_its_own() -> None:
    with every() as case:
        for kind in (Counted, Tagged):
            with case(kind.__name__):
                registry.clear()
                first = kind("billing")
                with pytest.raises(
                    ValueError, match=rf"{kind.__name__}.name must be a name of its own"
                ):
                    kind("billing")
                assert first.made_at.startswith(__file__)
                # The same line may make it again.
                again = [kind("books") for _ in range(2)]
                assert again[0].made_at == again[1].made_at
