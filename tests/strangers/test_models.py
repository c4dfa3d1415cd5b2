"""A deploy in the midst of the answers of models and tools, as the clients that people use see it."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from tests.kit.every import every
from tests.strangers.deploy import PIECES, Deploy, assert_never_worse
from tests.strangers.kit import Environments

PACKAGES = ("fastmcp==4.2.3", "httptools", "httpx", "httpx-sse==0.4.3", "openai==3.57.0", "uvicorn")
# A provider as OpenAI's, a job's log, its progress for a page, and a socket: each in 50 pieces, in
# 4 s.
PROVIDER = """
    import asyncio, json, os

    from starlette.applications import Starlette
    from starlette.responses import StreamingResponse
    from starlette.routing import Route, WebSocketRoute

    PIECES = 50


    async def numbers(after=0):
        for number in range(after + 1, PIECES + 1):
            await asyncio.sleep(0.08)
            yield number


    async def complete(request):
        async def events():
            async for number in numbers():
                choice = {"index": 0, "delta": {"role": "assistant", "content": f"{number} "}}
                choice["finish_reason"] = "stop" if number == PIECES else None
                chunk = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "local"}
                yield f"data: {json.dumps(chunk | {'choices': [choice]})}\\n\\n"
            yield "data: [DONE]\\n\\n"

        return StreamingResponse(events(), media_type="text/event-stream")


    async def log(request):
        async def lines():
            async for number in numbers():
                yield json.dumps({"number": number}) + "\\n"

        return StreamingResponse(lines(), media_type="application/x-ndjson")


    async def progress(request):
        async def events():
            async for number in numbers(int(request.headers.get("last-event-id", 0))):
                yield f"id: {number}\\ndata: {number}\\n\\n"

        return StreamingResponse(events(), media_type="text/event-stream")


    async def talk(websocket):
        await websocket.accept()
        async for number in numbers():
            await websocket.send_text(str(number))
        await websocket.close()


    app = Starlette(
        routes=[
            Route("/v1/chat/completions", complete, methods=["POST"]),
            Route("/log", log),
            Route("/progress", progress),
            WebSocketRoute("/talk", talk),
        ]
    )
"""
TOOLS = """
    import asyncio, os

    from fastmcp import Context, FastMCP

    tools = FastMCP("counting")


    @tools.tool
    async def count(to: int, ctx: Context) -> int:
        for number in range(1, to + 1):
            await asyncio.sleep(0.08)
            await ctx.report_progress(number, to)
        return to


    app = tools.http_app()
"""
READERS = """
    import httpx, openai, websockets
    from httpx_sse import EventSource


    async def sdk(url, successor, piece):
        text = ""
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none") as client:
            async for chunk in await client.chat.completions.create(
                model="local", messages=[{"role": "user", "content": "Count."}], stream=True
            ):
                piece()
                text += chunk.choices[0].delta.content
        return text == "".join(f"{number} " for number in range(1, PIECES + 1))


    async def events(url, successor, piece):
        last = None
        async with httpx.AsyncClient() as client:
            async with client.stream("POST", f"{url}/v1/chat/completions") as response:
                async for event in EventSource(response).aiter_sse():
                    piece()
                    last = event.data
        return last == "[DONE]"


    async def ndjson(url, successor, piece):
        last = None
        async with httpx.AsyncClient() as client, client.stream("GET", f"{url}/log") as response:
            async for line in response.aiter_lines():
                piece()
                last = json.loads(line)["number"]
        return last == PIECES


    async def page(url, successor, piece):
        "Comes back as a browser does: by itself after an end in order or a broken connection, with the last id."
        numbers, last, retry = [], "0", 3000
        async with httpx.AsyncClient() as client:
            while len(numbers) < PIECES:
                headers = {"Accept": "text/event-stream", "Last-Event-ID": last}
                async with client.stream("GET", f"{url}/progress", headers=headers) as response:
                    async for event in EventSource(response).aiter_sse():
                        retry = event.retry or retry
                        if event.data:
                            piece()
                            last = event.id
                            numbers.append(int(event.data))
                url = successor
                await asyncio.sleep(retry / 1000 if len(numbers) < PIECES else 0)
        return numbers == list(range(1, PIECES + 1))


    async def socket(url, successor, piece):
        async with websockets.connect(f"{url.replace('http', 'ws')}/talk") as connection:
            async for _ in connection:
                piece()
        return piece.count == PIECES
"""
ASSISTANT = """
    from fastmcp import Client


    async def tool(url, successor, piece):
        async def progress(number, total, message):
            piece()

        async with Client(f"{url}/mcp") as client:
            # The client asks for the schema of a result after it otherwise, of a server that is gone.
            await client.list_tools()
            result = await client.call_tool("count", {"to": PIECES}, progress_handler=progress)
        return result.data == PIECES
"""

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "mcp-server.md"
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# The page wraps its application itself.
WITHOUT = """
    if "BARE" in os.environ:
        app = web
"""


@pytest.fixture
def models(environments: Environments) -> Deploy:
    names = ("sdk", "events", "ndjson", "page", "socket")
    return Deploy(environments(*PACKAGES), READERS, names, [PROVIDER], has_successor=True)


@pytest.fixture
def tools(environments: Environments) -> Deploy:
    return Deploy(environments(*PACKAGES), ASSISTANT, ["tool"], [TOOLS])


def test_each_reader_of_a_model_gets_its_answer_over_a_deploy(
    models: Deploy, tmp_path: Path
) -> None:
    bare, hardened = models.run(tmp_path)
    assert_never_worse(bare, hardened)
    with every() as case:
        for name in ("sdk", "events", "ndjson", "page"):
            with case(name):
                assert hardened[name].is_whole
                assert hardened[name].pieces >= PIECES
        with case("socket"):
            assert "1012" in hardened["socket"].error


def test_a_tool_answers_its_mcp_client_over_a_deploy(tools: Deploy, tmp_path: Path) -> None:
    bare, hardened = tools.run(tmp_path)
    assert_never_worse(bare, hardened)
    assert hardened["tool"].is_whole


def test_the_page_of_an_mcp_server_keeps_its_call(tools: Deploy, tmp_path: Path) -> None:
    code = "import os\n" + "\n".join(BLOCK.findall(PAGE.read_text()))
    bare, hardened = replace(tools, services=[code], ending=WITHOUT).run(tmp_path)
    assert_never_worse(bare, hardened)
    assert hardened["tool"].is_whole
    assert hardened["tool"].pieces == PIECES


def test_an_answer_that_a_deploy_cuts_is_whole_to_no_client(
    models: Deploy, tools: Deploy, tmp_path: Path
) -> None:
    for deploy in (replace(models, names=["sdk", "events", "ndjson"], has_successor=False), tools):
        bare, hardened = replace(deploy, drain_timeout=1).run(tmp_path / deploy.names[0])
        with every() as case:
            for name, answer in hardened.items():
                with case(name):
                    assert not answer.is_whole
                    assert answer.error
                    assert answer.kind == bare[name].kind
