"""Two applications for `test_context_isolation`.

One under a kernel that binds a context, one that trusts the server.
"""

from __future__ import annotations

from typing import Any

from postfacta_core.asgi._kernel import Kernel
from postfacta_core.asgi._types import Receive, Scope, Send
from postfacta_core.context import RequestContext, bind_request, current_request


async def tell(scope: Scope, receive: Receive, send: Send) -> None:
    """Read the body, and answer with the id of the context that was found."""
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
        return
    while (await receive()).get("more_body", False):
        pass
    request = current_request()
    body = (request.request_id if request is not None else "none").encode()
    headers = [(b"content-length", str(len(body)).encode()), (b"content-type", b"text/plain")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def lifespan(receive: Receive, send: Send) -> None:
    """Start and stop without doing anything."""
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return


async def naive(scope: Scope, receive: Receive, send: Send) -> None:
    """Bind a context only if there is none, and never release it.

    What trusts the server to start afresh.
    """
    if scope["type"] == "http" and current_request() is None:
        headers: list[tuple[bytes, Any]] = scope["headers"]
        ids = [value.decode() for name, value in headers if name == b"x-request-id"]
        bind_request(RequestContext(ids[0], 0.0))
    await tell(scope, receive, send)


app = Kernel(tell)
