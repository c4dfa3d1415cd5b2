"""A service of FastAPI whose clients name the version that they change, and send keys."""

from __future__ import annotations

from pathlib import Path

import httpx2

from tests.strangers.kit import Environments

SERVICE = """
    from fastapi import Depends, FastAPI, Request, Response

    from postfacta_web.conditional import check_if_match, idempotency_key, is_not_modified
    from postfacta_core.asgi import harden

    web = FastAPI()
    bill = {"version": 1}


    @web.get("/bill")
    def read(request: Request) -> Response:
        etag = f'"{bill["version"]}"'
        known = is_not_modified(request, etag)
        return Response(status_code=304 if known else 200, headers={"ETag": etag})


    @web.put("/bill")
    def change(request: Request, key: str | None = Depends(idempotency_key)) -> str | None:
        check_if_match(request, f'"{bill["version"]}"')
        bill["version"] += 1
        return key


    app = harden(web, service="shop")
"""


def test_a_second_change_of_the_same_version_is_refused_in_the_shape_of_the_service(
    environments: Environments, tmp_path: Path
) -> None:
    with (
        environments("fastapi", "uvicorn").serve(SERVICE, cwd=tmp_path) as served,
        httpx2.Client(base_url=served.url, timeout=20) as client,
    ):
        etag = client.get("/bill").headers["etag"]
        assert client.get("/bill", headers={"if-none-match": f"W/{etag}"}).status_code == 304
        first = client.put("/bill", headers={"if-match": etag, "idempotency-key": '"a key"'})
        assert (first.status_code, first.json()) == (200, "a key")
        late = client.put("/bill", headers={"if-match": etag})
        assert (late.status_code, late.headers["etag"]) == (412, '"2"')
        assert late.json() == {"detail": "It has changed: read it again, then retry"}
        for sent, status in (
            ({}, 428),
            ({"if-match": "2"}, 400),
            ({"idempotency-key": "k" * 256}, 400),
        ):
            assert client.put("/bill", headers=sent).status_code == status
        assert "Traceback" not in served.log
