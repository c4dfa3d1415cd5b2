"""The OpenAPI document, made from the route table."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from postfacta_core.asgi import PROBLEMS, REFUSALS, problem_of

from .errors import AppError
from .principal import Access
from .web.routes import RouteClass, Rule

JSON = dict[str, Any]
Schemas = Mapping[tuple[Any, JsonSchemaMode], JSON]

_PARAMETER: Final = re.compile(r"{(\w+)(?::\w+)?}")
_TEXT: Final[JSON] = {"type": "string"}


def _pattern(pattern: str, description: str) -> JSON:
    return {"type": "string", "pattern": pattern, "description": description}


_REF: Final = _pattern(
    r"^(INC-[1-9][0-9]{0,17}|[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})$",
    "`INC-12`, or the incident's UUID.",
)
_PATTERNS: Final[dict[str, JSON]] = {
    "ref": _REF,
    "target": _REF,
    **{name: {"type": "string", "format": "uuid"} for name in ("id", "root", "session")},
    "rev": {"type": "integer", "minimum": 1, "maximum": 999_999_999},
    "type": {"enum": ["related", "duplicate_of", "follows"]},
    "slug": {"type": "string", "pattern": "^[a-z][a-z-]{0,62}$"},
}
_ANNOTATIONS: Final = {"default", "title", "description"}  # of a schema: they restrict nothing
_ETAGS: Final = r'^(\*|(W/)?"[!#-~]{0,100}"( ?, ?(W/)?"[!#-~]{0,100}"){0,9})$'
_KEY: Final = r'^("[!#-\[\]-~]{1,255}"|[!#-~][!-~]{0,254})$'
_HEADERS: Final = {
    "If-Match": _pattern(_ETAGS, "The ETag of the version you change."),
    "If-None-Match": _pattern(_ETAGS, "The ETag you have; the response is 304 if it is current."),
    "Idempotency-Key": _pattern(
        _KEY, "Makes a repeat safe: the first response is replayed for 24 hours."
    ),
}


def _object(optional: JSON, **required: JSON) -> JSON:
    return {"type": "object", "required": [*required], "properties": required | optional}


_PROBLEM: Final = _object(
    {"errors": {"type": "array", "items": _object({}, pointer=_TEXT, code=_TEXT, message=_TEXT)}},
    type=_TEXT | {"description": "`/problems/<slug>`: a page that explains it."},
    title=_TEXT,
    status={"type": "integer"},
    detail=_TEXT,
    instance=_TEXT,
    request_id=_TEXT,
)
_MESSAGE: Final = _object({"serviceVersion": _TEXT}, message=_TEXT, requestId=_TEXT)
# What any route may return besides the problems of its rule: the core's problems, and a crash.
_ALWAYS: Final = {
    problem.status: problem.title
    for problem in (*REFUSALS, *PROBLEMS.values(), problem_of(Exception()))
}
_ANSWER_HEADERS: Final = {401: "WWW-Authenticate", 405: "Allow", 429: "Retry-After"}


def openapi_document(rules: Iterable[Rule], *, version: str) -> JSON:
    """Describe every rule that has a summary."""
    described_rules = [rule for rule in rules if rule.summary]
    models: list[tuple[type[BaseModel], JsonSchemaMode]] = []
    for rule in described_rules:
        models.extend((model, "validation") for model in (rule.body, rule.query) if model)
        models.extend((model, "serialization") for model in rule.answers.values() if model)
    schemas, document = models_json_schema(models, ref_template="#/components/schemas/{model}")
    text = json.dumps(document.get("$defs", {}))
    definitions = json.loads(text, object_hook=_forbid_nul)
    paths: dict[str, JSON] = {}
    for rule in described_rules:
        path = _PARAMETER.sub(r"{\1}", rule.path)
        paths.setdefault(path, {})[rule.method.lower()] = _operation(rule, schemas, definitions)
    return {
        "openapi": "3.1.0",
        "info": {"title": "PostFacta", "version": version, "license": {"name": "BSD-3-Clause"}},
        "paths": paths,
        "components": {
            "schemas": {"Problem": _PROBLEM, "Message": _MESSAGE, **definitions},
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
        },
    }


def _forbid_nul(schema: JSON) -> JSON:
    is_restricted = schema.keys() & {"pattern", "format", "enum", "const"}
    if schema.get("type") == "string" and not is_restricted:
        schema["pattern"] = r"^[^\u0000]*$"  # PostgreSQL cannot store U+0000.
    return schema


def _operation(rule: Rule, schemas: Schemas, definitions: JSON) -> JSON:
    operation: JSON = {
        "summary": rule.summary,
        "operationId": re.sub(r"\W+", "_", f"{rule.method.lower()}{rule.path}").strip("_"),
        "parameters": [
            *(_parameter(name, "path", _PATTERNS[name]) for name in _PARAMETER.findall(rule.path)),
            *_query_parameters(rule, schemas, definitions),
            *(
                _parameter(name, "header", _HEADERS[name], required=is_required)
                for name, is_required in rule.headers.items()
            ),
        ],
        "responses": {
            str(status): answer for status, answer in sorted(_responses(rule, schemas).items())
        },
    }
    if rule.access is not Access.OPEN:
        operation["security"] = [{"bearer": []}]
    if rule.body is not None:
        kind = "application/merge-patch+json" if rule.method == "PATCH" else "application/json"
        schema = schemas[rule.body, "validation"]
        operation["requestBody"] = {"required": True, "content": {kind: {"schema": schema}}}
    return operation


def _parameter(name: str, place: str, schema: JSON, *, required: bool = True, **more: str) -> JSON:
    return {"name": name, "in": place, "required": required, **more, "schema": schema}


def _query_parameters(rule: Rule, schemas: Schemas, definitions: JSON) -> list[JSON]:
    """Return a parameter for each field of the model of the query."""
    if rule.query is None:
        return []
    # Models with the same name have longer names in the document.
    name_in_document = schemas[rule.query, "validation"]["$ref"].rpartition("/")[2]
    schema = definitions[name_in_document]
    required = schema.get("required", ())
    parameters: list[JSON] = []
    for name, property_schema in schema["properties"].items():
        plain = {key: value for key, value in property_schema.items() if key not in _ANNOTATIONS}
        # An absent parameter is null in our model, but null cannot be sent.
        alternatives = property_schema.get("anyOf", ())
        kind = next((kind for kind in alternatives if kind != {"type": "null"}), plain)
        about = property_schema.get("description", "")
        parameters.append(
            _parameter(name, "query", kind, required=name in required, description=about)
        )
    return parameters


def _responses(rule: Rule, schemas: Schemas) -> dict[int, JSON]:
    """Return the responses by status: those of success, and a problem document for each refusal."""
    answers: dict[int, JSON] = {}
    for status, model in rule.answers.items():
        answers[status] = {"description": "OK"}
        if model is not None:
            answers[status]["content"] = {
                "application/json": {"schema": schemas[model, "serialization"]}
            }
    for kind in rule.also:
        answers[200].setdefault("content", {})[kind] = {"schema": _TEXT}
    slugs = _slugs(rule)
    refusals = _ALWAYS | {
        error.status: error.title for error in AppError.__subclasses__() if error.slug in slugs
    }
    if rule.route_class is RouteClass.PROBE or rule.only_5xx:
        # Probes are not limited; callers that retry only after 5xx get 503 instead of 429.
        del refusals[429]
    if rule.path.startswith("/api/v1/"):
        media_type = "application/problem+json"
        schema = "Problem"
    else:
        media_type = "application/json"
        schema = "Message"
    content = {media_type: {"schema": {"$ref": f"#/components/schemas/{schema}"}}}
    for status, title in refusals.items():
        answers[status] = {"description": title, "content": content}
        if name := _ANSWER_HEADERS.get(status):
            answers[status]["headers"] = {name: {"required": True, "schema": _TEXT}}
    return answers


def _slugs(rule: Rule) -> set[str]:
    slugs = {"malformed", "method-not-allowed", *rule.problems}
    if rule.access is not Access.OPEN:
        slugs |= {"unauthenticated", "forbidden"}
    if _PARAMETER.search(rule.path):
        slugs.add("not-found")
    # v0 ignores the content type, and returns 400 for every invalid field.
    if rule.body is not None and not rule.path.startswith("/api/v0/"):
        slugs |= {"unsupported-media-type", "validation"}
    return slugs
