"""The suites of peers.

Where each is, what it needs, and how ours takes the place of a part of it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final


@dataclass(frozen=True, kw_only=True)
class Suite:
    """One suite of tests that others wrote, and what of ours is put into it.

    Attributes:
        name: In reports.
        package: The distribution whose source package holds it; its version and hashes are those of
            this checkout.
        ours: What is put in whose place, in words.
        plugin: The plugin of pytest that does it, in `plugins`.
        extras: Of our wheel.
        requirements: What the suite needs; what this checkout does not pin is pinned here.
        tests: The whole suite, as arguments of pytest in the source package's folder.
        share: The part that CI runs.
        options: Further arguments of pytest; those that a suite sets for its own machine are
            replaced.
        is_published: Whether the source package on the index holds the tests.
    """

    name: str
    package: str
    ours: str
    plugin: str
    extras: tuple[str, ...] = ()
    requirements: tuple[str, ...]
    tests: tuple[str, ...] = ("tests",)
    share: tuple[str, ...]
    options: tuple[str, ...] = field(default=())
    is_published: bool = True


_STARLETTE: Final = (
    "starlette[full]",
    "httpx2[zstd]",
    "pytest",
    "trio",
    "blockbuster==1.5.29",
    "opentelemetry-sdk",
)
_FASTAPI: Final = (
    *(
        "fastapi[all]",
        "starlette",
        "httpx",
        "httpx2",
        "pytest",
        "pytest-xdist",
        "pytest-timeout==2.4.0",
        "trio",
    ),
    *(
        "dirty-equals==0.11",
        "flask==3.1.3",
        "inline-snapshot==0.36.1",
        "pwdlib[argon2]==0.3.1",
        "pyjwt",
        "pyyaml",
    ),
    *(
        "sqlmodel==0.0.50",
        "strawberry-graphql==0.341.2",
        "a2wsgi==1.10.10",
        "typer==0.29.2",
        "logfire==5.4.0",
    ),
    *(
        "sentry-sdk==2.75.0",
        "opentelemetry-instrumentation-fastapi==0.66b2",
        "opentelemetry-sdk",
        "coverage",
    ),
    *("opentelemetry-exporter-otlp-proto-http", "python-slugify==9.2.0"),
)
_UVICORN: Final = (
    *(
        "uvicorn[standard]",
        "httpx2",
        "pytest",
        "pytest-mock==3.17.0",
        "pytest-xdist",
        "trustme==1.2.1",
        "cryptography",
    ),
    *("a2wsgi==1.10.10", "wsproto", "zttp==0.0.35"),
)
_HTTPX: Final = (
    *("httpx[brotli,http2,socks,zstd]", "pytest", "trio", "trustme==1.2.1", "uvicorn", "chardet"),
    "cryptography",
)

SUITES: Final = (
    Suite(
        name="starlette",
        package="starlette",
        ours="`harden` around each application of a `TestClient`",
        plugin="peer_asgi",
        requirements=_STARLETTE,
        share=(
            "tests/test_applications.py",
            "tests/test_responses.py",
            "tests/test_routing.py",
            "tests/test_websockets.py",
        ),
    ),
    Suite(
        name="fastapi",
        package="fastapi",
        ours="`harden` around each application of a `TestClient`, those of the tutorials among them",
        plugin="peer_asgi",
        requirements=_FASTAPI,
        share=(
            *(
                "tests/test_request_params/test_header",
                "tests/test_header_cookie_optional_models.py",
            ),
            *(
                "tests/test_tutorial/test_header_param_models",
                "tests/test_tutorial/test_cookie_param_models",
            ),
            *("tests/test_tutorial/test_events", "tests/test_tutorial/test_websockets"),
            *(
                "tests/test_tutorial/test_custom_response",
                "tests/test_tutorial/test_handling_errors",
            ),
            *("tests/test_tutorial/test_request_files", "tests/test_tutorial/test_cors"),
            *(
                "tests/test_dependency_after_yield_raise.py",
                "tests/test_dependency_after_yield_streaming.py",
            ),
        ),
        options=("-n", "2", "-o", "timeout=120"),
    ),
    Suite(
        name="uvicorn: protocol",
        package="uvicorn",
        ours="`BoundedHttp` in the place of `HttpToolsProtocol`",
        plugin="peer_uvicorn_http",
        extras=("uvicorn",),
        requirements=_UVICORN,
        share=("tests/protocols/test_http.py",),
        options=("-o", "addopts=", "-n", "6"),
    ),
    Suite(
        name="uvicorn: server",
        package="uvicorn",
        ours="each application that the server serves is hardened: its signals, its lifespan, its drain",
        plugin="peer_uvicorn_app",
        extras=("uvicorn",),
        requirements=_UVICORN,
        share=("tests/test_lifespan.py", "tests/test_server.py"),
        options=("-o", "addopts=", "-n", "6"),
    ),
    Suite(
        name="httpx",
        package="httpx",
        ours="`Outgoing`, with a guard, around each transport that a client makes",
        plugin="peer_httpx",
        requirements=_HTTPX,
        share=("tests/client", "tests/test_asgi.py", "tests/test_timeouts.py"),
    ),
    Suite(
        name="psycopg_pool",
        package="psycopg-pool",
        ours="`connection()` of each pool through `GuardedPool` and `AsyncGuardedPool`",
        plugin="peer_psycopg_pool",
        extras=("psycopg",),
        requirements=("psycopg[binary,pool]", "pytest", "anyio", "pproxy==2.7.9", "dnspython"),
        tests=("tests/pool",),
        share=(),
        is_published=False,
    ),
)
