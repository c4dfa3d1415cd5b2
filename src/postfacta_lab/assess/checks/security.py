"""Security: who may write, what a stranger's page may read, what answers give away."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping

from ...engine.values import as_dict
from ..bench import Bench
from ..groups import group
from ..model import Verdict

_ORIGIN = "https://assess.example"
_DENIED = frozenset({401, 403})


@group("SECU-1", needs=("read",))
async def _cors(bench: Bench) -> Verdict:
    """Ask as a page of another origin would."""
    method = bench.spec.write.method if bench.spec.write else "GET"
    path = bench.writing("assess")[0].path if bench.spec.write else bench.read_path()
    preflight = {
        "Origin": _ORIGIN,
        "Access-Control-Request-Method": method,
        "Access-Control-Request-Headers": "authorization",
    }
    answers = [
        await bench.call(path, "OPTIONS", headers=preflight, auth=False),
        await bench.read(headers={"Origin": _ORIGIN}),
    ]
    for answer in answers:
        allowed = answer.headers.get("access-control-allow-origin", "")
        credentials = answer.headers.get("access-control-allow-credentials", "").lower() == "true"
        if credentials and allowed in {_ORIGIN, "*", "null"}:
            return Verdict.fails(f"{allowed} is allowed with credentials")
    if any(answer.headers.get("access-control-allow-origin") in {"*", _ORIGIN} for answer in answers):
        return Verdict.scored(1.0 if bench.spec.public else 0.5, "any origin is allowed, without credentials")
    return Verdict.passes("a foreign origin is allowed nothing")


@group("SECU-2", needs=("write",))
async def _anonymous(bench: Bench) -> Verdict:
    """Write without credentials."""
    written = await bench.write(auth=False)
    return Verdict.holds(
        written.answer.status in _DENIED, f"the write without credentials was answered {written.answer}"
    )


@group("SECU-3", needs=("auth", "write"))
async def _forged(bench: Bench) -> Verdict:
    """Write with credentials that were never given out."""
    name, value = bench.spec.auth or ("Authorization", "")
    scheme, _, token = value.rpartition(" ")
    accepted = 0
    forgeries = _forgeries(token)
    for forgery in forgeries:
        answer = (await bench.write(headers={name: f"{scheme} {forgery}".strip()}, auth=False)).answer
        accepted += answer.good
    return Verdict.holds(not accepted, f"{accepted} of {len(forgeries)} forged credentials were accepted")


def _forgeries(token: str) -> list[str]:
    head, *rest = token.split(".")
    none = base64.urlsafe_b64encode(json.dumps({"alg": "none", "typ": "JWT"}).encode()).rstrip(b"=").decode()
    payload = rest[0] if rest else base64.urlsafe_b64encode(b'{"sub":"admin"}').rstrip(b"=").decode()
    return [
        "",
        token[:-1],
        token + "x",
        token.swapcase() if token.swapcase() != token else token + "0",
        token[::-1] + "0",
        f"{none}.{payload}.",
        f"{head}.{payload}.{'A' * 43}",
        "null",
    ]


@group("SECU-4", needs=("read",))
async def _headers(bench: Bench) -> Verdict:
    """Look at the headers of an answer and of an error."""
    answers = [await bench.read(), await bench.call("/assess-unknown")]
    sniff = all(answer.headers.get("x-content-type-options", "").lower() == "nosniff" for answer in answers)
    versions = [answer.headers.get("server", "") for answer in answers]
    shown = any(re.search(r"\d", version) for version in versions) or any(
        "x-powered-by" in answer.headers for answer in answers
    )
    said = [*([] if sniff else ["no `nosniff`"]), *(["a version or X-Powered-By is shown"] if shown else [])]
    return Verdict.share(2 - len(said), 2, "; ".join(said) or "`nosniff`, and no version")


@group("OPER-7", needs=("read",))
async def _errors(bench: Bench) -> Verdict:
    """Compare errors, and ask for the document of the API."""
    path = bench.read_path().partition("?")[0]  # other paths may belong to another API, or to pages
    answers = [await bench.call(f"{path}/assess-unknown"), await bench.call(path, "DELETE")]
    if bench.spec.write:
        answers.append(await bench.call(bench.writing("assess")[0].path, bench.spec.write.method, body=b"{",
                                        headers={"Content-Type": "application/json"}))  # fmt: skip
    answers = [answer for answer in answers if answer.status >= 400]
    shape = _COMMON.intersection(*(as_dict(answer.json) for answer in answers))
    named = all(_has_id(answer.headers, answer.json) for answer in answers)
    same = bool(answers) and bool(shape)
    documents = ("/openapi.json", "/swagger.json", "/openapi.yaml", "/v3/api-docs")
    described = [path for path in documents if (await bench.call(path)).good]
    how = "share one" if same and named else "have no single"
    what = described[0] if described else "no document"
    said = f"errors {how} JSON shape with a request id; {what} describes the API"
    return Verdict.share((same and named) + bool(described), 2, said)


_COMMON = frozenset({"type", "title", "status", "detail", "error", "message", "code", "errors"})


def _has_id(headers: Mapping[str, str], body: object) -> bool:
    text = json.dumps(body).lower()
    return "request_id" in text or "requestid" in text or "correlation" in text or "x-request-id" in headers
