"""The service's log lines name it."""

from __future__ import annotations

import json
import logging
from collections.abc import Generator

import pytest

from postfacta_app.server import configure_logging
from postfacta_app.settings import Settings


@pytest.fixture(autouse=True)
def root_logger() -> Generator[None]:
    """Give the process its own logging back."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    for handler in set(root.handlers) - set(handlers):
        handler.flush()
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.mark.parametrize(("style", "is_json"), [("JSON", True), ("text", False)])
def test_lines_are_in_the_format_of_the_settings(
    capfd: pytest.CaptureFixture[str], style: str, *, is_json: bool
) -> None:
    fields = {
        "environment": "production",
        "app_version": "1.2.3",
        "log_format": style,
        "log_level": "error",
    }
    configure_logging(Settings.model_validate(fields))
    logging.getLogger("test").warning("too.low")
    logging.getLogger("test").error("one.line", extra={"half": "\ud800"})
    logging.getLogger().handlers[0].flush()
    out = capfd.readouterr().out
    assert "too.low" not in out
    if is_json:
        line = json.loads(out)
        assert (line["service"], line["version"], line["environment"]) == (
            "postfacta",
            "1.2.3",
            "production",
        )
        assert (line["event"], line["half"]) == ("one.line", "\ud800")
    else:
        assert "ERROR    test: one.line" in out
