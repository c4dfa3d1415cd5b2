"""On a fixed course of traffic the overload limiter has the same numbers each time.

A change of one is meant, or a defect.
"""

from __future__ import annotations

import json

from tests.core.limits.courses import FILE, courses
from tests.kit.every import every

KEPT: dict[str, list[str]] = json.loads(FILE.read_text())


def test_each_course_has_the_numbers_that_were_written_down() -> None:
    played = dict(courses())
    assert played.keys() == KEPT.keys()
    with every() as case:
        for name, notes in played.items():
            with case(name):
                differ = [
                    at
                    for at, (was, now) in enumerate(zip(KEPT[name], notes, strict=True))
                    if was != now
                ]
                assert not differ, (
                    f"from note {differ[0]} on: {KEPT[name][differ[0]]} became {notes[differ[0]]}"
                )
