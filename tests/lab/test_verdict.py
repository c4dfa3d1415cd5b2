"""One table of exit codes for chaos, load and drain.

Green means that something was measured and held.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from postfacta_lab.verdict import Verdict, nothing_measured, overall

PASS, FAIL, INVALID, NOTHING = Verdict


@pytest.mark.parametrize(
    ("parts", "whole"),
    [
        ((), NOTHING),
        ((NOTHING, NOTHING), NOTHING),
        ((PASS, PASS), PASS),
        ((PASS, NOTHING), INVALID),
        ((PASS, INVALID), INVALID),
        ((INVALID, FAIL, NOTHING), FAIL),
    ],
)
def test_several_parts_are_green_only_if_each_is(parts: Sequence[Verdict], whole: Verdict) -> None:
    assert overall(parts) is whole


def test_the_reason_says_what_to_do() -> None:
    assert "is the address right" in nothing_measured(3, {"ConnectError": 3})
    assert "name paths of the service" in nothing_measured(3, {"404": 2, "ConnectError": 1})
    assert nothing_measured(0, {}) == "no request was measured"
    assert not nothing_measured(3, {"404": 2})
