"""Measure the CPU that each layer, all of `harden`, and the peers' stacks add to a request over bare Starlette.

Every variant handles the same in-process request. Rounds are interleaved, so that a slow moment of
the machine hits all variants alike; all have as long in a round. What is printed is the least of
each one's rounds, since whatever disturbs can only add, and its ratio to the bare application of
the same run.

    python -m benchmarks.bench_asgi [--request GET] [--rounds 61] [--seconds 0.05] [--json FILE]
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Final

from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from benchmarks.lines import write_to_nowhere
from benchmarks.peers import Make, peers
from benchmarks.rounds import Work, cyclic_objects, marked, rounds_of
from benchmarks.variants import sampling, variants
from postfacta_core.asgi._types import ASGIApp, Message

__all__ = ["KINDS", "applications", "main", "maker", "serve"]

KINDS: Final = ("GET", "browser", "POST", "FastAPI", "origin")
"""A plain GET.

One with the headers of a browser behind a proxy that traces; a POST of 1 KiB; a GET of a FastAPI
service; a GET that a page of another origin sends.
"""

_BODY: Final = json.dumps({"name": "bench", "text": "x" * 995}).encode()


async def _hello(request: Request) -> JSONResponse:
    return JSONResponse({"id": request.path_params["id"], "name": "bench", "ok": True})


async def _echo(request: Request) -> JSONResponse:
    given = await request.json()
    return JSONResponse(
        {"id": request.path_params["id"], "name": given["name"], "ok": True}, status_code=201
    )


async def _typed(id: int) -> dict[str, object]:  # noqa: A002 - as a service names it
    return {"id": id, "name": "bench", "ok": True}


def _scope(kind: str) -> dict[str, object]:
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": "POST" if kind == "POST" else "GET",
        "scheme": "http",
        "path": "/items/17",
        "raw_path": b"/items/17",
        "query_string": b"",
        "root_path": "",
        "headers": [
            (b"host", b"127.0.0.1:8080"),
            (b"user-agent", b"bench/1"),
            (b"accept", b"application/json"),
            (b"accept-encoding", b"gzip, deflate"),
            (b"connection", b"keep-alive"),
            (b"x-request-id", b"bench-0123456789"),
            (b"cache-control", b"no-cache"),
            (b"accept-language", b"en"),
            *_MORE.get(kind, ()),
        ],
        "client": ("127.0.0.1", 50000),
        "server": ("127.0.0.1", 8080),
        "state": {},
    }


_MORE: Final = {
    "origin": [(b"origin", b"https://app.example")],
    "POST": [(b"content-type", b"application/json"), (b"content-length", str(len(_BODY)).encode())],
    "browser": [
        (b"traceparent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        (b"sec-ch-ua", b'"Chromium";v="126", "Not.A/Brand";v="24"'),
        (b"sec-ch-ua-mobile", b"?0"),
        (b"sec-ch-ua-platform", b'"Linux"'),
        (b"sec-fetch-site", b"same-origin"),
        (b"sec-fetch-mode", b"cors"),
        (b"sec-fetch-dest", b"empty"),
        (b"referer", b"http://127.0.0.1:8080/items"),
        (b"cookie", b"session=0123456789abcdef; theme=dark"),
    ],
}


async def _receive() -> Message:
    return {"type": "http.request", "body": _BODY, "more_body": False}


async def _send(message: Message) -> None:
    if message["type"] == "http.response.start" and message["status"] not in {200, 201}:
        raise AssertionError(message)


async def serve(app: ASGIApp, requests: int, kind: str = "GET") -> None:
    """Serve this many requests of a kind of `KINDS`."""
    for _ in range(requests):
        await app(_scope(kind), _receive, _send)


def applications(kind: str = "GET") -> Mapping[str, ASGIApp]:
    """Name all that is compared, for a kind of `KINDS`; `bare` comes first."""
    make = maker(kind)
    bare = make()
    return {"bare": bare, **variants(bare), **peers(make, sampling())}


def maker(kind: str = "GET") -> Make:
    """Return what makes the application that all wrap, with some middlewares inside it."""

    def make(*middleware: Middleware) -> Starlette:
        if kind == "FastAPI":
            return FastAPI(routes=[APIRoute("/items/{id}", _typed)], middleware=middleware)
        route = (
            Route("/items/{id}", _echo, methods=["POST"])
            if kind == "POST"
            else Route("/items/{id}", _hello)
        )
        return Starlette(routes=[route], middleware=middleware)

    return make


async def _measure(rounds: int, seconds: float, kind: str) -> dict[str, dict[str, float]]:
    works: dict[str, Work] = {
        name: partial(serve, app, kind=kind) for name, app in applications(kind).items()
    }
    for work in works.values():
        await work(300)
    times = await rounds_of(works, rounds, seconds=seconds)
    least = {name: min(spent) for name, spent in times.items()}
    return {
        name: {
            "us": spent * 1e6,
            "added_us": (spent - least["bare"]) * 1e6,
            "ratio": spent / least["bare"],
            "cyclic_objects": await cyclic_objects(works[name], 500),
        }
        for name, spent in least.items()
    }


def main() -> None:
    """Measure, print a table, and write the figures to a file if asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--request", choices=KINDS, default="GET", help="its kind (default: GET)")
    parser.add_argument("--rounds", type=int, default=61)
    parser.add_argument(
        "--seconds", type=float, default=0.05, help="of each variant in each round, about"
    )
    parser.add_argument("--json", type=Path, help="write the figures here too")
    options = parser.parse_args()
    write_to_nowhere()
    with marked():
        figures = asyncio.run(_measure(options.rounds, options.seconds, options.request))
    print(f"{'variant':<34}{'us/request':>11}{'added us':>10}{'ratio':>8}{'cyclic objects':>16}")  # noqa: T201 - its job
    for name, figure in figures.items():
        row = f"{figure['us']:>11.1f}{figure['added_us']:>10.1f}{figure['ratio']:>8.2f}{figure['cyclic_objects']:>16.2f}"
        print(f"{name:<34}{row}")  # noqa: T201 - its job
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
