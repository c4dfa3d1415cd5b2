"""What a check sees: one instance of the service, and what can be done to it."""

from __future__ import annotations

import asyncio
import json
import re
import secrets
import signal
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic
from typing import Any
from urllib.parse import quote

from ..engine.client import HOST, Answer, Connection, Held, ask, encode
from ..engine.http import Collector
from ..engine.values import Series, at_pointer, parse
from .link import Link
from .model import Verdict
from .service import Service
from .spec import Ask, Spec

__all__ = ["Bench", "NotServingError", "Written"]

_LIVE = ("/healthz/live", "/livez", "/health/live", "/live", "/healthz", "/health", "/_health", "/ping")
_READY = ("/healthz/ready", "/readyz", "/health/ready", "/ready", "/healthz", "/health", "/_health", "/ping")
_METRICS = ("/metrics", "/actuator/prometheus", "/-/metrics")
_MOST_ROWS = 10_000
MOST_LOG = 256 * 2**20  # bytes, after which no check is begun
PATIENCE = 60.0  # seconds for a start


class NotServingError(RuntimeError):
    """The service does not start, or does not answer its own read and write."""


@dataclass(frozen=True, slots=True)
class Written:
    """A write: its answer, the mark it carries, and the id it was given."""

    answer: Answer
    mark: str
    id: str


class Bench:
    """One instance at a time. `link` is there if a database is named; `read`, `write` and probes if they are known."""

    def __init__(self, spec: Spec, folder: Path, environment: Mapping[str, str]) -> None:
        self.spec = spec
        self.folder = folder
        self.durable: bool | None = None
        self.calm = 0.05
        self.anchor: Written | None = None
        self.shared: dict[str, Any] = {}
        self.collector = Collector()
        self._around = AsyncExitStack()
        self.link = Link(*spec.database.address) if spec.database else None
        self.dirty = self.deployed = False
        self.source = ""  # the address that requests come from, if not the usual one
        self._environment = environment
        self._service: Service | None = None
        self._rows = 0

    # The instance

    @property
    def service(self) -> Service:
        """The instance; there is one from the first start on."""
        if self._service is None:
            raise NotServingError("not started")
        return self._service

    async def open(self) -> None:
        """Start what stands around the service; SIGTERM cancels the task from now on, so that all of it is ended."""
        if (task := asyncio.current_task()) is not None:
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        await self._around.enter_async_context(self.collector.listening())
        if self.link is not None:
            self._around.push_async_callback(self.link.stop)
            await self.link.start()

    async def close(self) -> None:
        """End the instance, and all that was started."""
        if self._service is not None:
            self._service.kill()
        await self._around.aclose()

    def env(self) -> dict[str, str]:
        endpoint = f"http://127.0.0.1:{self.collector.port}"
        env = {
            **self._environment,
            "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
            "OTEL_TRACES_EXPORTER": "otlp",
            "OTEL_BSP_SCHEDULE_DELAY": "200",
            **self.spec.env,
            **({} if self.deployed else self.spec.off),
        }
        if self.spec.database is not None and self.link is not None:
            env[self.spec.database.env] = self.spec.database.at(self.link.port)
        return env

    async def start(self, *, wait: bool = True, deployed: bool = False) -> None:
        """Start an instance in place of the one before; wait until it reads, or raise `NotServingError`."""
        if self._service is not None:
            self._service.kill()
        self.deployed, self.dirty, self.source = deployed, False, ""
        cwd = self.spec.project or Path.cwd()
        self._service = Service(self.spec.start, env=self.env(), cwd=cwd, log=self.folder / "service.log")
        try:
            self._service.start()
        except OSError as error:
            raise NotServingError(f"{self.spec.start[0]}: {error.strerror}") from None
        if wait:
            await self.until_serving()

    async def until_serving(self) -> None:
        """Wait until it answers its read, or raise `NotServingError`."""
        began, answer = monotonic(), Answer()
        while monotonic() - began < PATIENCE:
            if not self.service.is_running:
                raise NotServingError(
                    f"it ended with {self.service.code} before it served: {self.service.output()[-600:]}"
                )
            answer = await self._serves()
            if answer.good or (self.spec.read is None and answer.status):
                return
            await asyncio.sleep(0.05)
        raise NotServingError(f"it did not answer within {PATIENCE:.0f} s: {answer} {answer.text[:200]}")

    async def _serves(self) -> Answer:
        """Read; write first what is to be read, if the path of the read wants an id."""
        answer = await self.read(patience=5)
        if self.spec.write is None or answer.status != 404:
            return answer
        written = await self.write(patience=5)
        if not written.answer.good:
            return written.answer
        self.anchor = written
        answer = await self.read(patience=5)
        if answer.status == 404:
            raise NotServingError(
                f"{self.read_path()} was answered 404 after a write; is `id` of [write] right? {answer.text[:200]}"
            )
        return answer

    def check_bounds(self) -> None:
        if self.service.written() > MOST_LOG:
            raise NotServingError("it fills its log")

    async def guess(self) -> None:
        """Find probes and metrics that the file does not name, by asking for the usual paths."""
        self.spec = replace(
            self.spec,
            live=self.spec.live or await self._first(_LIVE),
            ready=self.spec.ready or await self._first(_READY),
            metrics=self.spec.metrics or await self._first(_METRICS),
        )

    async def _first(self, paths: tuple[str, ...]) -> str:
        for path in paths:
            answer = await self.call(path, patience=5)
            if answer.status in {200, 204} or (answer.status == 503 and "ready" in path):
                return path
        return ""

    # Requests

    def headers(self, more: Mapping[str, str] | None = None, *, auth: bool = True) -> dict[str, str]:
        """Return the headers of a request, with the credentials of the file."""
        headers = {"Host": f"{HOST}:{self.service.port}", "Accept": "*/*"}
        if auth and self.spec.auth is not None:
            headers[self.spec.auth[0]] = self.spec.auth[1]
        return {**headers, **(more or {})}

    async def call(
        self,
        path: str,
        method: str = "GET",
        *,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        auth: bool = True,
        patience: float = 10.0,
    ) -> Answer:
        """Send one request on a connection of its own."""
        request = encode(
            method, path, self.headers({"Connection": "close", **(headers or {})}, auth=auth), body=body
        )
        return await ask(self.service.port, request, method=method, patience=patience, source=self.source)

    async def connect(self) -> Connection:
        return await Connection.open(self.service.port)

    @property
    def reading(self) -> Ask:
        """The read of the file; with an id in its path if it wants one."""
        return self.spec.read or Ask(path=self.spec.live or "/")

    def read_path(self, identity: str = "") -> str:
        """Return the path of the read, of the first write if none is given."""
        identity = identity or (self.anchor.id if self.anchor else "0")
        return self.reading.path.replace("{id}", quote(identity, safe=""))

    async def read(
        self, identity: str = "", *, headers: Mapping[str, str] | None = None, patience: float = 10.0
    ) -> Answer:
        read = self.reading
        if "{id}" in read.path and not identity and self.anchor is None:
            return Answer(404)
        return await self.call(
            self.read_path(identity),
            read.method,
            headers={**read.headers, **(headers or {})},
            patience=patience,
        )

    def writing(self, mark: str) -> tuple[Ask, bytes]:
        """Return the write of the file with its body for a mark."""
        write = self.spec.write or Ask(path="/", method="POST")
        body = json.dumps(write.json if write.json is not None else {}).replace("{unique}", mark).encode()
        return replace(write, path=write.path.replace("{unique}", mark)), body

    def mark(self) -> str:
        """Return a mark that nothing else has; raise after 10,000 rows."""
        self._rows += 1
        if self._rows > _MOST_ROWS:
            raise RuntimeError("10,000 rows were written, and no more are")
        return f"assess-{secrets.token_hex(8)}"

    async def write(
        self,
        mark: str = "",
        *,
        headers: Mapping[str, str] | None = None,
        auth: bool = True,
        patience: float = 10.0,
    ) -> Written:
        """Send the write, with a new mark unless one is given."""
        mark = mark or self.mark()
        write, body = self.writing(mark)
        answer = await self.call(
            write.path,
            write.method,
            body=body,
            headers={"Content-Type": "application/json", **write.headers, **(headers or {})},
            auth=auth,
            patience=patience,
        )
        return Written(answer, mark, self._id_of(answer, write, mark))

    def _id_of(self, answer: Answer, write: Ask, mark: str) -> str:
        if not answer.good:
            return ""
        value = at_pointer(answer.json, write.id or "/id")
        if value is not None:
            return str(value)
        return answer.headers.get("location", "").rstrip("/").rpartition("/")[2] or mark

    async def has(self, written: Written, patience: float = 10.0) -> bool | None:
        """Whether a write is read back; None if that cannot be known now."""
        answer = await self.read(written.id, patience=patience)
        if answer.good:
            return written.mark in answer.text
        return False if answer.status in {404, 410} else None

    async def survivors(self, writes: Sequence[Written], what: str) -> Verdict:
        """Read writes back after something was done; what cannot be known is no loss."""
        found = [await self._patiently(written) for written in writes]
        lost, unknown = found.count(False), found.count(None)
        if lost:
            return Verdict.fails(f"{lost} of {len(writes)} acknowledged writes were lost by {what}")
        if unknown:
            return Verdict.not_run(
                f"{unknown} of {len(writes)} writes could not be read back, so it is not known"
            )
        return Verdict.passes(f"{len(writes)} acknowledged writes were read back after {what}")

    async def _patiently(self, written: Written) -> bool | None:
        for _ in range(30):
            if (there := await self.has(written)) is not None:
                return there
            await asyncio.sleep(0.2)
        return None

    async def hold(self, *, write: bool = True) -> Held:
        """Send a write but the second half of its body; or a read whole, the answer of which is read later."""
        if not write:
            read = self.reading
            request = encode(read.method, self.read_path(), self.headers(read.headers))
            return await Held.begin(self.service.port, request, method=read.method)
        ask_, body = self.writing(self.mark())
        headers = self.headers({"Content-Type": "application/json", **ask_.headers})
        request = encode(ask_.method, ask_.path, headers, body=body)
        return await Held.begin(self.service.port, request, method=ask_.method, rest=len(body) // 2)

    async def recovers(
        self, row: int, *, within: float, patience: float, writes: bool = False
    ) -> float | None:
        """Return after how long `row` reads in a row, each with a write or none, were good; None if not in time."""
        began, good = monotonic(), 0
        while monotonic() - began < within:
            well = (await self.read(patience=patience)).good and (
                not writes or (await self.write(patience=patience)).answer.good
            )
            good = good + 1 if well else 0
            if good == row:
                return monotonic() - began
            await asyncio.sleep(0.05)
        return None

    # What it says of itself

    async def scrape(self) -> dict[Series, float]:
        if not self.spec.metrics:
            return {}
        answer = await self.call(self.spec.metrics)
        return parse(answer.text) if answer.good else {}

    def log(self) -> str:
        """Return what it wrote, of which colours are taken away."""
        return re.sub(r"\x1b\[[\d;]*m", "", self.service.output())
