"""Check a deployed service from outside, as its users reach it."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final, cast
from uuid import uuid4

import anyio
import httpx2

from .doctor import Finding, report
from .settings import SettingsError

WITHIN: Final = 30.0  # seconds after which it has failed
NOT_RUN: Final = 77  # the exit code of a skipped test, as in Automake
_REQUEST_TIMEOUT = 10.0  # seconds
_INCIDENTS: Final = "/api/v1/incidents"
_HEADERS: Final = {
    "content-security-policy": "default-src 'self'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "x-request-id": "",
}
_SERIES = (
    "http_server_request_duration_seconds",
    "postfacta_build_info",
    "process_start_time_seconds",
)
_BUILD: Final = re.compile(r'^postfacta_build_info\{.*?\bversion="([^"]*)"', re.MULTILINE)


class _CheckError(Exception):
    """What a check found, or why it could not look."""

    def __init__(self, text: str, verdict: str = "fail") -> None:
        super().__init__(text)
        self.verdict = verdict


@dataclass(kw_only=True, repr=False)
class Smoke:
    """One look at a service; reads, then records an exercise, reads it back and archives it."""

    url: str
    token: str = ""  # of a person, or to read and write incidents
    metrics_token: str = ""
    traffic_key: str = ""  # lets its requests be `synthetic`: no objective counts them
    version: str = ""  # that must run; empty accepts any
    may_write: bool | None = None  # None writes unless the environment is `production`
    transport: httpx2.AsyncBaseTransport | None = None

    _http: httpx2.AsyncClient = field(init=False)
    _recorded: Mapping[str, Any] = field(default_factory=dict[str, Any], init=False)
    _environment = _running_version = _etag = ""

    async def run(self, say: Callable[[str], None]) -> int:
        """Make all checks and print a line for each.

        Return 0, 1 if one failed, else 77 if one was not run.
        """
        findings: list[Finding] = []
        key = self.traffic_key
        headers = {"X-Traffic-Class": "synthetic", "X-Traffic-Key": key} if key else {}
        checks = (
            self.live,
            self.ready,
            self.about,
            self.headers,
            self.cors,
            self.closed,
            self.metrics,
            self.versions,
            self.identity,
            self.write,
            self.read,
            self.archive,
        )
        with anyio.move_on_after(WITHIN) as limit:
            async with httpx2.AsyncClient(
                base_url=self.url,
                headers=headers,
                timeout=_REQUEST_TIMEOUT,
                trust_env=False,
                transport=self.transport,
            ) as self._http:
                for check in checks:
                    finding = await _run(check.__name__, check)
                    findings.append(finding)  # At once: a time-out keeps what was checked.
        if limit.cancelled_caught:
            findings.append(Finding("time", "fail", f"not done within {WITHIN:g} s"))
        if code := report(findings, say):
            return code
        return NOT_RUN if any(finding.verdict == "skip" for finding in findings) else 0

    async def live(self, path: str = "/healthz/live") -> str:
        await self._ask("GET", path)
        return f"{path} answers 200"

    async def ready(self) -> str:
        return await self.live("/healthz/ready")

    async def about(self) -> str:
        about = _members(await self._ask("GET", "/service-info"))
        self._environment = str(about.get("environment", ""))
        self._running_version = str(
            cast("dict[str, Any]", about.get("codebase", {})).get("version", "")
        )
        if self.token and self._environment == "production" and self.may_write is None:
            raise SettingsError(
                f"{self.url} is a production: --write records an exercise there and archives it,"
                " --read-only does not"
            )
        return f"environment {self._environment}"

    async def headers(self) -> str:
        answer = await self._ask("GET", "/service-info")
        tls = {} if self._environment == "local" else {"strict-transport-security": "max-age="}
        expected = _HEADERS | tls
        lacking = [
            name for name, value in expected.items() if value not in answer.headers.get(name, "\0")
        ]
        _need(not lacking, f"missing or changed: {', '.join(lacking)}")
        return "security headers and a request id"

    async def cors(self) -> str:
        answer = await self._ask("GET", "/healthz", Origin="https://smoke.invalid")
        _need(
            "access-control-allow-origin" not in answer.headers,
            "an unknown origin may read answers",
        )
        return "an unknown origin is refused"

    async def closed(self) -> str:
        await self._ask("GET", _INCIDENTS, 401)
        return "incidents need a token"

    async def metrics(self) -> str:
        authorization = (
            {"Authorization": f"Bearer {self.metrics_token}"} if self.metrics_token else {}
        )
        statuses = (200,) if authorization else (200, 401, 403, 404)
        answer = await self._ask("GET", "/metrics", *statuses, **authorization)
        if not answer.is_success:
            raise _CheckError(
                "closed here: give --metrics-token-file, and an instance's own address", "skip"
            )
        lacking = [name for name in _SERIES if f"# TYPE {name} " not in answer.text]
        _need(not lacking, f"no series {', '.join(lacking)}")
        if build := _BUILD.search(answer.text):
            self._running_version = build[1]
        return "requests, build and process are measured"

    async def versions(self) -> str:
        running = self._running_version or "an unknown version"
        _need(self.version in {"", self._running_version}, f"{running} runs, not {self.version}")
        return f"{running} runs"

    async def identity(self) -> str:
        me = _members(await self._ask("GET", "/api/v1/me", **self._authorization))
        name = me.get("name") or me.get("display_name") or me.get("actor")
        return f"the token is accepted, as {name}"

    async def write(self) -> str:
        headers = self._authorization  # Without a token, that is what is missing.
        if self.may_write is False:
            raise _CheckError("--read-only", "skip")
        _need(bool(self._environment), "nothing was written: the environment is not known")
        new = {
            "title": "Smoke test",
            "description": "Recorded by `postfacta smoke`, which archives it.",
            "severity": "LOW",
            "kind": "exercise",
        }
        headers["Idempotency-Key"] = f'"{uuid4()}"'
        answers = [await self._ask("POST", _INCIDENTS, 201, new=new, **headers) for _ in "12"]
        first = _members(answers[0])
        repeated = _members(answers[1])
        self._recorded = first
        self._etag = answers[0].headers.get("etag", "")
        _need(
            bool(first.get("id")) and first["id"] == repeated.get("id"),
            "sent twice, it was recorded twice",
        )
        return f"{first.get('ref')} is recorded, and once though it was sent twice"

    async def read(self) -> str:
        incident = _members(await self._ask("GET", self._path, **self._authorization))
        is_same = {key: incident.get(key) for key in self._recorded} == self._recorded
        _need(is_same, "what was recorded reads otherwise")
        return "it reads as it was recorded"

    async def archive(self) -> str:
        await self._ask(
            "DELETE", self._path, 204, **self._authorization, **{"If-Match": self._etag}
        )
        incident = _members(await self._ask("GET", self._path, **self._authorization))
        _need(bool(incident.get("archived_at")), "it is still among the others")
        return "it is archived"

    @property
    def _authorization(self) -> dict[str, str]:
        if not self.token:
            raise _CheckError("no token: give --token-file", "skip")
        return {"Authorization": f"Bearer {self.token}"}

    @property
    def _path(self) -> str:
        if not self._recorded.get("id"):
            raise _CheckError("nothing was recorded", "skip")
        return f"{_INCIDENTS}/{self._recorded['id']}"

    async def _ask(
        self, method: str, path: str, *statuses: int, new: object = None, **headers: str
    ) -> httpx2.Response:
        answer = await self._http.request(method, path, json=new, headers=headers)
        expected = statuses or (200,)
        _need(
            answer.status_code in expected,
            f"{method} {path} answers {answer.status_code}, not {expected[0]}",
        )
        return answer


async def _run(name: str, check: Callable[[], Awaitable[str]]) -> Finding:
    try:
        return Finding(name, "ok", await check())
    except _CheckError as fault:
        return Finding(name, fault.verdict, str(fault))
    except httpx2.HTTPError as error:
        return Finding(name, "fail", f"no answer: {type(error).__name__}")


def _need(true: bool, fault: str) -> None:  # noqa: FBT001 - as `assert` has it
    if not true:
        raise _CheckError(fault)


def _members(answer: httpx2.Response) -> dict[str, Any]:
    with suppress(ValueError):
        members = answer.json()
        if isinstance(members, dict):
            return cast("dict[str, Any]", members)
    raise _CheckError("the answer is no JSON object")
