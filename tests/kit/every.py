"""Run all cases of a test in one item, and list every case that fails.

    with every() as case:
        for name, text in MODULES.items():
            with case(name):
                assert len(text) < 10_000

pytest's own `subtests` cost 1.3 ms a case, and 6 ms under `pytest -n`: too much for a thousand
cases.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager

import pytest

__all__ = ["Case", "every"]

Case = Callable[..., AbstractContextManager[None]]

_LONGEST_LABEL = 160
_LONGEST_MESSAGE = 1000


@contextmanager
def every() -> Generator[Case]:
    """Give a context for each case, by its label.

    At the end, fail with all cases that failed, or if there was none.

    A case that fails ends alone: the cases after it run. `pytest.skip` in a case is a failure.
    """
    __tracebackhide__ = True
    count = 0
    failures: list[tuple[str, BaseException]] = []

    @contextmanager
    def case(*label: object) -> Generator[None]:
        nonlocal count
        count += 1
        try:
            yield
        except (Exception, pytest.fail.Exception, pytest.skip.Exception) as error:  # noqa: BLE001 - reported below
            failures.append((" ".join(map(str, label))[:_LONGEST_LABEL], error))

    try:
        yield case
    except Exception as error:
        if failures:
            error.add_note(_report(failures, count))
        raise
    if failures:
        raise AssertionError(_report(failures, count)) from failures[0][1]
    assert count, "no case ran"


def _report(failures: list[tuple[str, BaseException]], count: int) -> str:
    lines = [f"{len(failures)} of {count} cases failed"]
    for label, error in failures:
        line = traceback.extract_tb(error.__traceback__)[1].lineno
        lines.append(
            f"- {label} (line {line}): {type(error).__name__}: {str(error)[:_LONGEST_MESSAGE]}"
        )
    return "\n".join(lines)
