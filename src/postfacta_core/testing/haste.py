"""Skip the waits between tries in a test."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager
from typing import Any, cast

from ..clock import hasten


def testing_mode(*, attempts: int | None = None) -> AbstractContextManager[None]:  # noqa: PT028 - it is no test
    """Skip the waits of every `Retry` of this process inside the block.

    All else is as it is in production: what is tried again, the budget, the deadline, the counts, the events. It
    holds for all threads and tasks, those of a server or a `TestClient` too. Blocks may be nested; the innermost
    counts. In virtual time there is no need for it.

    Args:
        attempts: The most tries of a call, where its own setting is not lower; 1 makes a test see the first error.

    Raises:
        ValueError: If the attempts are below 1.
    """
    if attempts is not None and attempts < 1:
        raise ValueError(f"needs 1 attempt or more, or None for as many as are set: {attempts}")
    return hasten(math.inf if attempts is None else attempts)


# Its name begins as that of a test: pytest would run it in each module that imports it.
cast("Any", testing_mode).__test__ = False
