"""Which tests give a part of the product a time-out that a slow machine may miss.

A time-out below `LEAST` seconds is either the subject, and then its time is virtual, or beside the
point, and then it can be longer. A module has virtual time where it names one of `_VIRTUAL`, or
where a `conftest.py` lists it in `IN_VIRTUAL_TIME`.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

__all__ = ["LEAST", "PRESENT", "short_timeouts", "virtual_modules"]

LEAST: Final = 5.0
"""Seconds."""

# How many a module has. These may only become fewer: fair time covers a standstill, not a slow
# machine.
PRESENT: Final[Mapping[str, int]] = {
    "adapters/borrowers.py": 4,
    "adapters/test_psycopg.py": 3,
    "adapters/test_sqlalchemy.py": 1,
    "app/conftest.py": 1,
    "app/identity/test_gotrue.py": 1,
    "app/test_db_reads.py": 1,
    "app/timeline/test_keeping.py": 1,
    "attack/hall.py": 2,
    "attack/test_headers.py": 1,
    "attack/test_settings_together.py": 2,
    "core/asgi/test_operator.py": 1,
    "core/asgi/test_options.py": 2,
    "core/asgi/test_options_routes.py": 2,
    "core/asgi/test_response.py": 1,
    "core/deadlines/test_limits.py": 1,
    "core/drain/test_course.py": 1,
    "core/drain/test_lifecycle.py": 5,
    "core/guards/test_schedule.py": 2,
    "core/guards/test_worlds.py": 1,
    "postgres/guarded.py": 1,
    "postgres/postgres.py": 2,
    "postgres/test_connecting.py": 2,
    "postgres/test_database.py": 1,
    "postgres/test_database_deadlines.py": 1,
    "postgres/test_database_outages.py": 4,
    "postgres/test_guarded.py": 2,
    "postgres/test_monitor.py": 2,
    "slo/test_prometheus.py": 2,
}
_VIRTUAL: Final = frozenset(
    {"ManualClock", "VirtualTimeLoop", "in_virtual_time", "run_in_virtual_time", "MockClock"}
)
# Options that end with `timeout`, the wait for a slot, and what takes its time-out first. Neither
# `fail_after` nor `move_on_after`: they are the test's own.
_OPTIONS: Final = ("timeout", "max_wait")
_CALLS: Final = frozenset({"Timeout", "time_limit"})


def short_timeouts(text: str) -> list[int]:
    """Return the lines of a module that give a time-out which is too short; none if it is virtual."""
    tree = ast.parse(text)
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    if names & _VIRTUAL:
        return []
    calls = (node for node in ast.walk(tree) if isinstance(node, ast.Call))
    return sorted(call.lineno for call in calls if any(map(_is_short, _timeouts(call))))


def virtual_modules(folder: Path) -> set[Path]:
    """Return the modules of tests that a `conftest.py` below the folder lists as virtual."""
    modules: set[Path] = set()
    for conftest in folder.rglob("conftest.py"):
        for node in ast.parse(conftest.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "IN_VIRTUAL_TIME":
                stories = ast.literal_eval(node.value)
                modules.update(_module(conftest.parent, story) for story in stories)
    return modules


def _module(folder: Path, story: str) -> Path:
    """Return the module that a story names: `guards/test_retry`, or `silence` beside the conftest."""
    parent, _, name = story.rpartition("/")
    parts = [] if parent in ("", folder.name) else [parent]
    return folder.joinpath(*parts, f"test_{name.removeprefix('test_')}.py")


def _timeouts(call: ast.Call) -> Iterator[ast.expr]:
    name = ast.unparse(call.func).rpartition(".")[2]
    if name in _CALLS and call.args:
        yield call.args[0]
    for option in call.keywords:
        if option.arg is not None and option.arg.endswith(_OPTIONS):
            yield option.value


def _is_short(value: ast.expr) -> bool:
    is_number = isinstance(value, ast.Constant) and type(value.value) in (int, float)
    return is_number and 0 < ast.literal_eval(value) < LEAST
