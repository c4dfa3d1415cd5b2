"""The site builds strictly from the Markdown, offline, and has every page and every exported name."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest
from docs.generate import FACES, exported, list_entries, page_text

ROOT = Path(__file__).parent.parent.parent
VERSION: str = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
OURS = ("README.md", "CHANGELOG.md", "CODE_OF_CONDUCT.md", "CONTRIBUTING.md", "SECURITY.md")
PAGES = [
    *(ROOT / name for name in OURS),
    *sorted((ROOT / "docs").rglob("*.md")),
    ROOT / "benchmarks/README.md",
]
# What a browser loads by itself, and so would tell another host who reads what.
LOADED = re.compile(
    r"""<(?:script|img|iframe|source)\b[^>]*?\bsrc="(?:https?:)?//[^"]*"|<link\b[^>]*?\bhref="(?:https?:)?//[^"]*"|"""
    r"""url\(["']?(?:https?:)?//[^)]*\)|@import[^;]*//[^;]*;"""
)


def sphinx(source: Path, out: Path) -> subprocess.CompletedProcess[str]:
    """Build as `make docs` does."""
    return subprocess.run(  # noqa: S603 - our own documentation
        [
            *(sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-E"),
            *("-c", str(ROOT / "docs"), "-d", str(out.parent / "doctrees"), str(source), str(out)),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the site once."""
    out = tmp_path_factory.mktemp("site") / VERSION
    done = sphinx(ROOT, out)
    assert (done.returncode, done.stderr) == (0, "")
    return out


@pytest.mark.usefixtures("programs")
def test_the_site_has_every_page_and_its_version(site: Path) -> None:
    built = {path.relative_to(site).with_suffix(".md") for path in site.rglob("*.html")}
    assert {path.relative_to(ROOT) for path in PAGES} <= built
    front = (site / "README.html").read_text()
    assert f"<title>PostFacta {VERSION}</title>" in front
    assert "url=README.html" in (site / "index.html").read_text()
    kinds = ("tutorial", "how-to", "reference", "explanation", "runbooks", "decisions")
    assert [kind for kind in kinds if f'href="docs/{kind}/README.html"' not in front] == []


@pytest.mark.usefixtures("programs")
def test_the_site_loads_nothing_from_other_hosts(site: Path) -> None:
    files = [path for path in site.rglob("*") if path.suffix in {".html", ".css"}]
    found = {
        path.name: LOADED.findall(path.read_text())
        for path in files
        if "_downloads" not in path.parts
    }
    assert len(found) > 20
    assert {name: links for name, links in found.items() if links} == {}


@pytest.mark.usefixtures("programs")
def test_language_models_find_each_page_and_the_tables_of_the_reference(site: Path) -> None:
    listed = (site / "llms.txt").read_text()
    title, summary, *_ = listed.split("\n\n")
    assert title == f"# PostFacta {VERSION}"
    assert summary.startswith("> Reliability hardening")
    links = re.findall(r"^\* \[[^\]]+\]\(([^)]+)\)", listed, re.MULTILINE)
    assert len(links) == listed.count("\n* ")
    assert [link for link in links if not (site / link).is_file()] == []
    of_kinds = {
        f"docs/{path.parent.name}/{path.stem}.html"
        for kind in ("tutorial", "how-to", "reference", "explanation")
        for path in (ROOT / "docs" / kind).glob("*.md")
        if path.stem != "README"
    }
    assert of_kinds <= set(links)
    text = (site / "llms-full.txt").read_text()
    assert [page for page in of_kinds if f"<!-- {page[:-5]}.md -->" not in text] == []
    # What marks are filled with, too.
    for table in ("postfacta_retry_attempts_total", "`request_timeout`", "| `attempts()` |"):
        assert table in text


@pytest.mark.usefixtures("programs")
def test_the_search_finds_options_by_name(site: Path) -> None:
    index = (site / "searchindex.js").read_text().removeprefix("Search.setIndex(").removesuffix(")")
    known = json.loads(index)
    (number,) = (n for n, name in enumerate(known["docnames"]) if name == "docs/reference/harden")
    for word in ("shed", "drain_timeout", "rate_limit"):  # stemmed, as the query is
        places = known["terms"][word]
        assert number in (places if isinstance(places, list) else [places])


BROKEN = {
    "[x](away.md)": "cross-reference target not found: 'away.md'",
    "[x](away.yaml)": "cross-reference target not found: 'away.yaml'",
    "[x](docs/b.md#away)": "local id not found in doc 'docs/b': 'away'",
    "![x](away.png)": "image file not readable: away.png",
    "See [C](docs/c.md).": "c.md: WARNING: document isn't included in any toctree",
}


@pytest.mark.usefixtures("programs")
def test_each_broken_link_or_lost_page_fails_the_build(tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "docs").mkdir(parents=True)
    (source / "docs/b.md").write_text("# B\n")
    sound = "# Front\n\n## Pages\n\n* [B](docs/b.md): it is there\n"
    (source / "README.md").write_text(sound)
    assert sphinx(source, tmp_path / "sound").returncode == 0
    (source / "docs/c.md").write_text("# C\n")
    (source / "README.md").write_text("\n\n".join([sound, *BROKEN]))
    done = sphinx(source, tmp_path / "broken")
    assert done.returncode == 1
    assert [says for says in BROKEN.values() if says not in done.stderr] == [], done.stderr
    assert done.stderr.count("WARNING") == len(BROKEN)


def test_every_exported_name_has_an_entry() -> None:
    known = list_entries()
    missing = [f"{face}.{name}" for face in FACES for name in exported(face) if name not in known]
    assert missing == [], "add it to a mark in docs/reference"


def test_every_import_of_the_reference_works() -> None:
    printed = {
        line
        for page in sorted((ROOT / "docs/reference").glob("*.md"))
        for line in re.findall(
            r"^from (postfacta_\S+) import (\w+)$",
            page_text(page.relative_to(ROOT).as_posix()),
            re.MULTILINE,
        )
    }
    assert len(printed) > 100
    failing = [(place, name) for place, name in printed if not hasattr(import_module(place), name)]
    assert failing == [], "pass the name on in a module beside it: import NAME as NAME"


def test_every_entry_says_what_it_is() -> None:
    assert [
        name for name, (_, summary) in list_entries().items() if "." not in name and not summary
    ] == []


def test_the_first_forty_lines_of_the_readme_lead_to_a_running_service() -> None:
    top = "\n".join((ROOT / "README.md").read_text().splitlines()[:40])
    for part in ("app = harden(", "pip install ../postfacta ", "uvicorn billing:app", "curl -i "):
        assert part in top
    doors = re.findall(r"^\* \*\*(\w+).*\]\((docs/[\w/-]+\.md)\)", top, re.MULTILINE)
    assert [door for door, _ in doors] == ["Adopt", "Operate", "Test"]


def test_each_command_of_the_pages_is_there() -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in (
        "README.md",
        "CONTRIBUTING.md",
        "docs/claims.yaml",
        ".github/workflows/ci.yml",
    ):
        text = (ROOT / page).read_text()
        assert (
            set(re.findall(r"(?:^|`|run: |command: )make ([a-z0-9-]+)", text, re.MULTILINE))
            - targets
            == set()
        ), page
        paths = [path for line in re.findall(r"pytest ([^`\n#]+)", text) for path in line.split()]
        named = [
            path.strip('"').partition("::")[0]
            for path in paths
            if path.lstrip('"').startswith("tests/")
        ]
        assert [path for path in named if not list(ROOT.glob(path))] == [], page


def test_each_file_that_contributors_are_sent_to_is_there() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    named = set(re.findall(r"`((?:src|tests|docs|deploy|chaos)/[\w./-]+)`", text))
    assert len(named) > 15
    assert [
        name
        for name in named
        if not re.search("NAME|WORD|ALERT", name) and not (ROOT / name).exists()
    ] == []
