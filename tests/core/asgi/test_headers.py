"""Each response has the headers that the service owes, once."""

from __future__ import annotations

import pytest

from postfacta_core.asgi import HardenOptions
from postfacta_core.asgi._types import Message, Receive, Scope, Send
from postfacta_core.testing import call_asgi
from tests.kit.alone import WithHeaders

OWED = HardenOptions(
    response_headers=[("X-Frame-Options", "DENY"), ("Referrer-Policy", "same-origin")]
)


class App:
    """An application that sends the same message objects each time, as one with a constant response does."""

    def __init__(self, *headers: tuple[bytes, bytes]) -> None:
        self.start: Message = {
            "type": "http.response.start",
            "status": 200,
            "headers": list(headers),
        }
        self.end: Message = {"type": "http.response.body", "body": b"x"}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send(self.start)
        await send(self.end)


async def test_headers_are_added_after_the_applications_own() -> None:
    response = await call_asgi(WithHeaders(App((b"x-own", b"1")), OWED))
    assert response.headers[:-1] == [
        (b"x-own", b"1"),
        (b"x-frame-options", b"DENY"),
        (b"referrer-policy", b"same-origin"),
    ]


@pytest.mark.parametrize("name", [b"x-frame-options", b"X-Frame-Options"])
async def test_what_the_application_says_itself_wins_in_whatever_case(name: bytes) -> None:
    response = await call_asgi(WithHeaders(App((name, b"SAMEORIGIN")), OWED))
    assert response.headers[:-1] == [(name, b"SAMEORIGIN"), (b"referrer-policy", b"same-origin")]


async def test_the_applications_list_does_not_grow() -> None:
    app = App((b"x-own", b"1"))
    for _ in range(3):
        response = await call_asgi(WithHeaders(app, OWED))
        assert len(response.headers) == 4
    assert app.start["headers"] == [(b"x-own", b"1")]


async def test_a_response_that_names_no_headers_gets_them() -> None:
    app = App()
    del app.start["headers"]
    assert len((await call_asgi(WithHeaders(app, OWED))).headers) == 3


@pytest.mark.parametrize(
    "header", [("x-a", "1\r\nx-b: 2"), ("x a", "1"), ("", "1"), ("x-ü", "1"), ("x-a", "\x00")]
)
def test_a_header_that_no_response_can_have_is_refused_at_once(header: tuple[str, str]) -> None:
    with pytest.raises(ValueError, match="header"):
        HardenOptions(response_headers=[header])


async def test_what_is_not_http_passes_untouched() -> None:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        raise AssertionError

    app = App()
    await WithHeaders(app, OWED)({"type": "websocket", "path": "/", "headers": []}, receive, send)
    assert sent == [app.start, app.end]
