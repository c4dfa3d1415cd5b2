"""Parts of a service are turned off by name while it runs; what cannot be read changes nothing."""

from __future__ import annotations

import json
import re
import sys
import threading
from collections.abc import Generator
from pathlib import Path
from typing import Never

import anyio
import pytest
from openfeature import api
from openfeature.provider.in_memory_provider import InMemoryFlag, InMemoryProvider  # pyright: ignore[reportMissingTypeStubs] - it has types
from openfeature.provider.no_op_provider import NoOpProvider  # pyright: ignore[reportMissingTypeStubs] - it has types
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from postfacta_core.asgi import harden
from postfacta_core.installation import install_command
from postfacta_core.testing import call_asgi
from postfacta_web.switches import State, Switches
from tests.kit.every import every
from tests.kit.lifespan import running
from tests.kit.waiting import until

DOMAIN = "billing"
NAMES = ("exports", "mail")
OFF = {"on": False, "reason": "INC-12"}
VARIANTS = {"on": True, "off": False}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "switches.json"


@pytest.fixture
def switches(file: Path) -> Switches:
    return Switches(NAMES, file=file, every=0.01)


@pytest.fixture
def _nobody_elses_provider() -> Generator[None]:
    api.set_provider_and_wait(NoOpProvider(), DOMAIN)
    yield
    api.set_provider_and_wait(NoOpProvider(), DOMAIN)


def put(file: Path, **states: object) -> None:
    """Put another file in the place of one, as orchestrators do."""
    new = file.with_name("new")
    new.write_text(json.dumps(states))
    new.replace(file)


def off(switches: Switches) -> list[str]:
    return [name for name in NAMES if not switches.is_on(name)]


def logged(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records]


# The file


def test_what_the_file_does_not_name_is_on(file: Path, switches: Switches) -> None:
    assert switches.states == dict.fromkeys(NAMES, State())
    put(file, exports=OFF)
    states = switches.read()
    assert {name for name, state in states.items() if not state.on} == {"exports"}
    assert set(states) == set(NAMES)
    assert states["exports"].reason == "INC-12"
    assert off(switches) == []  # It was not yet reread.
    put(file, exports={}, mail={"reason": ""})
    assert switches.read() == dict.fromkeys(NAMES, State())


BAD = {
    "": "EOF; for example {",
    '{"exports": {"on": fal': "not JSON at line 1, column 20; for example {",
    '\ufeff{"exports": {}}': "not JSON at line 1, column 1",
    "[]": 'switches.json must be an object, not []; for example {"exports": {"on": false',
    "null": "switches.json must be an object, not None",
    '{"exports": false}': 'exports must be an object, not False; for example {"on": false}',
    '{"exports": {"on": "no"}}': "exports.on must be true or false, not 'no'; for example false",
    '{"exports": {"on": 1}}': "exports.on must be true or false, not 1",
    '{"exports": {"on": null}}': "exports.on must be true or false, not None",
    '{"exports": {"off": true, "of": 1}}': "exports: of, off: unknown; known are on, reason",
    '{"export": {"on": false}, "a": 1}': "switches.json: a, export: unknown; known are exports, mail",
    json.dumps(dict.fromkeys(map(str, range(30_000)))): ": unknown; known are exports, mail",
    '{"exports": {"on": false, "reason": 7}}': "exports.reason must be a text of at most 200 characters",
    '{"exports": {"on": false, "reason": "'
    + "x" * 201
    + '"}}': "exports.reason must be a text of at most 200",
    '{"exports": {"reason": "\\u0000"}}': "a text contains U+0000",
    '{"exports": {"on": NaN}}': "NaN is not JSON",
    "[" * 200 + "]" * 200: "nested too deeply",
    '{"exports": {}}' + " " * 1_000_000: "more than 1,000,000 bytes",
    '{"exports": {"on": false, "reason": "'
    + "x" * 900_000
    + '"}}': "exports.reason must be a text of at most",
    "[" + "{}," * 300_000 + "{}]": "more than 100,000 commas and brackets",
}


def test_a_bad_file_is_refused_with_its_place(file: Path, switches: Switches) -> None:
    with every() as case:
        for text, message in BAD.items():
            with case(text[:40]):
                file.write_text(text)
                with pytest.raises(ValueError) as refused:  # noqa: PT011 - the text is looked at
                    switches.read()
                assert str(refused.value).startswith(str(file))
                assert message in str(refused.value)
                assert len(str(refused.value)) < 400
    file.write_bytes(b'{"exports": {"reason": "\xff"}}')
    with pytest.raises(ValueError, match="the text is not UTF-8"):
        switches.read()


def test_what_is_no_file_is_refused(tmp_path: Path, file: Path, switches: Switches) -> None:
    with pytest.raises(ValueError, match=r"switches\.json: No such file"):
        switches.read()
    file.mkdir()
    with pytest.raises(ValueError, match=r"switches\.json: Is a directory"):
        switches.read()
    with pytest.raises(ValueError, match="Is a directory"):
        Switches(NAMES, file=str(tmp_path)).read()


def test_a_name_counts_where_it_is_last(file: Path, switches: Switches) -> None:
    file.write_text('{"exports": {"on": true}, "mail": {}, "exports": {"on": true, "on": false}}')
    switches.reread()
    assert off(switches) == ["exports"]


def test_the_last_valid_file_holds_and_a_bad_one_is_logged_once(
    file: Path, switches: Switches, caplog: pytest.LogCaptureFixture
) -> None:
    switches.reread()
    valid = [switches.is_valid]
    assert off(switches) == []
    put(file, exports=OFF)
    switches.reread()
    valid.append(switches.is_valid)
    whole = file.read_bytes()
    # The last ones are what a reader sees of a file that is written in place.
    for text in (
        "",
        "{",
        '{"exports": {"on": 1}}',
        *(whole[:size].decode() for size in range(len(whole))),
    ):
        file.write_text(text)
        switches.reread()
        assert off(switches) == ["exports"]
    valid.append(switches.is_valid)
    put(file)
    switches.reread()
    assert [*valid, switches.is_valid] == [False, True, False, True]
    assert off(switches) == []
    assert logged(caplog) == [
        "flags.unreadable",
        "flag.changed",
        "flags.unreadable",
        "flag.changed",
    ]
    changed = vars(caplog.records[1])
    assert (changed["flag"], changed["on"], changed["reason"]) == ("exports", False, "INC-12")
    assert "No such file" in vars(caplog.records[0])["reason"]


def test_all_readers_see_a_change_and_it_is_logged_once(
    file: Path, switches: Switches, caplog: pytest.LogCaptureFixture
) -> None:
    before = switches.states
    put(file, exports=OFF)
    for _ in range(3):
        switches.reread()
    assert before["exports"].on  # What was given out does not change.
    assert not switches.states["exports"].on
    assert logged(caplog) == ["flag.changed"]
    # Another reason alone is no change.
    put(file, exports=OFF | {"reason": "INC-13"})
    switches.reread()
    assert switches.states["exports"].reason == "INC-12"
    assert logged(caplog) == ["flag.changed"]


def test_a_name_that_was_not_given_is_no_switch(switches: Switches) -> None:
    with pytest.raises(KeyError):
        switches.is_on("export")


# The provider


@pytest.mark.usefixtures("_nobody_elses_provider")
def test_without_a_file_the_provider_of_the_domain_decides(
    caplog: pytest.LogCaptureFixture,
) -> None:
    switches = Switches(NAMES, domain=DOMAIN)
    switches.reread()
    assert off(switches) == []
    api.set_provider_and_wait(InMemoryProvider({"exports": InMemoryFlag("off", VARIANTS)}), DOMAIN)
    switches.reread()
    assert off(switches) == ["exports"]
    # It no longer knows it, or has another type of value: the last value holds.
    numbers: InMemoryFlag[object] = InMemoryFlag("one", {"one": 1})
    for known in ({}, {"exports": numbers}):
        api.set_provider_and_wait(InMemoryProvider(known), DOMAIN)
        switches.reread()
        assert off(switches) == ["exports"]
    assert (switches.is_valid, logged(caplog)) == (True, ["flag.changed"])


def away(*_: object) -> Never:
    raise ConnectionError("hunter2")


class Wrong(InMemoryProvider):
    """A provider that fails outside of what the SDK catches."""

    def get_provider_hooks(self) -> list[object]:  # type: ignore[override]
        raise RuntimeError("hunter2")


@pytest.mark.usefixtures("_nobody_elses_provider")
def test_a_provider_that_fails_leaves_the_last_states(caplog: pytest.LogCaptureFixture) -> None:
    switches = Switches(NAMES, domain=DOMAIN)
    api.set_provider_and_wait(InMemoryProvider({"mail": InMemoryFlag("off", VARIANTS)}), DOMAIN)
    switches.reread()
    failing = InMemoryFlag("on", VARIANTS, context_evaluator=away)
    api.set_provider_and_wait(InMemoryProvider(dict.fromkeys(NAMES, failing)), DOMAIN)
    switches.reread()
    assert (off(switches), switches.is_valid) == (["mail"], True)
    api.set_provider_and_wait(Wrong({}), DOMAIN)
    for _ in range(2):
        switches.reread()
        assert (off(switches), switches.is_valid) == (["mail"], False)
    ours = [vars(record) for record in caplog.records if record.name == "postfacta"]
    assert [line["msg"] for line in ours] == ["flag.changed", "flags.unreadable"]
    assert ours[1]["reason"] == "RuntimeError"


def test_a_file_is_read_in_place_of_a_provider_and_needs_no_extra(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "openfeature"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "openfeature", None)
    put(file, mail=OFF)
    switches = Switches(NAMES, file=str(file), domain=DOMAIN)
    switches.reread()
    assert off(switches) == ["mail"]
    with pytest.raises(
        ModuleNotFoundError,
        match=re.escape(f"Switches.domain needs openfeature: {install_command('flags')}"),
    ):
        Switches(NAMES, domain=DOMAIN)


# The service


async def test_a_switch_is_turned_off_and_on_while_the_service_runs(
    file: Path, switches: Switches
) -> None:
    async def export(_: Request) -> PlainTextResponse:
        return PlainTextResponse(status_code=200 if switches.is_on("exports") else 503)

    app = harden(
        Starlette(routes=[Route("/exports", export)]),
        service="billing",
        resources=[switches.running()],
    )
    put(file, exports=OFF)

    async def status() -> int:
        return (await call_asgi(app, "GET", "/exports")).status

    async with running(app):
        assert await status() == 503  # from the first request
        put(file)
        await until(lambda: switches.is_on("exports"))
        assert await status() == 200
        await anyio.Path(file).unlink()
        await until(lambda: not switches.is_valid)
        assert await status() == 200
        put(file, exports=OFF)
        await until(lambda: not switches.is_on("exports"))
        assert await status() == 503
    put(file)
    await anyio.sleep(0.05)
    assert off(switches) == ["exports"]  # Nothing reads any more.


async def test_the_file_is_read_in_a_thread(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[threading.Thread] = []
    switches = Switches(NAMES, file=file, every=0.01)
    monkeypatch.setattr(switches, "reread", lambda: threads.append(threading.current_thread()))
    async with switches.running():
        await until(lambda: len(threads) > 2)
    assert threading.current_thread() not in threads
