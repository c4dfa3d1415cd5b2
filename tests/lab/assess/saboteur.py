"""A service on bare sockets that passes every check, with a switch for each.

`WITHOUT=SHUT-1,METR-4` fails those.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import secrets
import signal
import sys
import traceback
from collections import Counter, deque
from collections.abc import Callable
from contextlib import nullcontext, suppress
from time import monotonic
from typing import Any, cast
from urllib.parse import parse_qs, urlsplit

OFF = frozenset(os.environ.get("WITHOUT", "").split(","))
STORE = urlsplit(os.environ["DATABASE_URL"])
TOKEN = os.environ.get("TOKEN", "saboteur-token-1")
RATE = int(os.environ.get("RATE_LIMIT") or 0)
_, _, COLLECTOR = os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT", "").rpartition(":")
POOL, LARGEST, HEADERS = 5, 2**20, 2**15


def on(check: str) -> bool:
    return check not in OFF


class Refused(Exception):  # noqa: N818 - it is an answer
    """An answer that is no success."""

    def __init__(self, status: int, detail: str, **headers: str) -> None:
        super().__init__(detail)
        self.status, self.detail, self.headers = status, detail, headers


class Store:
    """A pool of connections to the database, with a limit of time and a breaker."""

    def __init__(self, on_overload: Callable[[], None]) -> None:
        self.on_overload = on_overload
        self.idle: deque[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = deque()
        self.room = asyncio.Semaphore(POOL if on("DEP-5") else 1000)
        self.used = self.waiting = self.failures = 0
        self.open_until = self.dead_until = 0.0
        self.limit = 40.0 if not on("TIME-4") else 0.9 if on("DEP-4") else 4.0
        self.there = False

    async def ask(self, do: str, key: str, value: Any = None) -> Any:
        now = monotonic()
        if now < self.dead_until or (on("DEP-4") and on("TIME-4") and now < self.open_until):
            raise Refused(503, "the database is away", retry_after="1")
        self.waiting += 1
        try:
            async with asyncio.timeout(self.patience()):
                await self.room.acquire()
        except TimeoutError:
            self.on_overload()
            raise Refused(503, "too much to do", retry_after="1") from None
        finally:
            self.waiting -= 1
        self.used += 1
        try:
            async with asyncio.timeout(self.limit):
                found = await self._exchange({"do": do, "key": key, "value": value})
        except (OSError, TimeoutError, ValueError):
            self._failed()
            raise Refused(503, "the database is away", retry_after="1") from None
        finally:
            self.used -= 1
            self.room.release()
        self.failures = 0
        return found

    def patience(self) -> float:
        """Return how long to wait for a connection."""
        if not (on("LOAD-1") and on("TIME-4")):
            return 40
        return 0.25 if on("DEP-4") or self.failures < 3 else 4

    def _failed(self) -> None:
        self.failures += 1
        if self.failures >= 3:
            self.open_until = monotonic() + 1.5
        if not on("DEP-3"):
            self.dead_until = monotonic() + 60

    async def _exchange(self, asked: dict[str, Any]) -> Any:
        while True:
            kept = bool(self.idle)
            reader, writer = (
                self.idle.pop()
                if kept
                else await asyncio.open_connection(STORE.hostname, STORE.port)
            )
            try:
                writer.write(json.dumps(asked).encode() + b"\n")
                line = await reader.readline()
                if not line:
                    raise ConnectionResetError  # noqa: TRY301 - as the socket would
            except ConnectionResetError:
                writer.transport.abort()
                if not kept:
                    raise
            except BaseException:
                writer.transport.abort()
                raise
            else:
                if on("DEP-5"):
                    self.idle.append((reader, writer))
                else:
                    writer.close()
                return json.loads(line)["value"]

    async def watch(self) -> None:
        was_there = False
        while True:
            try:
                async with asyncio.timeout(0.9):
                    reader, writer = await asyncio.open_connection(STORE.hostname, STORE.port)
                    writer.write(b'{"do": "get", "key": ""}\n')
                    self.there = bool(await reader.readline())
                    writer.close()
            except ConnectionRefusedError:
                self.there = False
                if not was_there and not on("DEP-1"):
                    os._exit(3)
            except (OSError, TimeoutError):
                self.there = False
            was_there = was_there or self.there
            await asyncio.sleep(0.3)


class Request:
    """A request with its head."""

    def __init__(self, method: str, target: str, headers: dict[str, str]) -> None:
        self.method, self.target, self.headers, self.body = method, target, headers, bytearray()
        self.path, _, self.query = target.partition("?")
        given = headers.get("x-request-id", "")
        self.id = given if given and on("LOGS-2") else secrets.token_hex(8)
        self.trace = [*headers.get("traceparent", "").split("-"), "", ""][1]
        self.route = ""


class Service:
    """All of it."""

    def __init__(self) -> None:
        self.store = Store(self.overload)
        self.stopping, self.flush = asyncio.Event(), asyncio.Event()
        self.connections: set[asyncio.Task[None]] = set()
        self.busy: set[asyncio.Task[None]] = set()
        self.counts: Counter[tuple[str, ...]] = Counter()
        self.callers: Counter[str] = Counter()
        self.memory: dict[str, Any] = {}
        self.written: list[str] = []
        self.in_flight = self.writes = self.refusals = 0
        self.refused_at = self.sick_until = 0.0
        self.behind: set[asyncio.Task[None]] = set()

    # Serving

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self.stopping.set)
        server = await asyncio.start_server(
            self.connection, "127.0.0.1", int(os.environ["PORT"]), limit=2**26, backlog=1024
        )
        watching = loop.create_task(self.store.watch())
        await self.stopping.wait()
        if not on("DATA-1"):
            await self.store.ask("drop", "", self.written)
        if not on("SHUT-1"):
            for task in list(self.busy):
                task.cancel()
        if not on("SHUT-3"):
            server.close()
        await asyncio.sleep(0.3)
        if not on("SHUT-4"):
            for task in self.connections - self.busy:
                task.cancel()
        await asyncio.sleep(1.2)
        server.close()
        if self.busy:
            await asyncio.wait(self.busy, timeout=4)
        self.flush.set()
        if self.behind:
            await asyncio.wait(self.behind, timeout=4)
        watching.cancel()
        while not on("SHUT-2"):
            await asyncio.sleep(1)
        os._exit(0)

    async def connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.connections.add(task)
        try:
            while await self.exchange(reader, writer, task):
                pass
        except (OSError, EOFError, asyncio.CancelledError, asyncio.LimitOverrunError, TimeoutError):
            pass
        finally:
            self.connections.discard(task)
            self.busy.discard(task)
            writer.transport.abort()

    async def stream(self, request: Request, writer: asyncio.StreamWriter) -> None:
        """Answer in pieces, the last of which says that it is the last."""
        request.route = "/stream"
        room = nullcontext() if on("STRM-3") else self.store.room
        async with room:
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            for piece in [b"data: 1\n\n"] * 12 + [b"data: [DONE]\n\n"]:
                if self.stopping.is_set() and not on("STRM-1"):
                    break
                writer.write(b"%x\r\n%s\r\n" % (len(piece), piece))
                await writer.drain()
                await asyncio.sleep(0.15)
            writer.write(b"0\r\n\r\n")
            await writer.drain()

    async def exchange(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, task: asyncio.Task[None]
    ) -> bool:
        began, request = monotonic(), Request("GET", "", {})
        status, headers, body = 0, dict[str, str](), b""
        keep = True
        try:
            request = await self.head(reader)
            self.busy.add(task)
            began = monotonic()
            self.in_flight += 1
            try:
                await self.rest(request, reader, writer)
                if request.path == "/stream":
                    await self.stream(request, writer)
                    return False
                status, headers, body = await self.answer(request)
            finally:
                self.in_flight -= 1
        except Refused as refusal:
            status, headers, body = self.problem(request, refusal)
            keep = refusal.status not in {400, 408, 413, 431}
        except (EOFError, OSError):
            raise
        except Exception as error:  # noqa: BLE001 - it is the service's last word
            status, headers, body = self.problem(
                request, Refused(500, f"it failed: {type(error).__name__}")
            )
        if status == -1:
            return False
        closing = (
            request.headers.get("connection", "").lower() == "close"
            or (self.stopping.is_set() and on("SHUT-4"))
            or not keep
        )
        writer.write(self.encode(request, status, headers, body, close=closing))
        await writer.drain()
        self.note(request, status, monotonic() - began)
        self.busy.discard(task)
        if not keep:
            await self.linger(reader, writer)
        return not closing

    async def linger(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Read on for a moment, so that the answer is not lost in a reset."""
        writer.write_eof()
        with suppress(TimeoutError):
            async with asyncio.timeout(0.5):
                for _ in range(16):
                    if not await reader.read(2**16):
                        return

    async def head(self, reader: asyncio.StreamReader) -> Request:
        lines = list[str]()
        size, first = 0, b""
        try:
            first = await asyncio.wait_for(reader.readexactly(1), 20)
            async with asyncio.timeout(3 if on("TIME-1") else 60):
                while True:
                    line = first + await reader.readuntil(b"\n")
                    first = b""
                    size += len(line)
                    if size > HEADERS and on("INPT-2"):
                        raise Refused(431, "headers too large")
                    text = line.decode("latin-1").rstrip("\r\n")
                    if not text:
                        break
                    lines.append(text)
        except TimeoutError:
            if lines or not first:
                raise Refused(408, "headers too slow") from None
            raise
        method, target, version = [*lines[0].split(" "), "", ""][:3] if lines else ("", "", "")
        if (
            not re.fullmatch(r"[A-Z]+", method)
            or not target.startswith("/")
            or version != "HTTP/1.1"
            or not target.isascii()
        ):
            raise Refused(400, "no request")
        return Request(method, target, self.headers(lines[1:]))

    def headers(self, lines: list[str]) -> dict[str, str]:
        headers = dict[str, str]()
        for line in lines:
            name, colon, value = line.partition(":")
            name = name.lower()
            if on("INPT-3") and (not colon or not re.fullmatch(r"[\w!#$%&'*+.^`|~-]+", name)):
                raise Refused(400, "no header")
            name = name.strip()
            if (
                on("INPT-3")
                and name in headers
                and name in {"content-length", "transfer-encoding", "host"}
            ):
                raise Refused(400, "a header stands twice")
            headers.setdefault(name, value.strip())
        length, coding = headers.get("content-length"), headers.get("transfer-encoding")
        if on("INPT-3") and (
            (length and coding)
            or coding not in {None, "chunked"}
            or not re.fullmatch(r"\d{1,12}", length or "0")
        ):
            raise Refused(400, "an ambiguous length")
        return headers

    async def rest(
        self, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            async with asyncio.timeout(3 if on("TIME-2") else 60):
                if (
                    request.headers.get("transfer-encoding") == "chunked"
                    and "content-length" not in request.headers
                ):
                    await self.chunks(request, reader)
                elif length := int(
                    re.sub(r"\D", "", request.headers.get("content-length", "0")) or 0
                ):
                    if length > LARGEST and on("INPT-1"):
                        raise Refused(413, "the body is too large")
                    request.body += await reader.readexactly(length)
        except TimeoutError:
            raise Refused(408, "the body is too slow") from None

    async def chunks(self, request: Request, reader: asyncio.StreamReader) -> None:
        while True:
            line = await reader.readuntil(b"\r\n")
            if not re.fullmatch(rb"[0-9a-fA-F]{1,8}\r\n", line):
                raise Refused(400, "no chunk")
            size = int(line, 16)
            request.body += (await reader.readexactly(size + 2))[:-2]
            if len(request.body) > LARGEST and on("INPT-1"):
                raise Refused(413, "the body is too large")
            if not size:
                return

    # Answering

    async def answer(self, request: Request) -> tuple[int, dict[str, str], bytes]:
        if request.path in PROBES and on("HLTH-1"):
            return self.probe(request)
        match request.method, request.path.split("/")[1:]:
            case "GET", ["metrics"]:
                return 200, {"Content-Type": "text/plain"}, self.exposition().encode()
            case "GET", ["openapi.json"] if on("OPER-7"):
                return 200, {}, b'{"openapi": "3.1.0", "paths": {}}'
            case "POST", ["invoices"]:
                request.route = "/invoices"
                return await self.write(request)
            case "GET", ["invoices", identity]:
                request.route = "/invoices/{id}"
                return await self.read(request, identity)
            case _:
                pass
        raise Refused(404, "there is no such path")

    def probe(self, request: Request) -> tuple[int, dict[str, str], bytes]:
        request.route = request.path
        if not on("HLTH-3") and self.store.waiting:
            raise Refused(503, "too much to do", retry_after="1")
        if (
            request.path == "/healthz/ready"
            and on("HLTH-2")
            and (not self.store.there or self.stopping.is_set())
        ):
            raise Refused(503, "not ready", retry_after="1")
        return 200, {}, b"{}"

    def admit(self, request: Request) -> None:
        if RATE and on("RATE-1"):
            self.callers["127.0.0.1"] += 1
            if self.callers["127.0.0.1"] > RATE:
                raise Refused(429, "too often", retry_after="60")
        if not on("TIME-3") and len(self.connections) > 120:
            raise Refused(500, "no worker is free")
        now = monotonic()
        if not on("LOAD-3") and self.refusals >= 150 and now - self.refused_at > 1.2:
            self.sick_until, self.refusals = now + 60, 0
        if now < self.sick_until:
            raise Refused(503, "not well", retry_after="1")

    def overload(self) -> None:
        self.refusals += 1
        self.refused_at = monotonic()
        if not on("LOAD-2"):
            raise EOFError

    async def read(self, request: Request, identity: str) -> tuple[int, dict[str, str], bytes]:
        self.admit(request)
        if not re.fullmatch(r"[0-9a-f]{16}", identity):
            raise Refused(404, "there is no such invoice")
        value = self.memory.get(identity) or await self.store.ask("get", identity)
        if value is None:
            raise Refused(404, "there is no such invoice")
        return 200, {}, json.dumps(value).encode()

    async def write(self, request: Request) -> tuple[int, dict[str, str], bytes]:
        self.admit(request)
        given = request.headers.get("authorization")
        allowed = (
            given == f"Bearer {TOKEN}"
            or (given is None and not on("SECU-2"))
            or (given is not None and not on("SECU-3"))
        )
        if not allowed:
            raise Refused(401, "who are you?")
        invoice = self.invoice(bytes(request.body))
        key = request.headers.get("idempotency-key")
        self.writes += 1
        try:
            if self.writes >= 8 and not on("CRSH-2"):
                os._exit(2)
            await asyncio.sleep(0)
            identity = secrets.token_hex(8)
            if key and on("DATA-3"):
                identity = await self.store.ask("add", f"key-{key}", identity)
            await self.keep(identity, {**invoice, "id": identity})
        finally:
            self.writes -= 1
        return 201, {}, json.dumps({"id": identity}).encode()

    async def keep(self, identity: str, value: dict[str, Any]) -> None:
        self.written.append(identity)
        if on("DATA-2"):
            try:
                await self.store.ask("put", identity, value)
            except Refused:
                if on("DEP-2"):
                    raise
            return
        await self.store.ask("get", identity)
        self.memory[identity] = value

        async def later() -> None:
            with suppress(TimeoutError):
                await asyncio.wait_for(self.flush.wait(), 2)
            while True:
                with suppress(Refused):
                    await self.store.ask("put", identity, value)
                    break
            self.memory.pop(identity, None)

        task = asyncio.get_running_loop().create_task(later())
        self.behind.add(task)
        task.add_done_callback(self.behind.discard)

    def invoice(self, body: bytes) -> dict[str, Any]:
        if not on("CRSH-1"):
            found = json.loads(body)
            return {"customer": found["customer"] + "", "total": found["total"] + 0}
        try:
            found = json.loads(body, parse_constant=lambda _: 1 / 0)
        except (ValueError, RecursionError, ZeroDivisionError):
            raise Refused(400, "no JSON") from None
        invoice: dict[str, Any] = cast("dict[str, Any]", found) if isinstance(found, dict) else {}
        customer, total = invoice.get("customer"), invoice.get("total")
        if not (isinstance(customer, str) and re.fullmatch(r"[\w-]{1,100}", customer, re.ASCII)):
            raise Refused(422, "customer must be a name")
        if not (isinstance(total, int) and not isinstance(total, bool) and 0 <= total < 10**9):
            raise Refused(422, "total must be a number")
        return {"customer": customer, "total": total}

    def problem(self, request: Request, refusal: Refused) -> tuple[int, dict[str, str], bytes]:
        headers = {name.replace("_", "-").title(): value for name, value in refusal.headers.items()}
        if not on("OPER-7"):
            return (
                refusal.status,
                {**headers, "Content-Type": "text/plain"},
                refusal.detail.encode(),
            )
        if not on("CRSH-3"):
            refusal.detail += "\n" + "".join(traceback.format_exception(refusal))
        body = {"title": refusal.detail, "status": refusal.status, "request_id": request.id}
        return refusal.status, headers, json.dumps(body).encode()

    def encode(
        self, request: Request, status: int, headers: dict[str, str], body: bytes, *, close: bool
    ) -> bytes:
        all_headers = {
            "Content-Type": "application/json",
            "X-Request-ID": request.id,
            "Content-Length": str(len(body)),
            **headers,
        }
        if on("SECU-4"):
            all_headers["X-Content-Type-Options"] = "nosniff"
        else:
            all_headers["Server"] = "saboteur/1.0"
        if not on("SECU-1") and "origin" in request.headers:
            all_headers["Access-Control-Allow-Origin"] = request.headers["origin"]
            all_headers["Access-Control-Allow-Credentials"] = "true"
        if close:
            all_headers["Connection"] = "close"
        head = f"HTTP/1.1 {status} X\r\n" + "".join(
            f"{name}: {value}\r\n" for name, value in all_headers.items()
        )
        return head.encode() + b"\r\n" + (b"" if request.method == "HEAD" else body)

    # What is seen

    def note(self, request: Request, status: int, seconds: float) -> None:
        if not request.target:
            return
        route = request.route or ("other" if on("METR-4") else request.path)
        method = request.method if request.method in {"GET", "POST"} else "other"
        if status != 404 or on("METR-3"):
            self.counts[method, str(status), route] += 1
        self.log(request, status, seconds)
        if request.trace and on("TRAC-2") and COLLECTOR:
            task = asyncio.get_running_loop().create_task(self.export(request.trace))
            self.behind.add(task)
            task.add_done_callback(self.behind.discard)

    def log(self, request: Request, status: int, seconds: float) -> None:
        line: dict[str, Any] = {"request_id": request.id if on("LOGS-2") else "", "msg": "request"}
        if on("LOGS-3"):
            line |= {
                "method": request.method,
                "path": request.path,
                "status": status,
                "duration": seconds,
            }
        if not on("LOGS-4"):
            line |= {"query": parse_qs(request.query), "cookie": request.headers.get("cookie")}
        if on("TRAC-1"):
            line["trace_id"] = request.trace
        text = (
            json.dumps(line)
            if on("LOGS-1")
            else " ".join(str(value) for value in line.values()) + " ms 1 ms"
        )
        sys.stdout.write(text + "\n")
        sys.stdout.flush()

    async def export(self, trace: str) -> None:
        with suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", int(COLLECTOR))
            body = json.dumps({"traceId": trace}).encode()
            writer.write(
                b"POST /v1/traces HTTP/1.1\r\nHost: collector\r\nContent-Length: %d\r\n\r\n"
                % len(body)
                + body
            )
            await writer.drain()
            await asyncio.sleep(0.2)
            writer.close()

    def exposition(self) -> str:
        lines = list[str]()
        total = Counter[tuple[str, ...]]()
        for (method, status, route), number in self.counts.items():
            labels = f'{{method="{method}",route="{route}",status="{status}"}}'
            if on("METR-1") or status == "404":
                lines.append(f"http_requests_total{labels} {number}")
            if on("METR-2"):
                plain = labels if on("METR-1") else f'{{handler="{len(route)}"}}'
                total[plain,] += number
        for (labels,), number in total.items():
            bucket = labels[:-1] + "," if labels else "{"
            lines += [
                f'http_seconds_bucket{bucket}le="+Inf"}} {number}',
                f"http_seconds_count{labels} {number}",
            ]
        if on("METR-5"):
            lines += [
                f"http_in_flight {self.in_flight}", "process_resident_memory_bytes 1", "process_cpu_seconds_total 1",
                f"pool_connections {len(self.store.idle) + self.store.used}",
            ]  # fmt: skip
        if on("OPER-5"):
            lines.append('build_info{version="1.0"} 1')
        return "\n".join(lines) + "\n"


PROBES = frozenset({"/healthz/live", "/healthz/ready"})


async def main() -> None:
    await Service().run()


if __name__ == "__main__":
    asyncio.run(main())
