"""What a check of a delivery could not look at is named in its last line, and is neither passed nor failed."""

from __future__ import annotations

import shutil

import pytest

from deploy.image import check
from deploy.outcome import NOT_RUN, Outcome


def test_what_was_not_looked_at_is_named_in_the_last_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    outcome = Outcome()
    outcome.check("licences", [])
    outcome.not_run("advisories", "no network")
    assert outcome.end() == NOT_RUN
    assert capsys.readouterr().out.splitlines()[-1].endswith("not passed: advisories.")


def test_a_fault_is_a_failure_whatever_was_not_looked_at() -> None:
    outcome = Outcome()
    outcome.not_run("advisories", "no network")
    outcome.check("licences", ["GPL"])
    assert outcome.end() == 1


def test_all_that_passed_is_a_success() -> None:
    outcome = Outcome()
    outcome.check("licences", [])
    assert outcome.end() == 0


@pytest.mark.parametrize("missing", ["buildah", "netavark", "mmdebstrap"])
def test_an_image_is_not_built_without_its_tools(
    missing: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def which(program: str, path: str | None = None) -> str | None:
        return None if program in {missing, "hadolint"} else f"/usr/bin/{program}"

    monkeypatch.setattr(shutil, "which", which)
    assert check.main([]) == NOT_RUN
    assert missing in capsys.readouterr().out
