"""No text installs PostFacta from a package index.

None has it, and anyone could register its name there.

Delete this file with the first upload (docs/how-to/release.md).
"""

from __future__ import annotations

import re
from typing import Final

from tests.kit.every import every
from tests.test_house import ROOT, TRACKED

# The name of the distribution, or one that a reader could take for it. A path or an address goes on
# before or after it, and ` @ ` names a source.
_NAME: Final = r"(?<![\w./@~+-])postfacta(?:[-_][a-z]+)?(?:\[[^\]\n]*\])?(?![\w/@\[-]|\.\w|\s+@)"
_INSTALLERS: Final = (
    r"\b(?:pip3?|easy_install)\b[^\n;&|]*\b(?:install|download|wheel)\b"
    r"|\b(?:uv|poetry|pdm|rye|conda|mamba|pipx|hatch)\b[^\n;&|]*\b(?:add|install|run|inject)\b"
    r"|\buvx\b|--with\b"
)
INDEX_INSTALL: Final = re.compile(
    rf"(?:{_INSTALLERS})[^\n;&|]*?{_NAME}"
    # A requirement: with a version, or with extras, such as an entry of `dependencies`.
    rf"|{_NAME}\s*(?:[=~!<>]=|[<>])\s*\d"
    r"|(?<![\w./@~+-])postfacta\[[^\]\n]*\](?!\s+@)"
)
# A distribution that has extras of its own in an extra names itself; an installer takes the one
# that it installs.
_OF_ITSELF: Final = '"postfacta[postgres,jwt,otlp,slo,starlette,uvicorn,demo,flags]"'

WRONG: Final = (
    "pip install postfacta",
    'pip install "postfacta[lab]" pytest',
    "pip install fastapi 'postfacta[app]==0.1.0'",
    "/opt/postfacta/0.1.0/bin/pip install 'postfacta[app]==0.1.0'",
    "python -m pip install -U postfacta",
    "pip3 install --upgrade \\\n  postfacta",
    "pip download postfacta",
    "pip install postfacta-core",
    "pip install postfacta_core uvicorn",
    "uv pip install postfacta",
    "uv add postfacta",
    "uv add --dev 'postfacta[lab]'",
    "uv tool install postfacta",
    "uv tool run postfacta serve",
    "uvx postfacta",
    "uvx --from postfacta postfacta serve",
    "uv run --with postfacta python",
    "pipx run postfacta demo",
    "pipx install postfacta",
    "poetry add postfacta",
    "pdm add postfacta",
    "conda install postfacta",
    '["pip", "install", "postfacta"]',
    'dependencies = ["fastapi", "postfacta[postgres]"]',
    'dependencies = ["postfacta>=0.1"]',
    "postfacta==0.1.0",
    "postfacta[postgres]",
    "- postfacta ~= 0.1",
    "f\"pip install 'postfacta[{extra}]'\"",
)
RIGHT: Final = (
    'pip install "../postfacta[lab]" pytest',
    "pip install ./postfacta-0.1.0-py3-none-any.whl",
    "pip install './postfacta-0.1.0-py3-none-any.whl[app]'",
    "pip install 'postfacta[lab] @ git+https://forge.example/postfacta.git@5aa336a8'",
    "pip install -e '/srv/postfacta[lab]'",
    "pip install '/path/to/checkout-or-wheel-of-postfacta[lab]'",
    "pip install -r requirements/app.txt && postfacta serve",
    "uv pip install --python build/release dist/*.whl; postfacta --version",
    "build/release/bin/postfacta --version",
    "pip install git+https://forge.example/postfacta.git",
    "postfacta lab init -- uvicorn billing:app",
)


def index_installs(text: str) -> list[str]:
    """Return what a text installs from an index; a backslash continues a command."""
    return INDEX_INSTALL.findall(text.replace("\\\n", " "))


def test_each_spelling_of_an_index_install_is_found() -> None:
    with every() as case:
        for spelling in WRONG:
            with case(spelling):
                assert index_installs(f"Do this:\n{spelling}\n")
        for spelling in RIGHT:
            with case(spelling):
                assert not index_installs(f"Do this:\n{spelling}\n")


def test_no_text_installs_from_an_index_that_has_nothing_of_ours() -> None:
    with every() as case:
        for name in TRACKED:
            file = ROOT / name
            if (
                file.suffix in {".png", ".svg"}
                or not file.is_file()
                or name == "tests/test_sources.py"
            ):
                continue
            text = file.read_text()
            if name == "pyproject.toml":
                text = text.replace(_OF_ITSELF, "")
            with case(name):
                assert index_installs(text) == []
            # A file of requirements needs neither version nor extra.
            if "requirements" in name and file.suffix in {".txt", ".in"}:
                with case(f"{name}, by name alone"):
                    assert not re.search(r"^postfacta\b", text, re.MULTILINE)
