"""Check a deployed service from outside, as its users reach it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final, cast
from uuid import uuid4

import anyio
import httpx2

from .doctor import Finding, report
from .settings import SettingsError

WITHIN: Final = 30.0  # seconds after which it has failed
NOT_RUN: Final = 77
_EACH = 10.0  # seconds for one answer
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


class _FoundError(Exception):
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
    _environment = _runs = _etag = ""

    async def run(self, say: Callable[[str], None]) -> int:
        """Make all checks and print a line for each.

        Return 0, 1 if one failed, else 77 if one was not run.
        """
        found: list[Finding] = []
        key = self.traffic_key
        marks = {"X-Traffic-Class": "synthetic", "X-Traffic-Key": key} if key else {}
        checks = (
            *(
                self.live,
                self.ready,
                self.about,
                self.headers,
                self.cors,
                self.closed,
                self.metrics,
            ),
            *(self.versions, self.identity, self.write, self.read, self.archive),
        )
        with anyio.move_on_after(WITHIN) as limit:
            async with httpx2.AsyncClient(
                base_url=self.url,
                headers=marks,
                timeout=_EACH,
                trust_env=False,
                transport=self.transport,
            ) as self._http:
                for check in checks:
                    try:
                        found.append(Finding(check.__name__, "ok", await check()))
                    except _FoundError as fault:
                        found.append(Finding(check.__name__, fault.verdict, str(fault)))
                    except httpx2.HTTPError as error:
                        found.append(
                            Finding(check.__name__, "fail", f"no answer: {type(error).__name__}")
                        )
        if limit.cancelled_caught:
            found.append(Finding("time", "fail", f"not done within {WITHIN:g} s"))
        return report(found, say) or (NOT_RUN if any(it.verdict == "skip" for it in found) else 0)

    async def live(self, path: str = "/healthz/live") -> str:
        await self._ask("GET", path)
        return f"{path} answers 200"

    async def ready(self) -> str:
        return await self.live("/healthz/ready")

    async def about(self) -> str:
        about = _members(await self._ask("GET", "/service-info"))
        self._environment = str(about.get("environment", ""))
        self._runs = str(cast("dict[str, Any]", about.get("codebase", {})).get("version", ""))
        if self.token and self._environment == "production" and self.may_write is None:
            raise SettingsError(
                f"{self.url} is a production: --write records an exercise there and archives it,"
                " --read-only does not"
            )
        return f"environment {self._environment}"

    async def headers(self) -> str:
        answer = await self._ask("GET", "/service-info")
        tls = {} if self._environment == "local" else {"strict-transport-security": "max-age="}
        wanted = _HEADERS | tls
        lacking = [
            name for name, value in wanted.items() if value not in answer.headers.get(name, "\0")
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
        own = {"Authorization": f"Bearer {self.metrics_token}"} if self.metrics_token else {}
        answer = await self._ask(
            "GET", "/metrics", *((200,) if own else (200, 401, 403, 404)), **own
        )
        if not answer.is_success:
            raise _FoundError(
                "closed here: give --metrics-token-file, and an instance's own address", "skip"
            )
        lacking = [name for name in _SERIES if f"# TYPE {name} " not in answer.text]
        _need(not lacking, f"no series {', '.join(lacking)}")
        if build := _BUILD.search(answer.text):
            self._runs = build[1]
        return "requests, build and process are measured"

    async def versions(self) -> str:
        runs = self._runs or "an unknown version"
        _need(self.version in {"", self._runs}, f"{runs} runs, not {self.version}")
        return f"{runs} runs"

    async def identity(self) -> str:
        me = _members(await self._ask("GET", "/api/v1/me", **self._own))
        return (
            "the token is accepted, as"
            f" {me.get('name') or me.get('display_name') or me.get('actor')}"
        )

    async def write(self) -> str:
        own = self._own  # Without a token, that is what is missing.
        if self.may_write is False:
            raise _FoundError("--read-only", "skip")
        _need(bool(self._environment), "nothing was written: the environment is not known")
        new = {
            "title": "Smoke test",
            "description": "Recorded by `postfacta smoke`, which archives it.",
            "severity": "LOW",
            "kind": "exercise",
        }
        own["Idempotency-Key"] = f'"{uuid4()}"'
        answers = [await self._ask("POST", _INCIDENTS, 201, new=new, **own) for _ in "12"]
        first, again = map(_members, answers)
        self._recorded = first
        self._etag = answers[0].headers.get("etag", "")
        _need(
            bool(first.get("id")) and first["id"] == again.get("id"),
            "sent twice, it was recorded twice",
        )
        return f"{first.get('ref')} is recorded, and once though it was sent twice"

    async def read(self) -> str:
        found = _members(await self._ask("GET", self._path, **self._own))
        same = {key: found.get(key) for key in self._recorded} == self._recorded
        _need(same, "what was recorded reads otherwise")
        return "it reads as it was recorded"

    async def archive(self) -> str:
        await self._ask("DELETE", self._path, 204, **self._own, **{"If-Match": self._etag})
        found = _members(await self._ask("GET", self._path, **self._own))
        _need(bool(found.get("archived_at")), "it is still among the others")
        return "it is archived"

    @property
    def _own(self) -> dict[str, str]:
        if not self.token:
            raise _FoundError("no token: give --token-file", "skip")
        return {"Authorization": f"Bearer {self.token}"}

    @property
    def _path(self) -> str:
        if not self._recorded.get("id"):
            raise _FoundError("nothing was recorded", "skip")
        return f"{_INCIDENTS}/{self._recorded['id']}"

    async def _ask(
        self, method: str, path: str, *wanted: int, new: object = None, **headers: str
    ) -> httpx2.Response:
        answer = await self._http.request(method, path, json=new, headers=headers)
        right = wanted or (200,)
        _need(
            answer.status_code in right,
            f"{method} {path} answers {answer.status_code}, not {right[0]}",
        )
        return answer


def _need(true: bool, fault: str) -> None:  # noqa: FBT001 - as `assert` has it
    if not true:
        raise _FoundError(fault)


def _members(answer: httpx2.Response) -> dict[str, Any]:
    with suppress(ValueError):
        if isinstance(found := answer.json(), dict):
            return cast("dict[str, Any]", found)
    raise _FoundError("the answer is no JSON object")
