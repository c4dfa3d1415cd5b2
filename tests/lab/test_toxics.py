"""What toxics do next follows from the first chunk and from how far they have come, without a clock or a socket."""

from __future__ import annotations

import math

import pytest

from postfacta_lab.proxy.toxics import Chunk, Stage, Step, Toxic, attributes_of, next_step

DATA = Chunk(b"x" * 1000, 10.0, 0.5)
END = Chunk(b"", 10.0, 0.5)


def stages(*toxics: tuple[str, dict[str, int]], free: float = 5.0) -> list[Stage]:
    return [
        Stage(Toxic(kind, kind, "upstream", 1.0, attributes_of(kind, given)), acts=True, free=free)
        for kind, given in toxics
    ]


LATE = ("latency", {"latency": 2000, "jitter": 1000})
NARROW = ("bandwidth", {"rate": 5})
CUT = ("slicer", {"average_size": 100, "delay": 1_000_000})
SWALLOW = ("timeout", {"timeout": 0})
SWALLOW_A_WHILE = ("timeout", {"timeout": 4000})
RESET = ("reset_peer", {"timeout": 3000})
HOLD = ("slow_close", {"delay": 7000})


@pytest.mark.parametrize(
    ("chunk", "toxics", "expected"),
    [
        (None, [], ("wait", math.inf, 0)),
        (DATA, [], ("pass", 10.0, 1000)),
        (END, [], ("end", 11.0, 0)),  # after the bytes before it
        (DATA, [LATE], ("pass", 12.5, 1000)),
        (DATA, [LATE, LATE], ("pass", 15.0, 1000)),
        (END, [LATE], ("end", 11.0, 0)),
        (DATA, [NARROW], ("pass", 10.1, 500)),
        # A smaller piece takes less time, wherever it is cut.
        (DATA, [NARROW, CUT], ("pass", 10.02, 100)),
        (DATA, [CUT, NARROW], ("pass", 10.02, 100)),
        (DATA, [NARROW, LATE], ("pass", 12.6, 500)),
        (DATA, [("limit_data", {"bytes": 30})], ("pass", 10.0, 30)),
        (DATA, [("limit_data", {"bytes": 0})], ("end", 5.0, 1000)),
        (None, [("limit_data", {"bytes": 0})], ("wait", math.inf, 0)),
        (DATA, [SWALLOW, LATE], ("swallow", 10.0, 1000)),
        (None, [SWALLOW_A_WHILE], ("end", 9.0, 0)),
        (None, [SWALLOW_A_WHILE, HOLD], ("end", 16.0, 0)),
        (END, [SWALLOW], ("end", 11.0, 0)),
        (None, [RESET], ("wait", math.inf, 0)),
        (DATA, [RESET, LATE], ("reset", 13.0, 1000)),
        (END, [RESET], ("reset", 14.0, 0)),
        (DATA, [HOLD], ("pass", 10.0, 1000)),
        (END, [HOLD, HOLD], ("end", 25.0, 0)),
    ],
)
def test_a_step_is_what_all_toxics_make_of_it(
    chunk: Chunk | None, toxics: list[tuple[str, dict[str, int]]], expected: tuple[str, float, int]
) -> None:
    step, _ = next_step(chunk, stages(*toxics), 11.0)
    fate, due, size = expected
    assert (step.fate, step.size) == (fate, size)
    assert step.due == pytest.approx(due)


def test_a_toxic_that_does_not_act_changes_nothing() -> None:
    (stage,) = stages(SWALLOW)
    stage.acts = False
    assert next_step(DATA, [stage], 11.0)[0] == Step("pass", 10.0, 1000, 0.5)


def test_a_line_is_free_again_when_a_piece_is_through() -> None:
    line = stages(NARROW)
    dues: list[float] = []
    for _ in range(3):
        step, line = next_step(DATA, line, 11.0)
        dues.append(step.due)
    assert dues == pytest.approx([10.1, 10.2, 10.3])


def test_what_was_only_worked_out_has_not_happened() -> None:
    before = stages(NARROW, ("limit_data", {"bytes": 30}))
    first, after = next_step(DATA, before, 11.0)
    assert next_step(DATA, before, 11.0) == (first, after)
    assert [(stage.free, stage.sent) for stage in before] == [(5.0, 0), (5.0, 0)]
    assert next_step(None, after, 11.0)[0].fate == "end"
