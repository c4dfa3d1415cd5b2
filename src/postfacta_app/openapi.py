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
    "mapping": {"type": "string", "pattern": "^[a-z0-9-]{1,63}$"},
}
_ANNOTATIONS: Final = {"default", "description"}  # of a schema: they restrict nothing
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
# The tag of a path is the first section whose pattern it begins with.
_SECTIONS: Final = {
    "v0": r"/api/v0/",
    "signals": r"/api/v1/(signals|ingest)|/api/v1/incidents/{ref}/signals",
    "timeline": r"/api/v1/annotations|/api/v1/incidents/{ref}/(timeline|edits|annotations)",
    "durations": r"/api/v1/(incidents/{ref}/)?durations",
    "postmortems": r"/api/v1/factors|/api/v1/incidents/{ref}/postmortem",
    "follow-up": r"/api/v1/action-items|/api/v1/incidents/{ref}/(action-items|links|labels)",
    "export": r"/api/v1/(incidents/{ref}/)?export",
    "incidents": r"/api/v1/incidents",
    "people": r"/api/v1/(me|tokens|users|audit)|/(login|register|logout)",
    "service": r"/",
}
_VERBS: Final = {
    "GET": "get",
    "POST": "create",
    "PUT": "replace",
    "PATCH": "update",
    "DELETE": "delete",
}
_ANSWER_HEADERS: Final = {401: "WWW-Authenticate", 405: "Allow", 429: "Retry-After"}


def openapi_document(rules: Iterable[Rule], *, version: str) -> JSON:
    """Describe every rule that has a summary.

    Names are public: generated clients are made of them. `ValueError` if two models have one name.
    """
    described_rules = [rule for rule in rules if rule.summary]
    models: list[tuple[type[BaseModel], JsonSchemaMode]] = []
    for rule in described_rules:
        models.extend((model, "validation") for model in (rule.body, rule.query) if model)
        models.extend((model, "serialization") for model in rule.answers.values() if model)
    schemas, document = models_json_schema(models, ref_template="#/components/schemas/{model}")
    text = json.dumps(document.get("$defs", {}))
    definitions: JSON = json.loads(text, object_hook=_for_clients)
    if ambiguous := [name for name in definitions if not name.isalnum()]:
        raise ValueError(f"rename the models that share a name: {', '.join(ambiguous)}")
    paths: dict[str, JSON] = {}
    for rule in described_rules:
        path = _PARAMETER.sub(r"{\1}", rule.path)
        operations = paths.setdefault(path, {})
        operations[rule.method.lower()] = _operation(rule, schemas, definitions)
    return {
        "openapi": "3.1.0",
        "info": {"title": "PostFacta", "version": version, "license": {"name": "BSD-3-Clause"}},
        "tags": [{"name": name} for name in _SECTIONS],
        "paths": paths,
        "components": {
            "schemas": {"Problem": _PROBLEM, "Message": _MESSAGE, **definitions},
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
        },
    }


def _for_clients(schema: JSON) -> JSON:
    """Return a schema without titles, by which generators name models, and without U+0000."""
    if isinstance(schema.get("title"), str):
        del schema["title"]
    is_restricted = schema.keys() & {"pattern", "format", "enum", "const"}
    if schema.get("type") == "string" and not is_restricted:
        schema["pattern"] = r"^[^\u0000]*$"  # PostgreSQL cannot store U+0000.
    return schema


def _operation(rule: Rule, schemas: Schemas, definitions: JSON) -> JSON:
    responses = _responses(rule, schemas)
    operation: JSON = {
        "summary": rule.summary,
        "operationId": rule.operation or _operation_id(rule),
        "tags": [_section(rule)],
        "parameters": [
            *_path_parameters(rule),
            *_query_parameters(rule, schemas, definitions),
            *_header_parameters(rule),
        ],
        "responses": {str(status): responses[status] for status in sorted(responses)},
    }
    if rule.access is not Access.OPEN:
        operation["security"] = [{"bearer": []}]
    if rule.body is not None:
        kind = "application/merge-patch+json" if rule.method == "PATCH" else "application/json"
        schema = schemas[rule.body, "validation"]
        operation["requestBody"] = {"required": True, "content": {kind: {"schema": schema}}}
    return operation


def _section(rule: Rule) -> str:
    return next(name for name, pattern in _SECTIONS.items() if re.match(pattern, rule.path))


def _operation_id(rule: Rule) -> str:
    """Return a verb and what the path names, such as `list_incident_edits`."""
    parts = rule.path.removeprefix("/api/").removeprefix("v1/").strip("/").split("/")
    nouns: list[str] = []
    for part in parts:
        if not part.startswith("{"):
            nouns.append(re.sub(r"\W", "_", part))
        elif nouns:
            nouns[-1] = nouns[-1].removesuffix("s")  # one of them
    is_list = rule.query is not None and "cursor" in rule.query.model_fields
    verb = "list" if is_list or _has_items(rule) else _VERBS[rule.method]
    if rule.method == "POST":
        nouns[-1] = nouns[-1].removesuffix("s")
    return "_".join((verb, *nouns))


def _has_items(rule: Rule) -> bool:
    answer = rule.answers.get(200)
    return answer is not None and "items" in answer.model_fields


def _parameter(name: str, place: str, schema: JSON, *, required: bool = True, **more: str) -> JSON:
    return {"name": name, "in": place, "required": required, **more, "schema": schema}


def _path_parameters(rule: Rule) -> list[JSON]:
    return [_parameter(name, "path", _PATTERNS[name]) for name in _PARAMETER.findall(rule.path)]


def _header_parameters(rule: Rule) -> list[JSON]:
    parameters: list[JSON] = []
    for name, is_required in rule.headers.items():
        parameters.append(_parameter(name, "header", _HEADERS[name], required=is_required))
    return parameters


def _query_parameters(rule: Rule, schemas: Schemas, definitions: JSON) -> list[JSON]:
    """Return a parameter for each field of the model of the query."""
    if rule.query is None:
        return []
    schema = definitions[schemas[rule.query, "validation"]["$ref"].rpartition("/")[2]]
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
            schema = schemas[model, "serialization"]
            answers[status]["content"] = {"application/json": {"schema": schema}}
    for kind in rule.also:
        answers[200].setdefault("content", {})[kind] = {"schema": _TEXT}
    content = _refusal_content(rule)
    for status, title in _refusals(rule).items():
        answers[status] = {"description": title, "content": content}
        if name := _ANSWER_HEADERS.get(status):
            answers[status]["headers"] = {name: {"required": True, "schema": _TEXT}}
    return answers


def _refusals(rule: Rule) -> dict[int, str]:
    """Return the title of each status with which a call may be refused."""
    slugs = _slugs(rule)
    refusals = dict(_ALWAYS)
    for error in AppError.__subclasses__():
        if error.slug in slugs:
            refusals[error.status] = error.title
    if rule.route_class is RouteClass.PROBE or rule.only_5xx:
        # Probes are not limited; callers that retry only after 5xx get 503 instead of 429.
        del refusals[429]
    return refusals


def _refusal_content(rule: Rule) -> JSON:
    media_type = "application/json"
    schema = "Message"
    if rule.path.startswith("/api/v1/"):
        media_type = "application/problem+json"
        schema = "Problem"
    return {media_type: {"schema": {"$ref": f"#/components/schemas/{schema}"}}}


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
