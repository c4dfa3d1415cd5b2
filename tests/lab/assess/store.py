"""A database for saboteurs.

A process that keeps values by key, in memory, asked with a line of JSON each.
"""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import suppress
from typing import cast


async def serve(port: int) -> None:
    values: dict[str, object] = {}

    def answer(asked: dict[str, object]) -> dict[str, object]:
        key = str(asked.get("key"))
        match asked["do"]:
            case "put":
                values[key] = asked["value"]
            case "add":
                values.setdefault(key, asked["value"])
            case "drop":
                for name in cast("list[str]", asked["value"]):
                    values.pop(name, None)
            case _:
                pass
        return {"value": values.get(key)}

    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionResetError):
            while line := await reader.readline():
                writer.write(json.dumps(answer(json.loads(line))).encode() + b"\n")
        writer.close()

    server = await asyncio.start_server(client, "127.0.0.1", port, limit=2**24)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1])))
