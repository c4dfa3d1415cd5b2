"""A log line is one object with the names that operators search for, and holds no secret."""

from __future__ import annotations

import json
import logging
from collections.abc import Generator

import pytest

from postfacta_app.observability import configure_logging
from postfacta_app.settings import Settings
from postfacta_core.context import RequestContext, bind_request, release_request


@pytest.fixture(autouse=True)
def root_logger() -> Generator[None]:
    """Give the process its own logging back."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def settings(**fields: str) -> Settings:
    return Settings.model_validate({"environment": "production", "app_version": "1.2.3", **fields})


def test_json_lines_carry_the_service_the_request_and_the_fields(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(settings(log_format="JSON"))
    token = bind_request(RequestContext("request-12345", 0.0))
    logging.getLogger("postfacta.test").warning("something.happened", extra={"retry_after": 2.5})
    release_request(token)
    line = json.loads(capsys.readouterr().out)
    assert line["event"] == "something.happened"
    assert line["level"] == "warning"
    assert line["logger"] == "postfacta.test"
    assert line["request_id"] == "request-12345"
    assert line["retry_after"] == 2.5
    assert (line["service"], line["version"], line["environment"]) == ("postfacta", "1.2.3", "production")
    assert line["timestamp"].endswith("Z")


def test_a_crash_has_its_stack_trace(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(settings(log_format="json"))
    try:
        _ = 1 / int("0")
    except ZeroDivisionError:
        logging.getLogger("test").exception("crashed")
    line = json.loads(capsys.readouterr().out)
    assert "ZeroDivisionError: division by zero" in line["exception"]
    assert "test_observability.py" in line["exception"]


@pytest.mark.parametrize("style", ["JSON", "text"])
def test_secrets_reach_no_sink(capsys: pytest.CaptureFixture[str], style: str) -> None:
    configure_logging(settings(log_format=style))
    extra = {"password": "canary-1", "headers": {"authorization": "Bearer canary-2"}}
    logging.getLogger("test").error("at postgresql://me:canary-3@host/db", extra=extra)
    assert "canary" not in capsys.readouterr().out


def test_text_lines_leave_out_what_is_empty(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(settings(log_format="text"))
    logging.getLogger("test").info("quiet", extra={"color_message": "x"})
    said = capsys.readouterr().out
    assert "request_id" not in said
    assert "color_message" not in said


def test_the_servers_own_word_on_a_crash_is_not_a_second_line(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(settings(log_format="JSON"))
    logging.getLogger("uvicorn.error").error("Exception in ASGI application\n")
    assert capsys.readouterr().out == ""


def test_levels_below_the_setting_are_not_written(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(settings(log_level="error"))
    logging.getLogger("test").warning("too low")
    assert capsys.readouterr().out == ""
