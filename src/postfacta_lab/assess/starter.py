"""A service file for a service that has none.

Its OpenAPI document says what may be read or written, and it is tried.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..engine.values import Fields, as_dict, as_list, at_pointer
from ..engine.variables import Environment
from .bench import Bench
from .spec import Ask, Spec

_DOCUMENTS = ("/openapi.json", "/api/openapi.json", "/swagger.json", "/v3/api-docs")
_PROBES = re.compile(r"health|ready|live|metrics|ping|docs|openapi|version")
_TEXTS = {
    "email": "{unique}@example.org",
    "date": "2026-01-02",
    "date-time": "2026-01-02T03:04:05Z",
    "uuid": "00000000-0000-4000-8000-000000000001",
    "uri": "https://example.org/{unique}",
}
_TRIES = 12  # Writes of the document that are tried.
_DEEPEST = 6  # Levels of a schema that an example follows.
_REST = """
# [auth]
# header = "Authorization: Bearer ${TOKEN}"

# [database] # the proxy's address is put into this variable
# env = "DATABASE_URL"
# url = "postgresql://me@127.0.0.1/test"
# max_connections = 25
"""


async def guess(spec: Spec, environment: Environment) -> Spec:
    """Start the service once, and fill in the read, the write, the probes."""
    with tempfile.TemporaryDirectory(prefix="assess-") as folder:
        bench = Bench(spec, Path(folder), environment)
        async with bench.opened():
            await bench.start()
            await bench.guess()
            return await _complete(bench)


async def _complete(bench: Bench) -> Spec:
    document: dict[str, Any] = {}
    for path in _DOCUMENTS:
        answer = await bench.call(path)
        document = document or as_dict(answer.json)
    original = bench.spec
    tries = 0 if original.write else _TRIES
    for write in list(_writes(document))[:tries]:
        bench.spec = replace(original, write=write)
        written = await bench.write()
        if written.answer.good:
            break
        bench.spec = original
    read = original.read or await _read(bench, as_dict(document.get("paths")))
    return replace(bench.spec, read=read)


def _writes(document: dict[str, Any]) -> Iterator[Ask]:
    for path, operations in as_dict(document.get("paths")).items():
        operation = as_dict(as_dict(operations).get("post"))
        body = as_dict(operation.get("requestBody"))
        content = as_dict(body.get("content"))
        media = as_dict(content.get("application/json"))
        schema = media.get("schema")
        if schema is not None and "{" not in path:
            example = _example(document, as_dict(schema))
            yield Ask(path=path, method="POST", json=example)


def _example(document: dict[str, Any], schema: dict[str, Any], depth: int = 0) -> Any:
    """Make a value of a schema; its texts hold the mark."""
    if reference := str(schema.get("$ref", "")):
        schema = as_dict(at_pointer(document, reference.removeprefix("#")))
    for key in ("const", "example", "default"):
        if key in schema:
            return schema[key]
    for key in ("allOf", "anyOf", "oneOf"):
        if choices := as_list(schema.get(key)):
            return _example(document, as_dict(choices[0]), depth + 1)
    properties = as_dict(schema.get("properties"))
    if properties and depth < _DEEPEST:
        names = as_list(schema.get("required")) or list(properties)
        return {
            name: _example(document, as_dict(properties.get(name)), depth + 1) for name in names
        }
    least = schema.get("minimum", 1)
    plain: dict[str, Any] = {
        "object": {},
        "integer": least,
        "number": least,
        "boolean": True,
        "array": [],
    }
    text = _TEXTS.get(str(schema.get("format")), "{unique}")
    texts = as_list(schema.get("enum")) or [text]
    return plain.get(str(schema.get("type")), texts[0])


async def _read(bench: Bench, paths: dict[str, Any]) -> Ask:
    """Find what reads a write back; else anything that is answered 200."""
    if bench.spec.write is not None:
        written = await bench.write()
        base = bench.spec.write.path
        for path in (f"{base.rstrip('/')}/{{id}}", base):
            bench.spec = replace(bench.spec, read=Ask(path=path))
            if await bench.has(written):
                return Ask(path=path)
    free = [
        path
        for path, operations in paths.items()
        if "{" not in path and "get" in as_dict(operations)
    ]
    # A probe is the last resort.
    ordered = sorted([*free, "/"], key=lambda path: bool(_PROBES.search(path)))
    for path in ordered:
        answer = await bench.call(path)
        if answer.good:
            return Ask(path=path)
    return Ask(path=bench.spec.live or "/")


def toml_of(spec: Spec) -> str:
    """Return a service file, with what it could not find as comments."""
    service: dict[str, Any] = {
        "name": spec.name,
        "start": list(spec.start),
        "project": ".",
    }
    for name in ("live", "ready", "metrics"):
        path = getattr(spec, name)
        if path:
            service[name] = path
    text = _table("service", service)
    line = f'keeps = "{spec.keeps or "nothing"}"'
    text += f'{"" if spec.keeps else "# "}{line} # or "files", "database"\n'
    for name, ask in (("read", spec.read), ("write", spec.write)):
        if ask is None:
            text += f'\n# [{name}]\n# path = "/"\n'
        else:
            values = {
                "method": ask.method,
                "path": ask.path,
                "json": ask.json,
            }
            text += "\n" + _table(name, values)
    return text + _REST


def _table(name: str, values: Fields) -> str:
    text = f"[{name}]\n"
    for key, value in values.items():
        if value is not None:
            text += f"{key} = {_inline(value)}\n"
    return text


def _inline(value: Any) -> str:
    if isinstance(value, dict):
        entries = {key: entry for key, entry in as_dict(value).items() if entry is not None}
        pairs = [f"{json.dumps(key)} = {_inline(entry)}" for key, entry in entries.items()]
        inside = ", ".join(pairs)
        return f"{{ {inside} }}"
    if isinstance(value, list):
        items = ", ".join(map(_inline, as_list(value)))
        return f"[{items}]"
    return json.dumps(value)
