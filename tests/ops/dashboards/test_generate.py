"""The command writes what is committed, and dashboards for services of other people."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.grafana.generate import Service, boards, main, write
from tests.ops.dashboards.reading import BOARDS, ROOT, Asked, asked, panels, seen

OURS = Service(
    name="postfacta",
    job="postfacta",
    runbooks="https://git.example.org/postfacta/src/main/docs/runbooks",
)
BILLING = ["overview", "database", "resilience", "runtime"]


def test_what_is_committed_is_what_it_writes(tmp_path: Path) -> None:
    assert main(["--out", str(tmp_path)]) == 0
    written = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    assert len(written) == 5
    for name, content in written.items():
        committed = ROOT / "deploy/grafana/dashboards" / name
        assert committed.read_bytes() == content, f"run: python deploy/grafana/generate.py ({name})"


def test_the_same_service_gives_the_same_bytes(tmp_path: Path) -> None:
    first, second = write(OURS, tmp_path / "one"), write(OURS, tmp_path / "two")
    assert [file.read_bytes() for file in first] == [file.read_bytes() for file in second]


@pytest.mark.usefixtures("programs")
def test_it_runs_from_anywhere_and_says_what_it_wrote(tmp_path: Path) -> None:
    done = subprocess.run(  # noqa: S603 - our own program
        [
            sys.executable,
            ROOT / "deploy/grafana/generate.py",
            "--service",
            "billing",
            "--out",
            "grafana",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == [f"grafana/billing-{name}.gen.json" for name in BILLING]
    assert sorted(file.name for file in (tmp_path / "grafana").iterdir()) == sorted(
        f"billing-{name}.gen.json" for name in BILLING
    )


def test_a_service_of_other_people_gets_all_but_our_business() -> None:
    made = boards(Service(name="billing", job="payments"))
    assert [board.uid for board in made] == [f"billing-{name}" for name in BILLING]
    for board in made:
        assert board.title.startswith("billing: ")
        assert board.tags[0] == "billing"
        assert board.links == []
        variables = {variable.name: variable for variable in board.variables}
        assert variables["job"].default == "payments"
        assert variables.get("service", variables["job"]).default in {"billing", "payments"}
        # Our own alerts watch our own service.
        assert not [panel.links for row in board.rows for panel in row.panels if panel.links]


def test_they_find_their_own_runbooks() -> None:
    (overview, *_) = boards(
        Service(name="billing", job="billing", runbooks="https://wiki.example.org/runbooks")
    )
    assert overview.links == [("Runbooks", "https://wiki.example.org/runbooks")]


def test_no_query_names_our_job(tmp_path: Path) -> None:
    write(Service(name="billing", job="payments"), tmp_path)
    theirs = {file.stem: json.loads(file.read_text()) for file in tmp_path.iterdir()}
    for query in asked(theirs):
        assert '"postfacta"' not in query.expr
        assert seen(query.expr)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--service", "Billing Service"], "is no name for a service"),
        (["--service", "a" * 29], "is no name for a service"),
        (["--service", ""], "is no name for a service"),
        (["--job", 'a"b'], "is no job of Prometheus"),
        (["--runbooks", "docs/runbooks"], "is no address"),
    ],
)
def test_a_name_that_grafana_or_prometheus_would_not_take_is_refused(
    arguments: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, "--out", str(tmp_path)]) == 2
    assert said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert main(["--out", str(tmp_path / "file")]) == 2
    assert "file" in capsys.readouterr().err


def test_the_overview_fits_on_three_screens() -> None:
    bottom = max(
        panel["gridPos"]["y"] + panel["gridPos"]["h"]
        for panel in panels(BOARDS["postfacta-overview"])
    )
    assert bottom <= 3 * 24


def test_every_query_can_be_named() -> None:
    names = [str(query) for query in asked()]
    assert len(set(names)) == len(names)
    assert str(Asked("b", "p", "A", "up", "r")) == "b/r/p/A"
