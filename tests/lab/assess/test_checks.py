"""Checks judge by what they saw, however long it took: a machine that is slow makes no verdict."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from functools import partial
from itertools import count
from typing import Any, cast

import pytest

from postfacta_lab.assess.checks import GROUPS, streams, stress
from postfacta_lab.assess.model import Outcome
from postfacta_lab.assess.runner import _if_calm  # pyright: ignore[reportPrivateUsage]
from postfacta_lab.assess.spec import Ask, Database, Spec
from postfacta_lab.engine.client import Connection, Outcome as Broken, Response
from tests.kit.ports import free_port


def check(name: str) -> Any:
    """Return the function that answers a check, for services that are none of the lab's."""
    return cast("Any", next(group.run for group in GROUPS if name in group.ids))


class Bucket:
    """A service that refuses, but for a few requests in the middle.

    So much time has passed that it lets them in.

    Args:
        trusting: Whether it counts by what X-Forwarded-For says, of anyone or as servers do of a
            proxy on this machine.
    """

    dirty = False
    source = ""

    def __init__(self, *, trusting: bool | str) -> None:
        self._trusting, self._asked = trusting, 0

    async def read(self, headers: Mapping[str, str] | None = None) -> Response:
        self._asked += 1
        trusted = self._trusting is True or self._trusting == (self.source or "127.0.0.1")
        allowed = self._asked <= 30 or 58 <= self._asked < 64 or (trusted and headers is not None)
        return Response(200) if allowed else Response(429, {"retry-after": "1"})


@pytest.mark.parametrize(
    ("trusting", "word"), [(False, "pass"), (True, "partial"), ("127.0.0.1", "pass")]
)
def test_a_limit_is_evaded_only_if_strangers_get_through(trusting: bool | str, word: str) -> None:  # noqa: FBT001
    result = asyncio.run(check("RATE-1")(Bucket(trusting=trusting)))
    assert result.word == word, result.evidence


class Dead:
    """A service that ended when it was first asked, so that no client waits for it."""

    is_running, code, calm = False, 2, 0.05

    def __init__(self) -> None:
        self.service, self.spec = self, Spec(start=("x",), write=Ask(path="/", method="POST"))

    def read_path(self) -> str:
        return "/"

    def headers(self, more: Mapping[str, str]) -> Mapping[str, str]:
        return more

    def mark(self) -> str:
        return "assess-1"

    def writing(self, mark: str) -> tuple[Ask, bytes]:
        return Ask(path="/", method="POST"), mark.encode()

    async def connect(self) -> Connection:
        return await Connection.open(free_port())

    async def read(self, patience: float) -> Response:
        return Response()


def test_a_service_that_died_did_not_end_slow_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stress, "_BESIDE", 1)
    result = asyncio.run(check("TIME-1")(Dead()))
    assert (result.word, result.evidence) == ("fail", "it died: code 2")
    assert result.sure


class Silent:
    """A service that never answers while its database is silent, and soon when that is back."""

    read_by, is_silent = 0.0, False

    def __init__(self) -> None:
        self.link, self.spec, self.durable = self, Spec(start=("x",)), True

    async def stop(self) -> None:
        self.is_silent = False

    async def freeze(self) -> None:
        self.is_silent = True

    async def heal(self) -> None:
        self.is_silent = False

    async def recovers(self, row: int, **_: Any) -> float:
        return 0.1

    async def read(self, patience: float) -> Response:
        return Response(seconds=patience) if self.is_silent else Response(503, {"retry-after": "1"})


def test_what_is_never_answered_is_sure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stress, "_CUT", 0.5)
    monkeypatch.setattr(stress, "_SILENT", 0.5)
    monkeypatch.setattr(stress, "_SETTLED", 0.1)
    results = asyncio.run(check("TIME-4")(Silent()))
    for name in ("TIME-4", "DEP-4"):
        assert (results[name].word, results[name].sure) == ("fail", True)
    assert results["DEP-2"].word == "pass"


class Errors:
    """A service whose errors have these members, each with the id of its request.

    Args:
        shapes: Of what is unknown, what is not allowed, and what is not valid.
    """

    def __init__(self, *shapes: str) -> None:
        self.spec = Spec(start=("x",), write=Ask(path="/items", method="POST"))
        self._shapes = iter(shapes)

    def read_path(self) -> str:
        return "/items/1"

    def writing(self, mark: str) -> tuple[Ask, bytes]:
        return Ask(path="/items", method="POST"), b""

    async def call(self, path: str, method: str = "GET", **_: Any) -> Response:
        if path.endswith("json"):
            return Response(200)
        if not path.startswith("/items"):
            return Response(404, body=b'{"error": "no API is here"}')
        members = dict.fromkeys(next(self._shapes, "").split(), "x")
        return Response(400, {"x-request-id": "1"}, json.dumps(members).encode())


@pytest.mark.parametrize(
    ("shapes", "word"),
    [
        (
            ("title status", "title status", "title status errors"),
            "pass",
        ),  # RFC 9457: members that a kind of error adds
        (("detail", "detail", "detail"), "pass"),
        (("detail", "detail", "message"), "partial"),
        (("", "", ""), "partial"),
    ],
)
def test_a_shape_is_what_all_errors_share(shapes: tuple[str, ...], word: str) -> None:
    result = asyncio.run(check("OPER-7")(Errors(*shapes)))
    assert result.word == word, result.evidence


class Pool:
    """A service before a database that is a little slow, of which some answers come too late."""

    def __init__(self, connections: int) -> None:
        self.link, self.opened, self.most = self, connections, connections
        self.spec = Spec(
            start=("x",), database=Database(env="X", url="x://127.0.0.1:1", max_connections=20)
        )
        self._asked = 0

    async def delay(self, seconds: float) -> None:
        await asyncio.sleep(0)

    async def heal(self) -> None:
        await asyncio.sleep(0)

    def count_anew(self) -> None:
        """Nothing was counted before."""

    async def read(self, patience: float) -> Response:
        await asyncio.sleep(0.05)
        self._asked += 1
        return Response(504 if self._asked % 50 == 0 else 200)


@pytest.mark.parametrize(
    ("connections", "outcome"), [(13, Outcome.NOT_RUN), (60, Outcome.MEASURED)]
)
def test_an_answer_too_late_on_a_busy_machine_fails_no_pool(
    connections: int, outcome: Outcome, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stress, "_CROWD", 0.2)
    result = asyncio.run(check("DEP-5")(Pool(connections)))
    assert result.word == "fail"
    assert _if_calm("DEP-5", result, busy=True).outcome is outcome


@pytest.mark.parametrize(("step", "word"), [(1.0, "not run"), (0.01, "fail")])
def test_a_limit_that_was_not_reached_in_time_is_not_missing(
    step: float, word: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = count(0.0, step)
    monkeypatch.setattr(stress, "monotonic", lambda: next(ticks))
    free = Bucket(trusting=True)
    monkeypatch.setattr(free, "read", partial(Bucket.read, free, headers={}))
    assert asyncio.run(check("RATE-1")(free)).word == word


WHOLE = Response(200, body=b"data: 1\n\ndata: [DONE]\n\n", seconds=1.0)
RESUMES = Response(200, body=b"data: 1\n\nretry: 3000\n\n", seconds=1.0)
LOOKS_WHOLE = Response(200, body=b"data: 1\n\n", seconds=1.0)
CUT = Response(seconds=1.0, broken=Broken.TRUNCATED)


@pytest.mark.parametrize(
    ("answers", "ends", "word", "score"),
    [
        ([WHOLE] * 4, b"[DONE]", "pass", 1.0),
        ([WHOLE, WHOLE, RESUMES, RESUMES], b"[DONE]", "pass", 1.0),
        ([RESUMES] * 4, b"", "pass", 1.0),
        ([WHOLE, WHOLE, WHOLE, CUT], b"[DONE]", "partial", 0.75),
        ([CUT] * 4, b"[DONE]", "partial", 0.5),
        ([WHOLE, WHOLE, WHOLE, LOOKS_WHOLE], b"[DONE]", "fail", 0.0),
        ([LOOKS_WHOLE] * 4, b"", "fail", 0.0),
        ([WHOLE, WHOLE, WHOLE, Response(503, seconds=0.1)], b"[DONE]", "not run", 0.0),
    ],
)
def test_what_was_cut_may_not_look_whole(
    answers: list[Response], ends: bytes, word: str, score: float
) -> None:
    result = streams.ended(ends, answers)
    assert (result.word, result.score) == (word, score), result.evidence
