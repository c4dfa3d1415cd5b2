"""A service that reads JSON of clients strictly."""

from __future__ import annotations

from pathlib import Path

import httpx2

from tests.strangers.kit import Environments

SERVICE = """
    from starlette.applications import Starlette
    from starlette.exceptions import HTTPException
    from starlette.responses import JSONResponse
    from starlette.routing import Route

    from postfacta_web import strict_json
    from postfacta_core.asgi import harden


    async def order(request):
        try:
            sent = strict_json.parse(await request.body(), most_parts=1_000, most_depth=3)
        except strict_json.MalformedJsonError as error:
            raise HTTPException(422, str(error)) from None
        return JSONResponse(sent)


    app = harden(Starlette(routes=[Route("/orders", order, methods=["POST"])]), service="shop")
"""


def test_a_client_gets_its_value_back_or_the_words_of_the_error(
    environments: Environments, tmp_path: Path
) -> None:
    with environments("starlette", "uvicorn").serve(SERVICE, cwd=tmp_path) as served:
        for sent, status, answer in (
            (b'{"items":[{"n":1}],"by":"a\\ud800"}', 200, '{"items":[{"n":1}],"by":"a\ufffd"}'),
            (b"[NaN]", 422, "NaN is not JSON"),
            (b"[[[[]]]]", 422, "nested too deeply"),
            (b"[" + b"{}," * 1_000 + b"{}]", 422, "more than 1,000 commas and brackets"),
            (b'{"a":', 422, "not JSON at line 1, column 6"),
        ):
            response = httpx2.post(f"{served.url}/orders", content=sent, timeout=20)
            assert (response.status_code, response.text) == (status, answer)
        assert "Traceback" not in served.log
