"""The SDKs of two model providers over a guarded transport, and a provider that behaves badly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.kit.every import every
from tests.kit.waiting import wait_until
from tests.strangers.kit import Environment, Environments

PACKAGES = ("anthropic==2.10.0", "httptools", "httpx2", "openai==3.57.0", "starlette", "uvicorn")
# It behaves as the model is called, in the format of the path, and lists what became of each stream.
PROVIDER = """
    import asyncio, json

    from starlette.applications import Starlette
    from starlette.responses import JSONResponse, StreamingResponse
    from starlette.routing import Route

    TOKENS = 8
    seen = []


    def openai(number):
        choice = {"index": 0, "delta": {"role": "assistant", "content": f"{number} "}}
        choice["finish_reason"] = "stop" if number == TOKENS else None
        chunk = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "local"}
        text = f"data: {json.dumps(chunk | {'choices': [choice]})}\\n\\n"
        return text + ("data: [DONE]\\n\\n" if number == TOKENS else "")


    def anthropic(number):
        events = []
        if number == 1:
            usage = {"input_tokens": 1, "output_tokens": 1}
            message = {"id": "1", "type": "message", "role": "assistant", "content": [], "model": "local"}
            message |= {"stop_reason": None, "stop_sequence": None, "usage": usage}
            events.append({"type": "message_start", "message": message})
            block = {"type": "text", "text": ""}
            events.append({"type": "content_block_start", "index": 0, "content_block": block})
        delta = {"type": "text_delta", "text": f"{number} "}
        events.append({"type": "content_block_delta", "index": 0, "delta": delta})
        if number == TOKENS:
            events.append({"type": "content_block_stop", "index": 0})
            stop = {"stop_reason": "end_turn", "stop_sequence": None}
            events.append({"type": "message_delta", "delta": stop, "usage": {"output_tokens": 8}})
            events.append({"type": "message_stop"})
        return "".join(f"event: {event['type']}\\ndata: {json.dumps(event)}\\n\\n" for event in events)


    async def pieces(model, write):
        if model == "silent":
            await asyncio.sleep(600)
        if model == "comments":
            for _ in range(6000):
                yield ": keep-alive\\n\\n"
                await asyncio.sleep(0.1)
        for number in range(1, TOKENS + 1):
            text = write(number)
            if number == 3 and model == "stall":
                for _ in range(6000):
                    yield ": keep-alive\\n\\n"
                    await asyncio.sleep(0.1)
            if number == 3 and model == "cut":
                raise ConnectionResetError("cut")
            if number == TOKENS and model == "drip":
                for place in range(len(text)):
                    yield text[place]
                    await asyncio.sleep(0.02)
            else:
                yield text
            if number < TOKENS:
                await asyncio.sleep({"slow": 0.5, "endless": 60}.get(model, 0))


    def answer(write):
        async def endpoint(request):
            model = (await request.json())["model"]
            if model == "busy":
                seen.append((model, "busy"))
                return JSONResponse({"error": {"message": "overloaded"}}, 529, {"Retry-After": "7"})

            async def body():
                seen.append((model, "begun"))
                ended = "cut"
                try:
                    async for piece in pieces(model, write):
                        yield piece
                    ended = "whole"
                except (asyncio.CancelledError, GeneratorExit):
                    ended = "left"
                    raise
                finally:
                    seen.append((model, ended))

            return StreamingResponse(body(), media_type="text/event-stream")

        return endpoint


    async def show(request):
        return JSONResponse(seen)


    app = Starlette(
        routes=[
            Route("/v1/chat/completions", answer(openai), methods=["POST"]),
            Route("/v1/messages", answer(anthropic), methods=["POST"]),
            Route("/seen", show),
        ]
    )
"""
CALLER = """
    import asyncio, json, os
    from contextlib import aclosing

    import anthropic, httpx2, openai

    from postfacta_adapters.httpx import Outgoing
    from postfacta_core import CircuitBreaker, CircuitConfig, Fallback

    URL = "ADDRESS"
    CALLS = 3
    MODELS = ("silent", "comments", "stall", "drip", "busy", "cut", "slow", "fine")
    MESSAGES = [{"role": "user", "content": "Count."}]


    def sockets():
        links = (f"/proc/self/fd/{number}" for number in os.listdir("/proc/self/fd"))
        return sum(os.path.lexists(link) and os.readlink(link).startswith("socket:") for link in links)


    def transport(name):
        config = CircuitConfig(minimum_number_of_calls=2, failure_rate_threshold=0.6)
        breaker = CircuitBreaker(name, config=config)
        return Outgoing(name, breaker, first=3.0, idle=3.0).transport(httpx2.AsyncHTTPTransport()), breaker


    async def by_openai(http, model):
        client = openai.AsyncOpenAI(base_url=f"{URL}/v1", api_key="none", max_retries=0, http_client=http)
        async for chunk in await client.chat.completions.create(model=model, messages=MESSAGES, stream=True):
            yield chunk.choices[0].delta.content


    async def by_anthropic(http, model):
        client = anthropic.AsyncAnthropic(base_url=URL, api_key="none", max_retries=0, http_client=http)
        async with client.messages.stream(model=model, messages=MESSAGES, max_tokens=99) as stream:
            async for text in stream.text_stream:
                yield text


    def chain(error):
        while error is not None:
            yield error
            error = error.__cause__ or error.__context__


    async def ask(sdk, http, model):
        text = ""
        said = {}
        try:
            async with aclosing(sdk(http, model)) as tokens:
                async for token in tokens:
                    text += token
        except (openai.APIError, anthropic.APIError) as error:
            said = {"caught": "sdk", "names": [type(each).__name__ for each in chain(error)]}
        except httpx2.HTTPError as error:
            said = {"caught": "http", "names": [type(each).__name__ for each in chain(error)]}
        return {"text": text, **said}


    async def run(sdk, model):
        guarded, breaker = transport(f"{sdk.__name__}-{model}")
        async with httpx2.AsyncClient(transport=guarded, timeout=60) as http:
            answers = [await ask(sdk, http, model) for _ in range(CALLS)]
            return {"answers": answers, "state": breaker.statistics().state}


    async def fail_over(sdk):
        guarded, breaker = transport(f"{sdk.__name__}-primary")

        async def first_token(model):
            async with httpx2.AsyncClient(transport=guarded, timeout=60) as http:
                async with aclosing(sdk(http, model)) as tokens:
                    async for token in tokens:
                        return token

        other = Fallback("other", otherwise=lambda outcome: first_token("fine"), on=ERRORS)
        return await other.call(first_token, "comments")


    ERRORS = (openai.APIError, anthropic.APIError, httpx2.HTTPError)


    async def leave(sdk):
        guarded, breaker = transport(f"{sdk.__name__}-left")
        async with httpx2.AsyncClient(transport=guarded, timeout=60) as http:
            async def read():
                async with aclosing(sdk(http, "endless")) as tokens:
                    async for _ in tokens:
                        begun.set()

            begun = asyncio.Event()
            task = asyncio.create_task(read())
            await begun.wait()
            task.cancel()
            await asyncio.wait([task])


    async def main():
        before = sockets()
        found = {}
        for sdk in (by_openai, by_anthropic):
            runs = await asyncio.gather(*(run(sdk, model) for model in MODELS))
            found[sdk.__name__] = dict(zip(MODELS, runs))
            found[f"{sdk.__name__} fails over"] = await fail_over(sdk)
            await leave(sdk)
        await asyncio.sleep(0)
        found["tasks"] = len(asyncio.all_tasks())
        found["sockets"] = sockets() - before
        print(json.dumps(found))


    asyncio.run(main())
"""
# It asks the second provider where no token of the first was passed on, as the how-to page says.
CHOOSER = (
    CALLER[: CALLER.index("    async def fail_over")]
    + """
    ERRORS = (openai.APIError, anthropic.APIError, httpx2.HTTPError)


    async def either(sdk, first, second, model, passed):
        try:
            async with aclosing(sdk(first, model)) as tokens:
                async for token in tokens:
                    passed.append(token)
        except ERRORS as error:
            if passed:
                raise
            async with aclosing(sdk(second, "fine")) as tokens:
                async for token in tokens:
                    passed.append(token)


    async def choose(sdk, model):
        first, _ = transport(f"{sdk.__name__}-{model}")
        second, _ = transport(f"{sdk.__name__}-{model}-second")
        answers = []
        async with (
            httpx2.AsyncClient(transport=first, timeout=60) as main,
            httpx2.AsyncClient(transport=second, timeout=60) as spare,
        ):
            for _ in range(CALLS):
                passed, failed = [], False
                try:
                    await either(sdk, main, spare, model, passed)
                except ERRORS:
                    failed = True
                answers.append(["".join(passed), failed])
        return answers


    async def main():
        found = {}
        for sdk in (by_openai, by_anthropic):
            runs = await asyncio.gather(*(choose(sdk, model) for model in MODELS))
            found[sdk.__name__] = dict(zip(MODELS, runs))
        print(json.dumps(found))


    asyncio.run(main())
"""
)
MIDWAY = {"by_openai": "sdk", "by_anthropic": "http"}
WHOLE = "1 2 3 4 5 6 7 8 "
# It passes the answers of the provider on.
SERVICE = """
    import httpx2
    from starlette.applications import Starlette
    from starlette.responses import StreamingResponse
    from starlette.routing import Route

    from postfacta_adapters.httpx import Outgoing
    from postfacta_core import CircuitBreaker
    from postfacta_core.asgi import harden

    model = Outgoing("model", CircuitBreaker("model"), first=60.0, idle=60.0)
    client = httpx2.AsyncClient(transport=model.transport(httpx2.AsyncHTTPTransport()), timeout=90.0)


    async def talk(request):
        asked = client.build_request(
            "POST", "ADDRESS/v1/chat/completions", json={"model": request.path_params["model"]}
        )
        response = await client.send(asked, stream=True)

        async def pieces():
            try:
                async for piece in response.aiter_raw():
                    yield piece
            finally:
                await response.aclose()

        return StreamingResponse(pieces(), media_type="text/event-stream")


    app = harden(Starlette(routes=[Route("/talk/{model}", talk)]), service="chat")
"""


@pytest.fixture
def environment(environments: Environments) -> Environment:
    return environments(*PACKAGES)


def test_both_sdks_know_each_failure_and_leave_nothing_open(
    environment: Environment, tmp_path: Path
) -> None:
    with environment.serve(PROVIDER, cwd=tmp_path) as provider:
        done = environment.script(CALLER.replace("ADDRESS", provider.url), cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        url = f"{provider.url}/seen"
        wait_until(lambda: _open(url) == 0, "no stream that the provider has open")
        seen = _seen(url)
    # What is read of each answer, an error of the first call, who catches it, and the circuit. Of a
    # stream that was begun, Anthropic's SDK raises what its client does.
    expected: dict[str, tuple[str, str | None, str | dict[str, str], str]] = {
        "silent": ("", "StreamStalledError", "sdk", "open"),
        "comments": ("", "StreamStalledError", "sdk", "open"),
        "stall": ("1 2 ", "StreamStalledError", MIDWAY, "open"),
        "drip": (WHOLE, None, {}, "closed"),
        "busy": ("", None, "sdk", "open"),
        "cut": ("1 2 ", "RemoteProtocolError", MIDWAY, "open"),
        "slow": (WHOLE, None, {}, "closed"),
        "fine": (WHOLE, None, {}, "closed"),
    }
    with every() as case:
        for sdk in ("by_openai", "by_anthropic"):
            for model, (text, name, caught, state) in expected.items():
                with case(sdk, model):
                    run = found[sdk][model]
                    first, second, third = run["answers"]
                    assert first["text"] == text
                    who = caught.get(sdk) if isinstance(caught, dict) else caught
                    assert first.get("caught") == who
                    assert name is None or name in first["names"]
                    assert run["state"] == state
                    assert second == first
                    if state == "open":
                        assert (third["text"], third["caught"]) == ("", "sdk")
                        assert "CircuitOpenError" in third["names"]
                    else:
                        assert third == first
            with case(sdk, "fails over"):
                assert found[f"{sdk} fails over"] == "1 "
    assert (found["tasks"], found["sockets"]) == (1, 0)
    # Per SDK: 2 of each stall, 1 before the failover, 1 whose reader left. The failover's own reader
    # leaves after a token, when all of it may be sent.
    left = sorted(model for model, what in seen if what == "left" and model != "fine")
    assert left == sorted([*["silent", "comments", "stall"] * 4, *["comments", "endless"] * 2])


def test_a_second_provider_takes_over_only_where_no_token_was_passed_on(
    environment: Environment, tmp_path: Path
) -> None:
    with environment.serve(PROVIDER, cwd=tmp_path) as provider:
        done = environment.script(CHOOSER.replace("ADDRESS", provider.url), cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        asked = [model for model, what in _seen(f"{provider.url}/seen") if what == "begun"]
    whole = [WHOLE, False]
    # The third call finds the circuit open: nothing was passed on, so the second provider answers.
    died = [["1 2 ", True], ["1 2 ", True], whole]
    with every() as case:
        for sdk in ("by_openai", "by_anthropic"):
            for model, answers in found[sdk].items():
                with case(sdk, model):
                    assert answers == (died if model in {"cut", "stall"} else [whole] * 3)
    # Per SDK: three calls of each of "silent", "comments" and "busy", and one of each that died.
    taken = 3 * 3 + 2
    own = 3
    assert asked.count("fine") == 2 * (taken + own)


def _seen(url: str) -> list[tuple[str, str]]:
    return [(model, what) for model, what in httpx2.get(url, timeout=10).json()]


def _open(url: str) -> int:
    events = [what for _, what in _seen(url)]
    return events.count("begun") - sum(events.count(end) for end in ("left", "whole", "cut"))


def test_a_reader_that_leaves_a_service_ends_the_providers_stream(
    environment: Environment, tmp_path: Path
) -> None:
    folders = [tmp_path / "provider", tmp_path / "service"]
    for folder in folders:
        folder.mkdir()
    with environment.serve(PROVIDER, cwd=folders[0]) as provider:
        code = SERVICE.replace("ADDRESS", provider.url)
        with environment.serve(code, cwd=folders[1]) as service:
            # After the first piece, and in the midst of comments between two.
            for model in ("endless", "stall"):
                for _ in range(5):
                    with httpx2.stream(
                        "GET", f"{service.url}/talk/{model}", timeout=60
                    ) as response:
                        assert b"data: " in next(response.iter_raw())

            def left() -> list[str]:
                seen = _seen(f"{provider.url}/seen")
                return sorted(model for model, what in seen if what == "left")

            wait_until(lambda: len(left()) >= 10, "ten streams that the provider saw end")
            assert left() == ["endless"] * 5 + ["stall"] * 5
