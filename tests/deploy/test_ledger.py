"""The ledger of deployments keeps what happened, notices changed lines, and sends each entry to PostFacta."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from deploy.ledger import Entry, LedgerError, append, main, previous, read, send, signal, summary
from postfacta_app.migrations import upgrade
from postfacta_embedded import EmbeddedPostgres
from tests.app.running import LiveService, live_service
from tests.kit.pg import create_database

MOMENT = "2026-11-28T03:00:00Z"


def entry(
    what: str = "1.4.0", kind: str = "deploy", outcome: str = "succeeded", **more: Any
) -> Entry:
    given: dict[str, Any] = {
        "environment": "production",
        "by": "ci",
        "at": MOMENT,
        "seconds": 30.0,
        **more,
    }
    return Entry(what=what, kind=kind, outcome=outcome, **given)


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    file = tmp_path / "ledger.jsonl"
    for what in ("1.3.0", "1.4.0", "1.5.0"):
        append(file, entry(what))
    return file


def test_what_is_added_is_read_in_its_order(ledger: Path) -> None:
    assert [it.what for it in read(ledger)] == ["1.3.0", "1.4.0", "1.5.0"]
    assert read(ledger.with_name("none")) == []


Lines = list[str]
DAMAGES: dict[str, tuple[Callable[[Lines], Lines], str]] = {
    "changed": (lambda lines: [lines[0].replace("1.3.0", "1.3.1"), *lines[1:]], "line 2"),
    "removed": (lambda lines: [lines[0], lines[2]], "line 2"),
    "beginning": (lambda lines: lines[1:], "line 1"),
    "torn": (lambda lines: [*lines[:2], lines[2].rstrip("\n")], "line 3"),
    "type": (lambda lines: [*lines[:2], lines[2].replace('"by": "ci"', '"by": 7')], "line 3"),
    "name": (lambda lines: [*lines[:2], lines[2].replace('"by": "ci"', '"of": "ci"')], "line 3"),
    "list": (lambda lines: [*lines, "[]\n"], "line 4"),
    "empty": (lambda lines: [*lines, "\n"], "line 4"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_ledger_is_refused_and_not_added_to(ledger: Path, damage: str) -> None:
    change, where = DAMAGES[damage]
    ledger.write_text("".join(change(ledger.read_text().splitlines(keepends=True))))
    before = ledger.read_bytes()
    with pytest.raises(LedgerError, match=where):
        append(ledger, entry())
    assert ledger.read_bytes() == before


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "release"}, {"outcome": "fine"}, {"seconds": -1.0}, {"seconds": float("nan")}, {"at": "today"},
        {"by": ""}, {"what": "x" * 301}, {"seconds": True},
    ],
    ids=str,
)  # fmt: skip
def test_an_invalid_entry_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(LedgerError):
        entry(**wrong)


def test_entries_of_many_writers_form_one_chain(tmp_path: Path) -> None:
    file = tmp_path / "ledger.jsonl"
    threads = [threading.Thread(target=append, args=(file, entry(f"1.{n}.0"))) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(read(file)) == 8


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ([], None),
        ([entry("1")], None),
        ([entry("1"), entry("2")], "1"),
        ([entry("1"), entry("2", outcome="failed")], "1"),
        ([entry("1"), entry("2"), entry("1", "rollback"), entry("3")], "1"),
        ([entry("1"), entry("2"), entry("x=on", "flag")], "1"),
        ([entry("1"), entry("2"), entry("2")], "1"),
        ([entry("1"), entry("2", environment="staging"), entry("3")], "1"),
        ([entry("1"), entry("2"), entry("1", "rollback")], None),
    ],
)  # fmt: skip
def test_one_goes_back_to_the_last_good_version(entries: list[Entry], expected: str | None) -> None:
    assert previous(entries, "production") == expected


def test_deploy_success_counts_what_was_undone_as_failed() -> None:
    entries = [entry(str(n)) for n in range(18)]
    entries += [entry("18", outcome="failed"), entry("19"), entry("18", "rollback", seconds=60.0)]
    found = summary(entries)
    assert (found.deploys, found.success, found.rollbacks) == (20, 18 / 20, 1)
    assert (found.median, found.longest) == (None, None)
    entries += [entry("18", "rollback", seconds=number) for number in (10.0, 20.0, 90.0, 30.0)]
    assert (summary(entries).median, summary(entries).longest) == (30.0, 90.0)


def test_too_few_deployments_give_no_figure(
    capsys: pytest.CaptureFixture[str], ledger: Path
) -> None:
    assert summary([entry()] * 19).success is None
    assert main(["report", "--file", str(ledger)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "deploy success     not enough data (n=3)",
        "time to roll back  not enough data (n=0)",
    ]


def record(ledger: Path, *words: str) -> int:
    return main(
        ["record", "--file", str(ledger), "--environment", "production", "--by", "ci", *words]
    )


def test_the_commands_agree(ledger: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert record(ledger, "--what", "1.6.0", "--outcome", "failed", "--seconds", "7") == 0
    assert read(ledger)[-1].outcome == "failed"
    assert main(["previous", "--file", str(ledger), "--environment", "production"]) == 0
    assert capsys.readouterr().out == "1.5.0\n"
    assert main(["previous", "--file", str(ledger), "--environment", "staging"]) == 1
    ledger.write_text("{}\n")
    assert record(ledger, "--what", "1.7.0") == 1
    assert "line 1" in capsys.readouterr().err


def test_a_signal_says_what_changed_and_a_flag_is_no_deployment() -> None:
    assert signal(entry(), "postfacta") == {
        "id": f"postfacta:production:deploy:{MOMENT}",
        "kind": "change",
        "occurred_at": MOMENT,
        "title": "Deployed 1.4.0",
        "services": ["postfacta"],
        "environment": "production",
        "payload": {"outcome": "succeeded", "by": "ci", "seconds": 30.0, "note": ""},
    }
    assert signal(entry(kind="rollback"), "x")["payload"]["outcome"] == "rolled_back"
    assert (
        signal(entry(kind="rollback", outcome="failed"), "x")["title"]
        == "Failed: rolled back to 1.4.0"
    )
    assert "outcome" not in signal(entry("read_only=on", "flag"), "x")["payload"]


@pytest.fixture
def refusing() -> Iterator[str]:
    """Listen as a PostFacta that refuses all tokens."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.send_error(401)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it so
            """Write nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_that_a_signal_cannot_be_sent_fails_nothing(
    ledger: Path, tmp_path: Path, refusing: str, capsys: pytest.CaptureFixture[str]
) -> None:
    token = tmp_path / "token"
    token.write_text("a-secret-of-this-test")
    for url, said in (
        (refusing, "401"),
        ("http://127.0.0.1:9", "URLError"),
        ("file:///etc", "neither http"),
    ):
        assert record(ledger, "--what", "1.6.0", "--url", url, "--token-file", str(token)) == 0
        text = capsys.readouterr().err
        assert said in text
        assert "a-secret" not in text
    assert record(ledger, "--what", "1.6.0", "--url", refusing, "--token-file", "/nonexistent") == 0
    assert len(read(ledger)) == 7


@pytest.fixture
def live(programs: None, postgres_server: EmbeddedPostgres) -> Iterator[LiveService]:
    upgrade(create_database(postgres_server, "ledger_template"), progress=lambda _: None)
    with live_service(postgres_server, "ledger_template") as running:
        yield running


def test_a_command_is_timed_and_its_exit_code_returned(
    live: LiveService, ledger: Path, tmp_path: Path
) -> None:
    new = {"name": "ledger", "scopes": ["signals:write"], "source": "deploys"}
    token = tmp_path / "token"
    token.write_text(live.client.post("/api/v1/tokens", json=new).json()["secret"])
    sent = ("--url", live.url, "--token-file", str(token))
    assert (
        record(ledger, "--what", "1.6.0", *sent, "--", sys.executable, "-c", "raise SystemExit(3)")
        == 3
    )
    assert record(ledger, "--what", "1.6.1", *sent, "--", sys.executable, "-c", "") == 0
    assert [(it.what, it.outcome) for it in read(ledger)[-2:]] == [
        ("1.6.0", "failed"),
        ("1.6.1", "succeeded"),
    ]
    signals = live.client.get("/api/v1/signals?service=postfacta").json()["items"]
    assert {it["title"] for it in signals} == {"Failed: deployed 1.6.0", "Deployed 1.6.1"}
    assert send(live.url, token, signal(read(ledger)[-1], "postfacta")) == ""
    metrics = live.client.get("/metrics").text
    assert 'postfacta_deployments_total{environment="production",outcome="failed"} 1.0' in metrics
    assert json.loads(ledger.read_text().splitlines()[-1])["after"]
