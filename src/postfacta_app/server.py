"""Run the application under uvicorn.

Its port, its signals, its garbage collector, its logs and traces.
"""

from __future__ import annotations

import errno
import gc
import signal
import socket
from collections.abc import Callable
from types import FrameType
from typing import Final

import uvicorn
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource

from postfacta_adapters.otlp import Provider
from postfacta_adapters.uvicorn import BoundedHttp, bounded, make_room
from postfacta_core import logs
from postfacta_core.drain.signals import has_terminal

from .errors import CommandFailedError
from .settings import Read, Settings

BACKLOG: Final = 2048  # connections that the kernel queues; uvicorn has the same default


def graceful_timeout(settings: Settings) -> int:
    # The core's drain ends everything earlier, except the sockets of clients that do not read.
    return round(settings.drain_timeout + 10.0)


def serve(settings: Settings, *, say: Callable[[str], None], read: Read | None = None) -> int:
    """Serve until Ctrl-C or SIGTERM, then drain; return the exit code; raise if the port is taken.

    SIGHUP reloads the secrets by `read`; it stops the service only if a terminal was closed.
    """
    with listen(settings.host, settings.port) as listener:
        host, port = listener.getsockname()[:2]
        configure_logging(settings)
        flush = _configure_tracing(settings)
        server = uvicorn.Server(_config(settings, read))
        # Requests leave no reference cycles; collecting every 700 objects took 5 to 10 % of their
        # time.
        gc.freeze()
        gc.set_threshold(10_000, 10, 10)
        # Handled here too, since uvicorn handles signals only once its loop runs: a
        # KeyboardInterrupt before that can be lost in an import. uvicorn re-raises them after its
        # graceful stop, so that our caller can clean up.
        handlers = {
            signum: signal.signal(signum, server.handle_exit)
            for signum in (signal.SIGINT, signal.SIGTERM)
        }
        had_terminal = has_terminal()

        def hang_up(signum: int, frame: FrameType | None) -> None:
            # Until the application handles it.
            if had_terminal and not has_terminal():
                server.handle_exit(signum, frame)

        handlers[signal.SIGHUP] = signal.signal(signal.SIGHUP, hang_up)
        url_host = f"[{host}]" if ":" in host else host
        try:
            say(f"listening on http://{url_host}:{port}; Ctrl-C stops it")
            server.run(sockets=[listener])
        finally:
            for signum, handler in handlers.items():
                signal.signal(signum, handler)
            flush()
    return 0 if server.started else 1


def _config(settings: Settings, read: Read | None) -> uvicorn.Config:
    from .app import create_app  # noqa: PLC0415 - after the port check, since it is slow

    other_files = 2 * settings.pool_max_size
    _, backlog = make_room(BoundedHttp.most, BACKLOG, other_files=other_files)
    return uvicorn.Config(
        create_app(settings, read=read),
        loop="asyncio",
        http=bounded(BoundedHttp.most, other_files=other_files),
        backlog=backlog,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        # uvicorn would trust any local sender; the core trusts those of a setting.
        proxy_headers=False,
        timeout_graceful_shutdown=graceful_timeout(settings),
        # Else context variables of one request leak into the next one of its connection.
        reset_contextvars=True,
    )


def configure_logging(settings: Settings) -> None:
    """Log to standard output in one format, with a rate limit for each kind of record."""
    logs.configure(
        format="json" if settings.log_format.upper() == "JSON" else "console",
        level=settings.log_level,
        service="postfacta",
        version=settings.app_version,
        environment=settings.environment,
    )


def _configure_tracing(settings: Settings) -> Callable[[], None]:
    """Export spans by OTLP over HTTP if the settings enable it.

    Return a function that flushes them.

    The SDK reads its own `OTEL_*` variables. Spans that cannot be queued or sent are dropped and
    counted.
    """
    if settings.traces != "otlp":
        return lambda: None
    resource = {
        "service.name": "postfacta",
        "service.version": settings.app_version,
        "service.instance.id": logs.instance(),
        "deployment.environment.name": settings.environment,
    }
    provider = Provider(OTLPSpanExporter(timeout=5), resource=Resource.create(resource))
    trace.set_tracer_provider(provider)
    return provider.shutdown


def listen(host: str, port: int) -> socket.socket:
    """Listen there, before any slow startup work.

    Raise `CommandFailedError` with advice if that is not possible.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        advice = (
            f"cannot listen on {host}: {error.strerror}; --host must be an address of this machine"
        )
        if error.errno == errno.EADDRINUSE:
            free_port = port + 1 if port < 65535 else 8080  # noqa: PLR2004 - the last port
            advice = (
                f"port {port} of {host} is in use: stop the process that listens there, or choose"
                " another port"
            )
            advice += f" with --port {free_port} (or POSTFACTA_PORT={free_port})"
        elif error.errno == errno.EACCES:
            advice = (
                f"port {port} needs more privileges: choose a port above 1023, such as --port 8080"
            )
        raise CommandFailedError(advice) from None
