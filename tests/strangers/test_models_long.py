"""A deploy in the midst of answers that pass through a LiteLLM proxy, and of a Gradio application.

Their environment is one of 0.7 GB, so these are among the proofs.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.strangers.deploy import PIECES, Answers, Deploy, assert_never_worse
from tests.strangers.kit import Environments
from tests.strangers.test_models import PROVIDER

LOCK = Path(__file__).with_name("models.txt")
PROXY = """
    import json, os, pathlib

    model = {"model": "openai/local", "api_base": f"{os.environ['UPSTREAM']}/v1", "api_key": "none"}
    models = [{"model_name": "local", "litellm_params": model}]
    pathlib.Path("config.yaml").write_text(json.dumps({"model_list": models}))
    os.environ["CONFIG_FILE_PATH"] = "config.yaml"
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
    os.environ["LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY"] = "true"

    from litellm.proxy.proxy_server import app
"""
PAGE = """
    import os, time

    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

    import gradio
    from fastapi import FastAPI


    def count(to):
        for number in range(1, int(to) + 1):
            time.sleep(0.08)
            yield number


    with gradio.Blocks() as page:
        to, number = gradio.Number(), gradio.Number()
        gradio.Button().click(count, to, number, api_name="count")

    app = gradio.mount_gradio_app(FastAPI(), page, path="/page")
"""
CLIENTS = """
    async def sdk(url, successor, piece):
        import openai

        text = ""
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none") as client:
            async for chunk in await client.chat.completions.create(
                model="local", messages=[{"role": "user", "content": "Count."}], stream=True
            ):
                piece()
                text += chunk.choices[0].delta.content or ""
        return text == "".join(f"{number} " for number in range(1, PIECES + 1))


    async def job(url, successor, piece):
        import gradio_client

        def read():
            last = None
            client = gradio_client.Client(f"{url}/page", verbose=False)
            for last in client.submit(PIECES, api_name="/count"):
                piece()
            return last == PIECES

        return await asyncio.to_thread(read)


    async def browser(url, successor, piece):
        # As the page of Gradio does in a browser (`stream` in its index.js).
        import httpx

        is_whole = False
        async with httpx.AsyncClient(base_url=f"{url}/page", timeout=60) as client:
            functions = (await client.get("/config")).json()["dependencies"]
            (count,) = (each["id"] for each in functions if each["api_name"] == "count")
            session = {"session_hash": "browser"}
            job = {"data": [PIECES], "fn_index": count, **session}
            (await client.post("/gradio_api/queue/join", json=job)).raise_for_status()
            headers = {"Accept": "text/event-stream", "Content-Type": "application/json"}
            async with client.stream(
                "GET", "/gradio_api/queue/data", params=session, headers=headers
            ) as response:
                async for line in response.aiter_lines():
                    message = json.loads(line.removeprefix("data:")) if line else {}
                    if message.get("msg") == "process_generating":
                        piece()
                    is_whole = is_whole or message.get("msg") == "process_completed"
        return is_whole
"""


@pytest.mark.long
@pytest.mark.parametrize("stops", [0, 1], ids=["provider", "proxy"])
def test_an_answer_through_litellm_is_whole_over_a_deploy(
    stops: int, environments: Environments, tmp_path: Path
) -> None:
    environment = environments(lock=LOCK)
    deploy = Deploy(environment, CLIENTS, ["sdk"], [PROVIDER, PROXY], stops=stops)
    bare, hardened = deploy.run(tmp_path)
    assert_never_worse(bare, hardened)
    assert hardened["sdk"].is_whole
    assert hardened["sdk"].pieces >= PIECES


@pytest.mark.long
@pytest.mark.parametrize("stops", [0, 1], ids=["provider", "proxy"])
def test_an_answer_through_litellm_that_is_cut_is_never_whole(
    stops: int, environments: Environments, tmp_path: Path
) -> None:
    environment = environments(lock=LOCK)
    deploy = Deploy(environment, CLIENTS, ["sdk"], [PROVIDER, PROXY], stops=stops, drain_timeout=1)
    assert_cut("sdk", *deploy.run(tmp_path))


@pytest.mark.long
@pytest.mark.parametrize("client", ["job", "browser"])
def test_a_job_of_gradio_is_whole_over_a_deploy(
    client: str, environments: Environments, tmp_path: Path
) -> None:
    bare, hardened = Deploy(environments(lock=LOCK), CLIENTS, [client], [PAGE]).run(tmp_path)
    assert_never_worse(bare, hardened)
    assert hardened[client].is_whole


@pytest.mark.long
def test_a_job_of_gradio_that_is_cut_is_never_whole(
    environments: Environments, tmp_path: Path
) -> None:
    # gradio_client waits for ever for the rest of a stream that was cut, without the library too.
    deploy = Deploy(environments(lock=LOCK), CLIENTS, ["browser"], [PAGE], drain_timeout=1)
    assert_cut("browser", *deploy.run(tmp_path))


def assert_cut(name: str, bare: Answers, hardened: Answers) -> None:
    assert not hardened[name].is_whole
    assert hardened[name].kind == bare[name].kind != ""
