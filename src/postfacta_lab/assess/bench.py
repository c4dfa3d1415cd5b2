"""What a check sees: one instance of the service, its database, and what can be done to both."""

from __future__ import annotations

import asyncio
import json
import os
import re
import secrets
import signal
from collections.abc import AsyncGenerator, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic
from typing import Any, TypeVar
from urllib.parse import quote

from ..engine.client import HOST, Connection, PartialRequest, Response, ask, encode
from ..engine.http import Collector
from ..engine.processes import Child, fields_of, free_port
from ..engine.values import Headers, Series, at_pointer, parse
from ..engine.variables import Environment
from ..proxy.proxies import Proxy
from ..proxy.toxics import STREAMS, Toxic
from .spec import Ask, Spec

# By what the service file calls it: the usual paths.
_USUAL = {
    "live": (
        "/healthz/live",
        "/livez",
        "/health/live",
        "/live",
        "/healthz",
        "/health",
        "/_health",
        "/ping",
    ),
    "ready": (
        "/healthz/ready",
        "/readyz",
        "/health/ready",
        "/ready",
        "/healthz",
        "/health",
        "/_health",
        "/ping",
    ),
    "metrics": ("/metrics", "/actuator/prometheus", "/-/metrics"),
}
_JSON = {"Content-Type": "application/json"}
_MOST_ROWS = 10_000  # that a run writes into the service's database
MOST_LOG = 256 * 2**20  # bytes, after which no check is begun
PATIENCE = 60.0  # seconds for a start
HAS_PROC = Path("/proc/self/stat").exists()
_PAGE = os.sysconf("SC_PAGE_SIZE")
_PERIOD = 0.05  # seconds in which it gets its share of the processor
_FOR_EVER = 10**9  # milliseconds
_Value = TypeVar("_Value")


class NotServingError(RuntimeError):
    """The service does not start, or does not answer its own read and write."""


@dataclass(frozen=True, slots=True)
class Written:
    """A write: its answer, the mark it carries, and the id it was given."""

    answer: Response
    mark: str
    id: str


async def together(*coroutines: Coroutine[Any, Any, _Value]) -> list[_Value]:
    """Do all at once; return what each of them returned."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(coroutine) for coroutine in coroutines]
    return [task.result() for task in tasks]


class Service(Child):
    """One instance: started by `start`, ended with all of its session by `kill`."""

    def __init__(
        self,
        argv: Sequence[str],
        *,
        env: Environment,
        cwd: Path,
        log: Path,
    ) -> None:
        self.port: int = free_port()
        port = str(self.port)
        words = [word.replace("{port}", port) for word in argv]
        environment = {name: text.replace("{port}", port) for name, text in env.items()}
        environment["PORT"] = port
        super().__init__("service", words, log=log, environment=environment, folder=cwd)

    def memory(self) -> int:
        """Return the resident memory of all of its processes, in bytes."""
        stats = [fields_of(pid) for pid in self.leaves()]
        # Field 24 of proc(5), resident pages; the first two are not among these.
        return sum(int(stat[21]) * _PAGE for stat in stats if stat)

    @asynccontextmanager
    async def rationed(self, share: float) -> AsyncGenerator[None]:
        """Let it run for a share of each 50 ms, as a container's limit does.

        It is stopped and continued.
        """

        async def stop_and_go() -> None:
            while self.is_running:
                self.signal_all(signal.SIGSTOP)
                await asyncio.sleep(_PERIOD * (1 - share))
                self.signal_all(signal.SIGCONT)
                await asyncio.sleep(_PERIOD * share)

        async with asyncio.TaskGroup() as group:
            task = group.create_task(stop_and_go())
            try:
                yield
            finally:
                task.cancel()
                self.signal_all(signal.SIGCONT)


class Link(Proxy):
    """A proxy on a port of the loopback interface, the same after a cut.

    It counts connections, and the most at once.
    """

    def __init__(self, host: str, port: int) -> None:
        super().__init__("dependency", "127.0.0.1:0", f"{host}:{port}")
        self.opened: int = 0
        self.most: int = 0
        self._at_once = 0

    @property
    def port(self) -> int:
        return int(self.listen.rpartition(":")[2])

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.opened += 1
        self._at_once += 1
        self.most = max(self.most, self._at_once)
        try:
            await super()._serve(reader, writer)
        finally:
            self._at_once -= 1

    async def freeze(self) -> None:
        """Accept connections, and pass on nothing."""
        self._slow_down(_FOR_EVER, *STREAMS)

    async def delay(self, seconds: float) -> None:
        self._slow_down(round(1000 * seconds), "downstream")

    def _slow_down(self, milliseconds: int, *streams: str) -> None:
        attributes = {"latency": milliseconds, "jitter": 0}
        self.arrange([Toxic(stream, "latency", stream, 1.0, attributes) for stream in streams])

    async def heal(self) -> None:
        await self.start()
        self.arrange([])

    def count_anew(self) -> None:
        self.opened = 0
        self.most = self._at_once


class Bench:
    """One instance at a time; `link` is the way to the database, if the file names one."""

    def __init__(self, spec: Spec, folder: Path, environment: Environment) -> None:
        self.spec: Spec = spec
        self.folder = folder
        self.durable: bool | None = None
        self.calm: float = 0.05
        self.anchor: Written | None = None
        self.shared: dict[str, Any] = {}
        self.collector: Collector = Collector()
        self.dirty: bool = False
        self.deployed: bool = False
        self.source: str = ""  # the address that requests come from, if not the usual one
        self._environment = environment
        self._rows = 0
        self.link: Link = Link(*(spec.database.address if spec.database else ("", 0)))
        self.service: Service = self._instance()  # not started yet

    # The instance, and what stands around it

    async def heal(self) -> None:
        if self.spec.database:
            await self.link.heal()

    @asynccontextmanager
    async def opened(self) -> AsyncGenerator[None]:
        """Run what stands around the service.

        At the end, also by SIGTERM, end all that was started.
        """
        if (task := asyncio.current_task()) is not None:
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        async with self.collector.listening():
            try:
                await self.heal()
                yield
            finally:
                self.service.kill()
                await self.link.stop()

    def _instance(self) -> Service:
        database = self.spec.database
        env = {
            **self._environment,
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{self.collector.port}",
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
            "OTEL_TRACES_EXPORTER": "otlp",
            "OTEL_BSP_SCHEDULE_DELAY": "200",
            **self.spec.env,
            **({} if self.deployed else self.spec.off),
            **({database.env: database.at(self.link.port)} if database else {}),
        }
        cwd = self.spec.project or Path.cwd()
        return Service(self.spec.start, env=env, cwd=cwd, log=self.folder / "service.log")

    async def start(self, *, wait: bool = True, deployed: bool = False) -> None:
        """Start an instance in place of the one before.

        Wait until it reads, or raise `NotServingError`.
        """
        self.service.kill()
        self.deployed = deployed
        self.dirty = False
        self.source = ""
        self.service = self._instance()
        try:
            self.service.start()
        except OSError as error:
            raise NotServingError(f"{self.spec.start[0]}: {error.strerror}") from None
        if wait:
            await self._until_serving()

    async def _until_serving(self) -> None:
        began = monotonic()
        answer = Response()
        service = self.service
        while monotonic() - began < PATIENCE:
            if not service.is_running:
                output = service.words[-600:]
                raise NotServingError(f"it ended with {service.code} before it served: {output}")
            answer = await self._serves()
            if answer.good or (self.spec.read is None and answer.status):
                return
            await asyncio.sleep(0.05)
        raise NotServingError(
            f"it did not answer within {PATIENCE:.0f} s: {answer} {answer.text[:200]}"
        )

    async def _serves(self) -> Response:
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
            problem = (
                f"{self.read_path()} was answered 404 after a write; is `id` of [write] right?"
            )
            raise NotServingError(f"{problem} {answer.text[:200]}")
        return answer

    def check_bounds(self) -> None:
        if self.service.log.stat().st_size > MOST_LOG:
            raise NotServingError("it fills its log")

    async def guess(self) -> None:
        """Find probes and metrics that the file does not name, by asking for the usual paths."""
        for name, paths in _USUAL.items():
            if getattr(self.spec, name):
                continue
            for path in paths:
                answer = await self.call(path, patience=5)
                if answer.status in {200, 204} or (answer.status == 503 and "ready" in path):
                    fields: dict[str, Any] = {name: path}
                    self.spec = replace(self.spec, **fields)
                    break

    # Requests

    def headers(
        self,
        more: Headers | None = None,
        *,
        auth: bool = True,
    ) -> dict[str, str]:
        credentials = [self.spec.auth] if auth and self.spec.auth else []
        return {
            "Host": f"{HOST}:{self.service.port}",
            "Accept": "*/*",
            **dict(credentials),
            **(more or {}),
        }

    async def call(
        self,
        path: str,
        method: str = "GET",
        *,
        body: bytes | None = None,
        headers: Headers | None = None,
        auth: bool = True,
        patience: float = 10.0,
    ) -> Response:
        """Send one request on a connection of its own."""
        named = self.headers({"Connection": "close", **(headers or {})}, auth=auth)
        request = encode(method, path, named, body=body)
        return await ask(
            self.service.port,
            request,
            method=method,
            patience=patience,
            source=self.source,
        )

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
        self,
        identity: str = "",
        *,
        headers: Headers | None = None,
        patience: float = 10.0,
    ) -> Response:
        read = self.reading
        path = self.read_path(identity)
        if "{id}" in read.path and not identity and self.anchor is None:
            return Response(404)
        named = {**read.headers, **(headers or {})}
        return await self.call(path, read.method, headers=named, patience=patience)

    def writing(self, mark: str) -> tuple[Ask, bytes]:
        """Return the write of the file with its body for a mark."""
        write = self.spec.write or Ask(path="/", method="POST")
        document: Any = {} if write.json is None else write.json
        body = json.dumps(document).replace("{unique}", mark)
        path = write.path.replace("{unique}", mark)
        return replace(write, path=path), body.encode()

    def streaming(self) -> tuple[Ask, bytes | None]:
        """Return the stream of the file, with a body if it has one."""
        stream = self.spec.stream or Ask(path="/")
        identity = self.anchor.id if self.anchor else "0"
        path = stream.path.replace("{unique}", self.mark()).replace("{id}", identity)
        if stream.json is None:
            return replace(stream, path=path), None
        headers = {**_JSON, **stream.headers}
        return replace(stream, path=path, headers=headers), json.dumps(stream.json).encode()

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
        headers: Headers | None = None,
        auth: bool = True,
        patience: float = 10.0,
    ) -> Written:
        """Send the write, with a new mark unless one is given."""
        mark = mark or self.mark()
        write, body = self.writing(mark)
        named = {**_JSON, **write.headers, **(headers or {})}
        answer = await self.call(
            write.path,
            write.method,
            body=body,
            headers=named,
            auth=auth,
            patience=patience,
        )
        identity = at_pointer(answer.json, write.id or "/id")
        if identity is None:
            location = answer.headers.get("location", "").rstrip("/")
            identity = location.rpartition("/")[2] or mark
        return Written(answer, mark, str(identity) if answer.good else "")

    async def has(self, written: Written, patience: float = 10.0) -> bool | None:
        """Whether a write is read back; None if that cannot be known now."""
        answer = await self.read(written.id, patience=patience)
        if answer.good:
            return written.mark in answer.text
        return False if answer.status in {404, 410} else None

    async def hold(self, *, write: bool = True) -> PartialRequest:
        """Send a write but the second half of its body.

        Or a read whole, the answer of which is read later.
        """
        if not write:
            read = self.reading
            request = encode(read.method, self.read_path(), self.headers(read.headers))
            return await PartialRequest.begin(self.service.port, request, method=read.method)
        operation, body = self.writing(self.mark())
        headers = self.headers({**_JSON, **operation.headers})
        request = encode(operation.method, operation.path, headers, body=body)
        return await PartialRequest.begin(
            self.service.port, request, method=operation.method, remainder=len(body) // 2
        )

    async def recovers(
        self,
        streak: int,
        *,
        within: float,
        patience: float,
        writes: bool = False,
        pause: float = 0.05,
    ) -> float | None:
        """Return after how long `row` reads in a row, each with a write or none, were good.

        None if not in time.
        """
        began = monotonic()
        good = 0
        while monotonic() - began < within:
            well = (await self.read(patience=patience)).good
            if well and writes:
                well = (await self.write(patience=patience)).answer.good
            good = good + 1 if well else 0
            if good == streak:
                return monotonic() - began
            await asyncio.sleep(pause)
        return None

    # What it says of itself

    async def scrape(self) -> dict[Series, float]:
        if not self.spec.metrics:
            return {}
        answer = await self.call(self.spec.metrics)
        return parse(answer.text) if answer.good else {}

    def log(self) -> str:
        """Return what it wrote, of which colours are taken away."""
        return re.sub(r"\x1b\[[\d;]*m", "", self.service.words)
