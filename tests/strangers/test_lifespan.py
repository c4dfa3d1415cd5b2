"""Services of others start, stop and fail as they would without `harden`, and drain as they would not."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import httpx2
import pytest

from tests.kit.ports import free_port
from tests.kit.waiting import wait_until
from tests.servers.serving import wait_for
from tests.strangers.kit import Environment, Environments, Served

SLACK = (
    20.0  # Seconds, for a busy machine; a drain with its delay of `DELAY` takes longer than that.
)
DELAY = 60

SERVICE = """
    import asyncio
    from fastapi import FastAPI
    from postfacta_core.asgi import HardenOptions, harden
    from postfacta_core.drain._course import DrainLimits

    api = FastAPI()

    @api.get("/")
    async def quick():
        return "quick"

    @api.get("/slow")
    async def slow():
        await asyncio.sleep(2)
        return "slow"

    app = harden(api, service="shop", options=HardenOptions(drain=DrainLimits(drain_delay={delay})))
"""


@pytest.fixture(scope="module")
def shop(environments: Environments) -> Environment:
    """Return an environment with FastAPI and its servers."""
    return environments(
        "fastapi", "uvicorn[standard]", "httpx2", "pytest", "gunicorn", "uvicorn-worker"
    )


def test_a_fixture_starts_the_application_in_each_test(shop: Environment, tmp_path: Path) -> None:
    (tmp_path / "service.py").write_text(
        "\n".join(line.removeprefix("    ") for line in SERVICE.format(delay=5).splitlines())
    )
    (tmp_path / "test_shop.py").write_text(
        """
import pytest
from fastapi.testclient import TestClient
from service import app

@pytest.fixture
def client():
    with TestClient(app) as client:
        yield client

@pytest.mark.parametrize("time", range(3))
def test_it_serves(client, time):
    assert client.get("/").json() == "quick"
    assert client.get("/healthz/ready").status_code == 200
"""
    )
    done = shop.run("python", "-m", "pytest", "-q", "-W", "error", cwd=tmp_path)
    assert "3 passed" in done.stdout, done.stdout + done.stderr


FAILING = {
    "its own lifespan": """
        from contextlib import asynccontextmanager
        from fastapi import FastAPI

        @asynccontextmanager
        async def lifespan(app):
            raise RuntimeError("no licence")
            yield

        api = FastAPI(lifespan=lifespan)
    """,
    "a middleware": """
        from fastapi import FastAPI
        from starlette.middleware import Middleware

        class Licensed:
            def __init__(self, app):
                raise RuntimeError("no licence")

        api = FastAPI(middleware=[Middleware(Licensed)])
    """,
    "bare ASGI": """
        async def api(scope, receive, send):
            await receive()
            raise RuntimeError("no licence")
    """,
}


@pytest.mark.parametrize("which", FAILING)
@pytest.mark.parametrize("flags", ["", "--lifespan on"], ids=["auto", "on"])
def test_a_startup_that_fails_ends_the_server(
    shop: Environment, tmp_path: Path, which: str, flags: str
) -> None:
    code = "\n".join(line.removeprefix("        ") for line in FAILING[which].splitlines())
    code += "\nfrom postfacta_core.asgi import harden\napp = harden(api, service='shop')\n"
    (tmp_path / "service.py").write_text(code)
    arguments = ["service:app", "--port", str(free_port()), *flags.split()]
    done = shop.run("uvicorn", *arguments, cwd=tmp_path)
    assert done.returncode != 0
    assert "no licence" in done.stderr


def test_a_lifespan_that_raises_at_its_end_is_in_the_servers_log(
    shop: Environment, tmp_path: Path
) -> None:
    code = """
        from contextlib import asynccontextmanager
        from fastapi import FastAPI
        from postfacta_core.asgi import harden

        @asynccontextmanager
        async def lifespan(app):
            yield
            raise RuntimeError("cannot flush")

        app = harden(FastAPI(lifespan=lifespan), service="shop")
    """
    with shop.serve(code, cwd=tmp_path) as served:
        served.process.send_signal(signal.SIGINT)
        served.process.wait(SLACK)
        assert "cannot flush" in served.log
        assert "Application shutdown failed" in served.log


def test_an_application_in_a_mount_says_what_is_wrong(shop: Environment, tmp_path: Path) -> None:
    code = (
        SERVICE.format(delay=5)
        + "\n    inner, app = app, FastAPI()\n    app.mount('/shop', inner)\n"
    )
    with shop.serve(code, cwd=tmp_path) as served:
        answers = [httpx2.get(f"{served.url}/shop/healthz/ready") for _ in range(2)]
        assert {answer.status_code for answer in answers} == {503}
        assert "Harden the outermost application" in answers[0].json()["detail"]
        assert served.log.count("Harden the outermost application") == 1


@pytest.mark.parametrize(
    "command",
    [
        "uvicorn service:app --port {port}",
        "gunicorn service:app --bind 127.0.0.1:{port} --worker-class uvicorn_worker.UvicornWorker",
    ],
    ids=["uvicorn", "gunicorn"],
)
def test_a_library_that_wraps_the_servers_handler_changes_no_exit_code(
    environments: Environments, tmp_path: Path, command: str
) -> None:
    environment = environments(
        "fastapi", "uvicorn", "gunicorn", "uvicorn-worker", "sse-starlette==3.7.0"
    )
    code = "    import sse_starlette\n" + SERVICE.format(delay=0)
    with environment.serve(code, cwd=tmp_path, command=command) as served:
        wait_until(lambda: is_ready(served.url), within=SLACK)
        served.process.terminate()
        assert served.process.wait(SLACK) == 0, served.log
        assert "was sent SIGTERM" not in served.log


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("application", ["api", "app"])
def test_a_program_that_awaits_a_server_ends_by_the_signal(
    shop: Environment, tmp_path: Path, application: str, signum: signal.Signals
) -> None:
    main = f"""
    import signal
    import uvicorn

    async def main():
        # Whatever started it may have left it ignored.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        await uvicorn.Server(uvicorn.Config({application}, port=PORT)).serve()
        await asyncio.sleep(60)

    asyncio.run(main())
"""
    code = SERVICE.format(delay=0) + main
    command = "python service.py"
    with shop.serve(code, cwd=tmp_path, command=command, own_port="PORT") as served:
        assert httpx2.get(f"{served.url}/").text == '"quick"'
        served.process.send_signal(signum)
        assert served.process.wait(SLACK) == -signum, served.log


def is_ready(url: str) -> bool:
    try:
        return httpx2.get(f"{url}/healthz/ready").status_code == 200
    except httpx2.TransportError:
        return False


def at_terminal(
    shop: Environment, folder: Path, *flags: str, act: Callable[[int, str], None]
) -> tuple[int, str]:
    """Serve in the foreground of a terminal; return exit code and log once it has ended."""
    (folder / "service.py").write_text(
        "\n".join(line.removeprefix("    ") for line in SERVICE.format(delay=DELAY).splitlines())
    )
    port, log, (terminal, its_side) = free_port(), folder / "log", pty.openpty()
    command = [shop.program("uvicorn"), "service:app", "--port", port, *flags]
    with log.open("wb") as output:
        process = subprocess.Popen(  # noqa: S603 - a program of the environment
            ["/usr/bin/setsid", "--ctty", "--wait", *map(str, command)],
            cwd=folder,
            stdin=its_side,
            stdout=output,
            stderr=output,
            env={"PATH": os.environ["PATH"]},
        )
        try:
            wait_for(port, process, log)
            url = f"http://127.0.0.1:{port}"
            wait_until(lambda: is_ready(url), within=SLACK)
            act(terminal, url)
            return process.wait(SLACK), log.read_text()
        finally:
            process.kill()
            process.wait()
            os.close(terminal)
            os.close(its_side)


@pytest.mark.parametrize("flags", [[], ["--workers", "2"], ["--reload"]], ids=" ".join)
def test_ctrl_c_at_a_terminal_ends_at_once(
    shop: Environment, tmp_path: Path, flags: list[str]
) -> None:
    def act(terminal: int, url: str) -> None:
        os.write(terminal, b"\x03")

    code, log = at_terminal(shop, tmp_path, *flags, act=act)
    assert code == 0, log


def test_a_changed_file_is_reloaded_at_once(shop: Environment, tmp_path: Path) -> None:
    def act(terminal: int, url: str) -> None:
        file = tmp_path / "service.py"
        file.write_text(file.read_text().replace('return "quick"', 'return "changed"'))
        end = time.monotonic() + SLACK
        while True:
            try:
                if httpx2.get(url).json() == "changed":
                    break
                file.touch()  # uvicorn's first look only remembers the time of a file.
            except httpx2.TransportError:
                pass
            assert time.monotonic() < end
            time.sleep(0.1)  # noqa: TID251 - a server, in a test
        os.write(terminal, b"\x03")

    code, log = at_terminal(shop, tmp_path, "--reload", act=act)
    assert code == 0, log


SERVERS = {
    "uvicorn": "uvicorn service:app --port {port}",
    "gunicorn": "gunicorn service:app --bind 127.0.0.1:{port} -k uvicorn_worker.UvicornWorker --workers 2",
}


@pytest.mark.parametrize("server", SERVERS)
def test_sigterm_under_load_fails_no_request(
    shop: Environment, tmp_path: Path, server: str
) -> None:
    answers: Counter[object] = Counter()
    stop = threading.Event()

    def ask(url: str, path: str) -> None:
        with httpx2.Client(timeout=SLACK) as client:
            while not stop.is_set():
                try:
                    answers[client.get(f"{url}{path}").status_code] += 1
                except httpx2.TransportError as error:
                    answers[type(error).__name__] += 1

    with shop.serve(SERVICE.format(delay=4), cwd=tmp_path, command=SERVERS[server]) as served:
        wait_until(lambda: is_ready(served.url), within=SLACK)
        threads = [
            threading.Thread(target=ask, args=(served.url, path))
            for path in ("/", "/", "/", "/slow", "/slow")
        ]
        for thread in threads:
            thread.start()
        try:
            _stop_as_a_load_balancer_sees_it(served, stop)
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        assert served.process.wait(SLACK) == 0, served.log
    assert set(answers) == {200}
    assert answers[200] > 20


def _stop_as_a_load_balancer_sees_it(served: Served, stop: threading.Event) -> None:
    """Send SIGTERM, and end the load once a probe says that the service is unready, with some requests under way."""
    time.sleep(1)  # noqa: TID251 - under load
    served.process.send_signal(signal.SIGTERM)
    end = time.monotonic() + SLACK
    while httpx2.get(f"{served.url}/healthz/ready").status_code != 503:
        assert time.monotonic() < end
        time.sleep(0.05)  # noqa: TID251 - as a probe does
    time.sleep(1)  # noqa: TID251 - the load balancer has not looked away yet
    stop.set()
