"""`make reach` chooses each test that can notice a change, and no more than it must."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.kit import graph as kit
from tests.kit.graph import Change, Graph
from tests.kit.reach import changes, chosen, graph_of, is_only_text, report

ROOT = Path(__file__).parent.parent
TREE = {
    "src/postfacta_core/__init__.py": (
        "from .face import lazy\n"
        "if TYPE_CHECKING:\n    from .guards import Hedge, Retry\n"
        'else:\n    __getattr__ = lazy({"guards": ("Hedge", "Retry")})\n'
    ),
    "src/postfacta_core/face.py": "",
    "src/postfacta_core/guards/__init__.py": "from .hedge import Hedge\nfrom .retry import Retry\n",
    "src/postfacta_core/guards/hedge.py": "",
    "src/postfacta_core/guards/retry.py": "from ..clock import Clock\n",
    "src/postfacta_core/clock.py": "",
    "src/postfacta_app/__init__.py": "",
    "src/postfacta_app/__main__.py": "def main():\n    from . import pages\n",
    "src/postfacta_app/pages.py": 'TEMPLATE = "page.html"\n',
    "src/postfacta_app/templates/page.html": '{% include "row.html" %}',
    "src/postfacta_app/templates/row.html": "",
    "src/postfacta_app/schema/tables.sql": "",
    "docs/guide.md": "See `src/postfacta_core/clock.py`.",
    "deploy/run.py": "",
    "tests/conftest.py": "from tests.kit.fair import fair\n@pytest.fixture(autouse=True)\ndef _f(): fair()\n",
    "tests/kit/fair.py": "",
    "tests/core/test_retry.py": "from postfacta_core import Retry\n",
    "tests/core/test_hedge.py": "def test_late():\n    from postfacta_core.guards import Hedge\n",
    "tests/core/test_program.py": 'PROGRAM = """\n    from postfacta_core.guards import Retry\n"""\n',
    "tests/app/conftest.py": (
        "from postfacta_app.pages import TEMPLATE\n"
        "@pytest.fixture\ndef page(): return TEMPLATE\n"
        "@pytest.fixture\ndef other(): ...\n"
    ),
    "tests/app/test_page.py": "def test_a(page): ...\n",
    "tests/app/test_other.py": "def test_a(other): ...\n",
    "tests/app/test_live.py": 'COMMAND = [sys.executable, "-m", "postfacta_app"]\n',
    "tests/docs/test_guide.py": 'GUIDE = (ROOT / "docs" / "guide.md")\n',
    "tests/test_script.py": 'SCRIPT = "deploy/run.py"\n',
    "tests/test_house.py": 'SRC = ROOT / "src"\n',
    "tests/strangers/test_wheel.py": "",
    "tests/servers/an_app.py": "from postfacta_core.guards import Hedge\n",
    "tests/servers/test_server.py": 'COMMAND = "uvicorn an_app:app"\n',
}
READERS = {"tests/test_house.py"}
OF_SRC = {*READERS, "tests/strangers/test_wheel.py"}
CASES: Mapping[str, set[str]] = {
    "src/postfacta_core/guards/hedge.py": {
        *OF_SRC,
        "tests/core/test_hedge.py",
        "tests/servers/test_server.py",
    },
    "src/postfacta_core/clock.py": {
        *OF_SRC,
        "tests/core/test_retry.py",
        "tests/core/test_program.py",
        "tests/docs/test_guide.py",
    },
    "src/postfacta_app/pages.py": {*OF_SRC, "tests/app/test_page.py", "tests/app/test_live.py"},
    "src/postfacta_app/__main__.py": {*OF_SRC, "tests/app/test_live.py"},
    "src/postfacta_app/templates/page.html": {
        *OF_SRC,
        "tests/app/test_page.py",
        "tests/app/test_live.py",
    },
    "src/postfacta_app/templates/row.html": {
        *OF_SRC,
        "tests/app/test_page.py",
        "tests/app/test_live.py",
    },
    "src/postfacta_app/schema/tables.sql": {
        *OF_SRC,
        "tests/app/test_page.py",
        "tests/app/test_live.py",
    },
    "tests/kit/fair.py": {path for path in TREE if "/test_" in path},
    "tests/conftest.py": {path for path in TREE if "/test_" in path},
    "tests/app/conftest.py": {path for path in TREE if path.startswith("tests/app/test_")},
    "tests/core/test_hedge.py": {"tests/core/test_hedge.py"},
    "docs/guide.md": {"tests/docs/test_guide.py"},
    "deploy/run.py": {"tests/test_script.py"},
    "requirements/test.txt": {path for path in TREE if "/test_" in path},
    "pyproject.toml": {path for path in TREE if "/test_" in path},
    "docs/removed.md": {"tests/docs/test_guide.py"},
}


def graph(tree: Mapping[str, str] = TREE, *more: str) -> Graph:
    texts = {**tree, **dict.fromkeys(more, "")}
    scans = {path: kit.scan(path, text) for path, text in texts.items() if path.endswith(".py")}
    return Graph(scans, {path: text for path, text in texts.items() if path not in scans})


@pytest.mark.parametrize("path", CASES)
def test_a_change_reaches_the_tests_that_can_notice_it(path: str) -> None:
    more = () if path in TREE else (path,)
    assert chosen(graph(TREE, *more), [Change(path)]) == {path: CASES[path]}


def test_a_change_of_comments_reaches_only_what_reads_the_text() -> None:
    changed = Change("src/postfacta_core/guards/hedge.py", only_text=True)
    assert chosen(graph(), [changed])[changed.path] == READERS


def test_a_removed_module_reaches_who_still_imports_it() -> None:
    gone = "src/postfacta_core/guards/retry.py"
    tree = {path: text for path, text in TREE.items() if path != gone}
    assert "tests/core/test_retry.py" in chosen(graph(tree, gone), [Change(gone)])[gone]


@pytest.mark.parametrize(
    ("path", "before", "after", "expected"),
    [
        ("a.py", "x = 1", "x = 1  # why\n", True),
        ("a.py", "x = 1", "x = 2", False),
        ("a.py", '"""A."""', '"""B."""', False),
        ("a.py", None, "x = 1", False),
        ("a.py", "x = 1", None, False),
        ("a.py", "x = ", "x =", False),
        ("a.md", "a", "a ", False),
        ("pyproject.toml", "[tool.ruff]\na = 1", "[tool.ruff]\na = 2", True),
        ("pyproject.toml", "[tool.pytest]\na = 1", "[tool.pytest]\na = 2", False),
    ],
)
def test_what_runs_as_before_is_only_text(
    path: str, before: str | None, after: str | None, *, expected: bool
) -> None:
    assert is_only_text(path, before, after) is expected


def test_the_report_says_what_runs_why_and_what_is_left_out() -> None:
    reached = {
        "src/postfacta_core/limits/rate.py": {"tests/core/a.py", "tests/app/b.py"},
        "Makefile": set[str](),
    }
    assert report(reached, 9) == [
        "Makefile -> 0 files",
        "core.limits -> 2 files",
        "2 of 9 files of tests: app 1, core 1",
        "left out: 7 files that the change cannot reach, and the long tests (make proofs)",
    ]


@pytest.fixture(scope="module")
def real(programs: None) -> Graph:
    return graph_of(ROOT)


@pytest.mark.parametrize(
    ("path", "expected", "others"),
    [
        (
            "src/postfacta_core/guards/_circuit.py",
            (
                "tests/core/guards/test_breaker.py",
                "tests/strangers/test_wheel.py",
                "tests/servers/test_drain.py",
            ),
            ("tests/slo/test_budget.py", "tests/lab/test_mix.py"),
        ),
        (
            "src/postfacta_app/timeline/model.py",
            ("tests/app/test_tutorial.py", "tests/attack/test_storm.py"),
            ("tests/core/guards/test_retry.py", "tests/postgres/test_leases.py"),
        ),
        (
            "src/postfacta_lab/assess/spec.py",
            ("tests/lab/assess/test_runner.py",),
            ("tests/app/test_pages.py", "tests/servers/test_drain.py"),
        ),
        (
            "deploy/haproxy/haproxy.cfg",
            ("tests/deploy/test_haproxy.py",),
            ("tests/core/test_face.py",),
        ),
        ("docs/how-to/logs.md", ("tests/docs/test_site.py",), ("tests/core/test_face.py",)),
    ],
)
def test_changes_here_reach_what_they_should(
    real: Graph, path: str, expected: tuple[str, ...], others: tuple[str, ...]
) -> None:
    found = chosen(real, [Change(path)])[path]
    assert [test for test in expected if test not in found] == []
    assert [test for test in others if test in found] == []


def test_each_test_is_reached_by_what_it_tests_or_stands_in_the_table(real: Graph) -> None:
    """A test that depends on no file of ours is never chosen: then `PROGRAMS` lacks its folder."""
    parts = (
        "src/",
        "chaos/",
        "benchmarks/",
        "loadtests/",
        "deploy/",
        "docs/",
        ".github/",
        "tests/kit/",
    )
    alone = [
        test
        for test in real.tests
        if not any(
            path.startswith(parts) and path != "tests/kit/tiers.py"
            for path in (real.runs[test] | real.reads[test])
        )
    ]
    assert alone == []


def test_the_table_of_commands_is_that_of_the_program(programs: None) -> None:
    from postfacta_app import __main__ as program  # noqa: PLC0415 - what the app's tests need

    others = vars(program)["_COMMANDS"]
    assert {name: module for name, (module, *_) in others.items()} == kit.COMMANDS


def test_changes_since_a_commit_are_listed_whether_committed_or_not(
    tmp_path: Path, programs: None
) -> None:
    def git(*words: str) -> None:
        subprocess.run(  # noqa: S603 - fixed words
            ["git", "-c", "user.name=A", "-c", "user.email=a@b.c", *words],  # noqa: S607 - git made this checkout
            cwd=tmp_path,
            check=True,
        )

    git("init", "-q", "-b", "main")
    for name in ("kept.py", "commented.py", "removed.py"):
        (tmp_path / name).write_text("x = 1\n")
    git("add", ".")
    git("commit", "-qm", "One")
    (tmp_path / "commented.py").write_text("x = 1  # why\n")
    git("commit", "-qam", "Two")
    (tmp_path / "removed.py").unlink()
    (tmp_path / "staged.py").write_text("")
    git("add", "staged.py")
    (tmp_path / "new.sql").write_text("")
    assert changes(tmp_path, "HEAD~1") == [
        Change("commented.py", only_text=True),
        Change("new.sql"),
        Change("removed.py"),
        Change("staged.py"),
    ]
    assert "removed.py" in graph_of(tmp_path, changes(tmp_path, "HEAD~1")).files
