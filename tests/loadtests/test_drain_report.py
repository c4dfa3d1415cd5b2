"""The page of drains has one row for all servers that did the same."""

from __future__ import annotations

from loadtests.drain.report import markdown
from postfacta_lab.drain.result import Result


def test_servers_that_did_the_same_share_a_row() -> None:
    def result(server: str, failed: str, seconds: str, *misses: str) -> Result:
        cells = {"failed": failed, "in flight": "15/15", "exit": f"0 after {seconds} s"}
        return Result("stop", server, cells, list(misses))

    text = markdown(
        [
            result("uvicorn", "0 / 457", "25.1"),
            result("granian", "0 / 9", "9.8"),
            result("daphne", "1 / 457", "25.1", "one request failed"),
            result("hypercorn", "0 / 442", "25.1"),
        ]
    )
    assert text.splitlines() == [
        "| server | failed | in flight | exit | goals |",
        "| --- | --- | --- | --- | --- |",
        "| uvicorn, granian, hypercorn | 0 / 9 to 457 | 15/15 | 0 after 9.8 to 25.1 s | reached |",
        "| daphne | 1 / 457 | 15/15 | 0 after 25.1 s | **missed** |",
    ]
