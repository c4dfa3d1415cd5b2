"""What a stranger sets is refused or respected, and what is not installed is named."""

from __future__ import annotations

import urllib.request
from pathlib import Path

import pytest

from tests.strangers.kit import Environments

SERVICE = """
    from fastapi import FastAPI
    from postfacta_core import CircuitBreaker, Pipeline, Retry, Timeout
    from postfacta_core.asgi import harden

    billing = Pipeline(Timeout(5), Retry("billing"), CircuitBreaker("billing"))
    api = FastAPI()

    @billing
    async def fetch() -> str:
        return "an invoice"

    @api.get("/invoices")
    async def invoices() -> str:
        return await fetch()

    app = harden(api, service="shop")
"""


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310 - a service that we started
        return str(answer.read().decode())


def test_guards_made_without_an_observer_stand_in_the_metrics(
    environments: Environments, tmp_path: Path
) -> None:
    environment = environments("fastapi", "uvicorn")
    with environment.serve(SERVICE, cwd=tmp_path) as served:
        assert get(f"{served.url}/invoices") == '"an invoice"'
        page = get(f"{served.url}/metrics")
    assert 'postfacta_retry_attempts_total{operation="billing",outcome="success"} 1.0' in page
    assert (
        'postfacta_breaker_calls_total{breaker="billing",mode="enforce",outcome="success"} 1.0'
        in page
    )


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        (
            "from postfacta_web.switches import Switches; Switches(['mail'], domain='shop')",
            "pip install 'postfacta[flags] @ file:",
        ),
        ("import postfacta_slo.__main__", "pip install 'postfacta[slo] @ file:"),
        (
            "from postfacta_adapters.limits import SharedStore; SharedStore('async+valkey://localhost:1')",
            "pip install 'postfacta[valkey] @ file:",
        ),
    ],
    ids=["flags", "slo", "valkey"],
)
def test_an_extra_that_is_missing_is_named(
    environments: Environments, tmp_path: Path, line: str, hint: str
) -> None:
    ended = environments().script(line, cwd=tmp_path)
    assert ended.returncode in {1, 2}
    assert hint in ended.stderr.splitlines()[-1]
