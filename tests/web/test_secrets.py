"""Secrets change in a running service, and what cannot be used is reported and not used."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Generator, Set as AbstractSet
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any, cast

import anyio
import pytest
from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from postfacta_core.asgi import harden
from postfacta_core.testing import call_asgi
from postfacta_web import secrets
from postfacta_web.secrets import Reloaded
from tests.kit.lifespan import running
from tests.kit.waiting import until

FORMER, NEXT = "the-former-secret", "the-next-secret"
NEVER = 3600.0
NAMES = ("token", "key")


@dataclass(frozen=True)
class Settings:
    """Of a service: two secrets, and another setting."""

    token: str | None = FORMER
    key: str | None = FORMER
    port: int = 8080


class Source:
    """Where settings are read from."""

    def __init__(self) -> None:
        self.found = Settings()
        self.error: Exception | None = None

    def __call__(self) -> Settings:
        if self.error is not None:
            raise self.error
        return self.found

    def set(self, **values: Any) -> None:
        self.found = replace(self.found, **values)


@pytest.fixture
def source() -> Source:
    return Source()


def holds(held: Reloaded[Settings], token: str) -> bool:
    """Return whether this is the token that is used."""
    return held.current.token == token


def lines(caplog: pytest.LogCaptureFixture) -> list[tuple[str, object]]:
    """Return each line's event and what it is about."""
    fields = [vars(record) for record in caplog.records]
    return [(it["msg"], it.get("reason", it.get("settings"))) for it in fields]


def test_what_changed_is_used_and_logged_by_name_only(
    source: Source, caplog: pytest.LogCaptureFixture
) -> None:
    held = Reloaded(source(), source, NAMES)
    source.set(token=NEXT, port=9090)
    for _ in range(2):
        held.reread()
    assert held.current == Settings(token=NEXT, port=8080)
    assert lines(caplog) == [("secrets.changed", "token")]
    assert NEXT not in str([vars(record) for record in caplog.records])


@pytest.mark.parametrize("gone", [None, ""])
def test_a_secret_that_is_gone_stays_in_use_and_is_logged_once(
    source: Source, caplog: pytest.LogCaptureFixture, gone: str | None
) -> None:
    held = Reloaded(source(), source, NAMES)
    source.set(token=gone, key=NEXT)
    for _ in range(3):
        held.reread()
    assert held.current == Settings(token=FORMER, key=NEXT)
    assert lines(caplog) == [
        ("secrets.unreadable", "token: no longer set"),
        ("secrets.changed", "key"),
    ]


def test_what_was_never_set_is_not_gone(source: Source, caplog: pytest.LogCaptureFixture) -> None:
    source.set(token=None)
    held = Reloaded(source(), source, NAMES)
    held.reread()
    assert lines(caplog) == []


def test_what_needs_a_restart_is_logged_once_and_the_others_change(
    source: Source, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[tuple[str, str, str]] = []

    def fixed(name: str, former: str, new: str) -> str:
        seen.append((name, former, new))
        return "its host changed" if name == "key" else ""

    held = Reloaded(source(), source, NAMES, needs_restart=fixed)
    source.set(token=NEXT, key=NEXT)
    for _ in range(2):
        held.reread()
    assert held.current == Settings(token=NEXT, key=FORMER)
    assert seen == [("token", FORMER, NEXT), ("key", FORMER, NEXT), ("key", FORMER, NEXT)]
    assert lines(caplog) == [
        ("secrets.need_restart", "key: its host changed"),
        ("secrets.changed", "token"),
    ]


def test_a_failed_reading_keeps_the_former_and_is_logged_once_until_one_succeeds(
    source: Source, caplog: pytest.LogCaptureFixture
) -> None:
    held = Reloaded(source(), source, NAMES)
    for _ in range(2):
        source.error = PermissionError(13, "denied", "/run/secrets/token")
        for _ in range(2):
            held.reread()
        assert held.current == Settings()
        source.error = None
        held.reread()
    assert lines(caplog) == [("secrets.unreadable", "[Errno 13] denied: '/run/secrets/token'")] * 2


def test_the_text_of_other_errors_is_not_logged(
    source: Source, caplog: pytest.LogCaptureFixture
) -> None:
    held = Reloaded(source(), source, NAMES)
    source.error = ValueError(f"{NEXT} is not a number")
    held.reread()
    assert lines(caplog) == [("secrets.unreadable", "ValueError")]
    assert NEXT not in caplog.text
    held = Reloaded(Settings(), source, NAMES, explains=(OSError, ValueError))
    source.error = ValueError("token: too short")
    held.reread()
    assert lines(caplog)[1:] == [("secrets.unreadable", "token: too short")]


def test_a_value_that_its_record_refuses_is_not_used(caplog: pytest.LogCaptureFixture) -> None:
    @dataclass(frozen=True)
    class Checked:
        token: str

        def __post_init__(self) -> None:
            if len(self.token) < 8:
                raise ValueError(self.token)

    short = cast("Checked", SimpleNamespace(token=NEXT[:7]))  # As if it had not been checked.
    held = Reloaded(Checked(FORMER), lambda: short, ["token"])
    held.reread()
    assert held.current == Checked(FORMER)
    assert lines(caplog) == [("secrets.unreadable", "ValueError")]


def test_a_record_may_be_of_any_kind() -> None:
    class Model(BaseModel, frozen=True):
        token: str

    held = Reloaded(
        Model(token=FORMER),
        lambda: Model(token=NEXT),
        ["token"],
        replace=lambda record, new: record.model_copy(update=new),
    )
    held.reread()
    assert held.current == Model(token=NEXT)


def test_an_age_is_that_of_the_oldest_file(tmp_path: Path, source: Source) -> None:
    old, young = (tmp_path / name for name in ("old", "young"))
    for number, file in enumerate((old, young), 1):
        file.touch()
        os.utime(file, (100 * number, 100 * number))
    files: dict[str, list[str | Path]] = {
        "token": [str(old), young, tmp_path / "away"],
        "key": [tmp_path / "away"],
    }
    held = Reloaded(source(), source, NAMES, files=lambda _: files, wall=lambda: 1000.0)
    assert [held.age(name) for name in ("token", "key", "port")] == [900.0, None, None]
    os.utime(old, (990, 990))
    assert held.age("token") == 900.0
    held.reread()
    assert held.age("token") == 800.0


async def test_a_sighup_has_them_read_at_once(source: Source) -> None:
    held = Reloaded(source(), source, NAMES, every=NEVER)
    async with held.watching():
        for token in (NEXT, FORMER):
            source.set(token=token)
            signal.raise_signal(signal.SIGHUP)
            await until(partial(holds, held, token))


async def test_what_keeps_a_secret_is_renewed_until_that_succeeds(
    source: Source, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    certificate = tmp_path / "client.pem"
    certificate.touch()
    held = Reloaded(
        source(), source, NAMES, files=lambda _: {"key_tls": [certificate]}, every=NEVER
    )
    calls: list[AbstractSet[str]] = []
    failures = [ConnectionError(NEXT), ConnectionError(NEXT)]

    async def renew(names: AbstractSet[str]) -> None:
        calls.append(names)
        if failures:
            raise failures.pop()

    async def hang_up(count: int) -> None:
        signal.raise_signal(signal.SIGHUP)
        await until(lambda: len(calls) == count)

    async with held.watching(renew):
        source.set(token=NEXT)
        await hang_up(1)
        os.utime(certificate, (1, 1))
        await hang_up(2)
        await hang_up(3)
        source.set(key=NEXT)
        await hang_up(4)
    assert calls == [{"token"}, {"token", "key_tls"}, {"token", "key_tls"}, {"key"}]
    (failed,) = [vars(it) for it in caplog.records if it.msg == "secrets.not_renewed"]
    assert (failed["settings"], failed["error_type"]) == ("token", "ConnectionError")
    assert NEXT not in caplog.text


@pytest.fixture
def stopped() -> Generator[list[int]]:
    """Catch SIGTERM for the test."""
    caught: list[int] = []

    def catch(number: int, frame: FrameType | None) -> None:
        caught.append(number)

    before = signal.signal(signal.SIGTERM, catch)
    yield caught
    signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize(
    ("terminals", "signals"),
    [([True, False], [signal.SIGTERM]), ([True, True], []), ([False], [])],
    ids=["closed", "open", "none"],
)
async def test_only_a_closed_terminal_stops_the_service(
    source: Source,
    stopped: list[int],
    monkeypatch: pytest.MonkeyPatch,
    terminals: list[bool],
    signals: list[int],
) -> None:
    answers = iter(terminals)
    monkeypatch.setattr(secrets, "has_terminal", lambda: next(answers))
    held = Reloaded(source(), source, NAMES, every=NEVER)
    async with held.watching():
        source.set(token=NEXT)
        signal.raise_signal(signal.SIGHUP)
        await until(lambda: held.current.token == NEXT)
    assert stopped == signals


async def test_sighup_has_its_former_meaning_again_afterwards(source: Source) -> None:
    def mine(number: int, frame: FrameType | None) -> None:
        """Do nothing."""

    before = signal.signal(signal.SIGHUP, mine)
    try:
        async with Reloaded(source(), source, NAMES).watching():
            assert signal.getsignal(signal.SIGHUP) is not mine
        assert signal.getsignal(signal.SIGHUP) is mine
    finally:
        signal.signal(signal.SIGHUP, before)


def test_outside_of_the_main_thread_they_are_read_in_intervals(
    source: Source, anyio_backend_name: str
) -> None:
    held, before = Reloaded(source(), source, NAMES, every=0.01), signal.getsignal(signal.SIGHUP)

    async def watch() -> None:
        async with held.watching():
            assert signal.getsignal(signal.SIGHUP) is before
            source.set(token=NEXT)
            await until(lambda: held.current.token == NEXT)

    thread = threading.Thread(
        target=anyio.run, args=(watch,), kwargs={"backend": anyio_backend_name}
    )
    thread.start()
    thread.join()
    assert held.current.token == NEXT


async def test_a_service_watches_them_while_it_runs(source: Source) -> None:
    held = Reloaded(source(), source, NAMES, every=NEVER)

    async def token(_: Request) -> PlainTextResponse:
        return PlainTextResponse(held.current.token)

    app = Starlette(routes=[Route("/", token)])
    hardened = harden(app, service="shop", resources=[held.watching()])
    async with running(hardened):
        source.set(token=NEXT)
        signal.raise_signal(signal.SIGHUP)
        await until(lambda: held.current.token == NEXT)
        assert (await call_asgi(hardened, "GET", "/")).body == NEXT.encode()
