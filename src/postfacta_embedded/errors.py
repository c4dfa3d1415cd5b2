"""The one error of this package: what failed, why, and what to do."""

from __future__ import annotations


class EmbeddedPostgresError(Exception):
    """PostgreSQL cannot be started, kept or stopped as asked.

    Args:
        failure: What failed, as a clause.
        why: The reason, as far as it is known; it may have several lines.
        do: What the reader can do about it.
    """

    def __init__(self, failure: str, why: str, do: str) -> None:
        # All three go to Exception by position, so that the error survives pickle and copy.
        super().__init__(failure, why, do)
        self.failure = failure
        self.why = why
        self.do = do

    def __str__(self) -> str:
        return f"{self.failure}: {self.why}\nWhat to do: {self.do}"
