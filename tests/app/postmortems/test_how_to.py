"""The commands of the page on post-mortems do what it says, in their order."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.app.live import in_process

PAGE = Path(__file__).parents[3] / "docs/how-to/write-a-post-mortem.md"


def commands() -> Iterator[dict[str, Any]]:
    """Read each `curl` as a request."""
    for block in re.findall(r"^```sh\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL):
        for command in block.split("\n\n"):
            name, *words = shlex.split(command.replace("\\\n", " "))
            assert name == "curl"
            request: dict[str, Any] = {"method": "GET", "headers": []}
            options = iter(words)
            for word in options:
                if word == "-X":
                    request["method"] = next(options)
                elif word == "-H":
                    request["headers"].append(tuple(next(options).split(": ", 1)))
                elif word == "-d":
                    request["content"] = next(options)
                    request["method"] = "POST" if request["method"] == "GET" else request["method"]
                else:
                    request["url"] = word.removeprefix("$APP")
            yield request


async def test_each_command_is_answered_with_success(app_database_dsn: str) -> None:
    async with in_process(app_database_dsn) as service:
        token = (await service.as_role("responder"))["Authorization"]
        answers: list[tuple[str, int]] = []
        for request in commands():
            headers = [
                (name, text.replace("Bearer $TOKEN", token))
                for name, text in request.pop("headers")
            ]
            answer = await service.client.request(**request, headers=headers)
            assert answer.status_code in {200, 201}, (request, answer.text)
            answers.append((request["method"], answer.status_code))
        assert len(answers) == 12
        shown = await service.client.get(
            "/api/v1/incidents/INC-1/postmortem", headers={"Authorization": token}
        )
        assert (shown.json()["rev"], shown.json()["status"]) == (3, "published")
