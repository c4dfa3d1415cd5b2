"""A Flask service under gunicorn: `bare`, and `app` with `harden` around it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

from flask import Flask, Response, request

from postfacta_adapters.wsgi import harden
from postfacta_core import HardenOptions, logs

logs.configure(service="shop")
bare = Flask(__name__)
bare.config["PROPAGATE_EXCEPTIONS"] = True


@bare.get("/orders/<int:number>")
def order(number: int) -> dict[str, int]:
    # The test may hold it: it goes on once the file is there.
    if gate := request.args.get("gate"):
        Path(gate, str(number)).touch()
        while not Path(gate, "open").exists():
            time.sleep(0.01)  # noqa: TID251 - in a service that is tested from outside
    return {"id": number, "process": os.getpid()}


@bare.get("/half")
def half() -> Response:
    def pieces() -> Iterator[str]:
        yield "half"
        raise LookupError

    return Response(pieces(), mimetype="text/plain")


app = harden(
    bare,
    service="shop",
    options=HardenOptions(metrics_workers=os.environ.get("WSGI_WORKERS", "")),
)
