"""What a service keeps decides which checks ask it about a database."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from postfacta_lab.assess.checks import GROUPS
from postfacta_lab.assess.model import CheckResult, Outcome
from postfacta_lab.assess.runner import Options, run
from postfacta_lab.assess.spec import Spec

KEEPER = Path(__file__).parent / "keeper.py"
OF_A_DATABASE = {name for group in GROUPS if "database" in group.needs for name in group.ids}
OF_WRITES = {"SHUT-1", "DATA-1", "DATA-2", "DATA-3", "SECU-2"}
Keep = Callable[..., dict[str, CheckResult]]


@pytest.fixture
def keep(programs: None, tmp_path: Path) -> Keep:
    """Ask a service that has no database; return what was found, by check."""

    def keep_(names: set[str], keeps: str = "", mode: str = "files") -> dict[str, CheckResult]:
        data: dict[str, Any] = {
            "service": {
                "start": [sys.executable, str(KEEPER), mode, str(tmp_path)],
                "grace": 5,
                "live": "/",
                "metrics": "/metrics",
            },
            "read": {"path": "/" if mode == "stateless" else "/notes/{id}"},
        }
        if mode != "stateless":
            data["write"] = {"path": "/notes", "json": {"text": "{unique}"}}
        if keeps:
            data["service"]["keeps"] = keeps
        spec = Spec.of(data, {}, tmp_path)
        options = Options(only=tuple(names), busy=2)
        return asyncio.run(run(spec, {}, options)).results

    return keep_


def test_a_service_that_keeps_nothing_is_asked_neither_for_rows_nor_for_a_database(
    keep: Keep,
) -> None:
    results = keep(OF_A_DATABASE | OF_WRITES, "nothing", "stateless")
    for name in OF_A_DATABASE - {"STRM-3"} | OF_WRITES:
        assert results[name].outcome is Outcome.NOT_APPLICABLE, name
        assert results[name].evidence.startswith("nothing to ask: "), name


def test_a_service_that_does_not_say_what_it_keeps_has_missing_checks(keep: Keep) -> None:
    results = keep(OF_A_DATABASE | OF_WRITES, mode="stateless")
    for name in OF_A_DATABASE - {"STRM-3"} | OF_WRITES:
        assert results[name].outcome is Outcome.NOT_RUN, name


def test_a_service_that_keeps_files_is_judged_by_what_it_reads_back(keep: Keep) -> None:
    results = keep({"DATA-1", "DATA-2", "DEP-1", "METR-5"}, "files")
    assert results["DATA-1"].word == "pass"
    assert results["DATA-2"].word == "pass"
    assert results["DEP-1"].evidence == (
        "nothing to ask: it keeps files, so there is no database to lose"
    )
    assert "the pool" not in results["METR-5"].evidence


def test_what_is_measured_goes_before_what_the_file_says(keep: Keep) -> None:
    results = keep({"DATA-1"}, "nothing", "memory")
    assert results["DATA-1"].word == "fail"
