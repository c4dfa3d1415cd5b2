"""Datasette is hardened from outside, by a plugin of its owner.

Nothing in it knows of this library.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

import httpx2

from tests.strangers.kit import Environments

PLUGIN = """
    from datasette import hookimpl
    from datasette.app import resolve_routes

    from postfacta_core import DrainLimits
    from postfacta_core.asgi import HardenOptions, harden


    @hookimpl
    def asgi_wrapper(datasette):
        routes = datasette._routes()

        def route_of(scope):
            match, _ = resolve_routes(routes, scope["path"])
            return match.re.pattern if match else None

        options = HardenOptions(request_timeout=1, drain=DrainLimits(drain_delay=0.5, drain_timeout=2, close_timeout=1))
        return lambda app: harden(app, service="data", options=options, route_of=route_of)
"""
COMMAND = "datasette serve data.db --plugins-dir . --setting sql_time_limit_ms 4000 --port {port}"
ENDLESS = "with recursive c(i) as (select 1 union all select i + 1 from c) select count(*) from c"


def test_a_hardened_datasette_is_measured_cut_in_time_and_drained(
    environments: Environments, tmp_path: Path
) -> None:
    with closing(sqlite3.connect(tmp_path / "data.db")) as database:
        database.execute("create table people (name text)")
    environment = environments("datasette==0.65.5")
    with environment.serve(PLUGIN, cwd=tmp_path, command=COMMAND) as served:

        def status(path: str) -> int:
            return httpx2.get(served.url + path, timeout=10).status_code

        assert status("/healthz/ready") == 200
        assert status("/data/people.json") == 200
        assert status("/data/nothing") == 404
        assert status(f"/data.json?sql={quote(ENDLESS)}") == 504
        counts = [
            line
            for line in httpx2.get(f"{served.url}/metrics", timeout=10).text.splitlines()
            if line.startswith("http_server_requests_total")
        ]
        assert len([line for line in counts if '"200"' in line and "table" in line]) == 1
        assert len([line for line in counts if '"404"' in line and "nothing" not in line]) == 1
        assert len([line for line in counts if '"504"' in line and "select" not in line]) == 1
        served.process.terminate()
        assert served.process.wait(15) == 0
