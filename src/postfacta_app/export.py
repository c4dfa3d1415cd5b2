"""The export of an incident as JSON or Markdown, as of one snapshot of the database.

A long one is a stream.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import Annotated, Final, Literal
from uuid import UUID

from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from postfacta_web.conditional import is_not_modified

from . import actions, labels, links
from .actions import Action
from .aside import LARGE, aside
from .db import Reader, Unit
from .incidents.access import Ref
from .incidents.model import Incident
from .labels import Label
from .links import IncidentLink
from .postmortems import api as postmortems
from .postmortems.model import PostMortem
from .principal import Access
from .timeline import api as timeline_api, model
from .timeline.api import Timelines
from .timeline.kept import ENTRIES, TimelinePage, TimelineQuery
from .web.body import Time
from .web.render import TEMPLATES
from .web.routes import RouteClass
from .web.slices import Fill, Routes, Snapshot

_STEP: Final = 500  # The most entries that are read at once.
_ENTRY: Final = 500  # Bytes of an entry's JSON, about.
routes: Final = Routes("export")


class ExportFormat(StrEnum):
    """The format of a single export."""

    JSON = "json"
    MD = "md"


class OneQuery(BaseModel, extra="forbid", frozen=True):
    """The parameters of a single export."""

    format: ExportFormat = ExportFormat.JSON
    rev: int | None = Field(
        None, ge=1, le=2**31 - 1, description="The post-mortem's revision; by default the last."
    )


class TimelineDocument(BaseModel):
    """The timeline without hidden entries, and its digest."""

    digest: str
    rules: int
    milestones: Mapping[model.Milestone, model.Instant]
    entries: Sequence[model.Entry]


class ExportedAnnotation(BaseModel):
    """The current version of an annotation.

    On an entry, at a time of its own, or on the incident.
    """

    id: UUID
    kind: model.AnnotationKind
    state: model.AnnotationState | None
    body: str
    entry: model.EntryRef | None
    occurred_at: Time | None
    author: str
    at: Time


class IncidentExport(BaseModel):
    """What the caller may see of an incident.

    Equal states give equal bytes: there is no time of export.
    """

    format: Literal["postfacta-incident/1"] = "postfacta-incident/1"
    incident: Incident
    labels: Sequence[Label]
    timeline: TimelineDocument
    annotations: Sequence[ExportedAnnotation]
    postmortem: PostMortem | None = Field(
        description="Null if there is none, or none that the caller may read."
    )
    actions: Sequence[Action]
    links: Sequence[IncidentLink] = Field(description="Those whose other end the caller may see.")


# As Markdown, in which user input is inert: single lines of plain text are escaped. Markdown input
# keeps its formatting, but no HTML, no images and no links except to http, https or mailto; it is
# placed in a quote or list item, so constructs it leaves open end there. The template gets the
# escaped form unless it asks for the other.


class _Inert(str):
    __slots__ = ()


_ACTIVE: Final = re.compile(r"[\\`*_\[\]~|]")
# A backslash and what it escapes, or what must become inert: images become links; other links,
# text.
_LIVE: Final = re.compile(
    r"\\.|<|!(?=\[)|\](?=\s*\((?!(?:https?://|mailto:)))|\](?=\s*:)", re.DOTALL
)
_BREAK: Final = re.compile(r"\r\n?|\n")


def plain(text: object) -> str:
    if isinstance(text, _Inert):
        return text
    line = " ".join(str(text).split()).replace("&", "&amp;").replace("<", "&lt;")
    return _Inert(_ACTIVE.sub(r"\\\g<0>", line))


def quote(markdown: str) -> str:
    if not markdown.strip():
        return _Inert("Nothing recorded.")
    return _Inert("> " + "\n> ".join(_lines(markdown)))


_PRECISE: Final = {"day": 10, "minute": 16}  # Letters of a time that is known no better.


def time_text(at: str, precision: str = "second") -> str:
    """Return an instant of the document for readers, to the second, or to its precision."""
    text = at[: _PRECISE.get(precision, 19)].replace("T", " ")
    return _Inert(f"{text} UTC")


def item(markdown: str) -> str:
    # A list item that begins with two blank lines would end there.
    return _Inert("- " + "\n  ".join(_lines(markdown.strip())))


def _lines(markdown: str) -> list[str]:
    return _BREAK.split(_LIVE.sub(_escape, markdown))


def _escape(match: re.Match[str]) -> str:
    # An entity, since not every dialect escapes it with a backslash.
    if match[0] in {"<", "\\<"}:
        return "&lt;"
    return match[0] if match[0].startswith("\\") else f"\\{match[0]}"


# Not HTML: `finalize` escapes.
_MARKDOWN: Final = TEMPLATES.overlay(autoescape=False, finalize=plain, keep_trailing_newline=True)
_MARKDOWN.filters = _MARKDOWN.filters.copy()
_MARKDOWN.filters.update(
    quote=quote, item=item, time=time_text, url=lambda address: _Inert(f"<{address}>")
)
_TEMPLATE: Final = _MARKDOWN.get_template("incident.md")


def frame(document: IncidentExport) -> tuple[bytes, bytes]:
    """Render the document in UTF-8.

    What comes before the entries of its timeline, and after them.
    """
    before, _, after = _TEMPLATE.render(document.model_dump(mode="json")).partition("\0\n")
    return before.encode(), after.encode()


def entry_lines(entries: Sequence[model.Entry]) -> bytes:
    return "".join(
        f"- {time_text(model.format_micros(entry.t), entry.p)}, {plain(entry.source)},"
        f" {plain(entry.kind)}: {plain(entry.title)}\n"
        for entry in entries
    ).encode()


Later = Annotated[Reader, Fill(lambda call, _: call.tools.transactions.reader(call.principal))]
"""Reads once the snapshot is gone."""


@routes.api(
    "GET /api/v1/incidents/{ref}/export",
    Access.READ,
    "Export an incident",
    kind=RouteClass.SEARCH,
    also=("text/markdown",),
    conditional=True,
)
async def export(
    unit: Snapshot,
    ref: Ref,
    query: OneQuery,
    *,
    request: Request,
    timelines: Timelines,
    later: Later,
) -> Annotated[Response, IncidentExport]:
    """Read the first entries and all else from one snapshot.

    If there are more entries, they follow in a stream: each group is read as of that snapshot, by a
    statement of its own.
    """
    form = _FORMS[query.format]
    first_query = TimelineQuery.model_validate({"limit": _STEP, "digest": True})
    first = await timelines.slice(unit, ref, first_query)
    incident = first.incident
    entries = first.page.items
    document = await _document(unit, incident, first.page, rev=query.rev)

    def write() -> tuple[bytes, bytes, str]:
        before, after = form.frame(document)
        etag = f'"{hashlib.sha256(before + after + first.etag.encode()).hexdigest()[:32]}"'
        return before + form.entries(entries), after, etag

    head, tail, etag = await aside(LARGE, write)
    headers = {"ETag": etag}
    if is_not_modified(request, etag):
        return Response(status_code=304, headers=headers)
    headers["Content-Disposition"] = f'attachment; filename="{incident.ref}.{query.format}"'
    headers["Content-Type"] = form.kind
    if first.page.next_cursor is None:
        return Response(head + tail, headers=headers)
    # As the entries are in this snapshot.
    as_of = first_query.model_copy(update={"digest": False, "as_of": first.at})
    cursor = as_of.cursor_after(incident.id, entries[-1])

    async def pieces(cursor: str | None) -> AsyncIterator[bytes]:
        """Read each group by a statement of its own: no transaction waits for a slow client."""
        yield head
        while cursor is not None:
            # If the incident is no longer visible, the response breaks off.
            group = as_of.model_copy(update={"cursor": cursor})
            page = (await timelines.slice(later, incident.id, group)).page
            text = await aside(_ENTRY * len(page.items), form.entries, page.items)
            yield form.between + text
            cursor = page.next_cursor
        yield tail

    return StreamingResponse(pieces(cursor), headers=headers)


@dataclass(frozen=True, slots=True)
class _Form:
    kind: str
    # Writes what comes before its entries, and after them.
    frame: Callable[[IncidentExport], tuple[bytes, bytes]]
    entries: Callable[[Sequence[model.Entry]], bytes]  # writes entries
    between: bytes  # stands between two groups of entries


def _json_frame(document: IncidentExport) -> tuple[bytes, bytes]:
    # Within a string, quotation marks are escaped.
    text = document.__pydantic_serializer__.to_json(document)
    before, begin, after = text.partition(b'"entries":[')
    return before + begin, after


_FORMS: Final[Mapping[ExportFormat, _Form]] = {
    ExportFormat.JSON: _Form(
        "application/json", _json_frame, lambda entries: ENTRIES.dump_json(entries)[1:-1], b","
    ),
    ExportFormat.MD: _Form("text/markdown; charset=utf-8", frame, entry_lines, b""),
}


async def _document(
    unit: Unit, incident: Incident, page: TimelinePage, *, rev: int | None
) -> IncidentExport:
    """Read all but the entries of the timeline."""
    read = postmortems.find if rev is None else partial(postmortems.read_revision, rev=rev)
    revision = await read(unit, incident.id)
    annotations = await timeline_api.remarks(unit, incident.id)
    remarks = [
        ExportedAnnotation(**note.model_dump(include={*ExportedAnnotation.model_fields}))
        for note in annotations
    ]
    return IncidentExport(
        incident=incident,
        labels=(await labels.of(unit, incident.id)).labels,
        timeline=TimelineDocument(
            digest=page.digest or "", rules=page.rules, milestones=page.milestones, entries=()
        ),
        annotations=remarks,
        postmortem=None if revision is None else await postmortems.compared(unit, revision),
        actions=await actions.of(unit, incident.id),
        links=await links.of(unit, incident.id),
    )
