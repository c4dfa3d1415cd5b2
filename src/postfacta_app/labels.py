"""Labels of an incident: their model, SQL and API; pages show them on the incident's own."""

from __future__ import annotations

import hashlib
from typing import Annotated, Final

from pydantic import AfterValidator, BaseModel, Field, StringConstraints

from .db import VISIBLE, Query, Unit, row
from .incidents.access import Ref, lock_active, missing, ref_of
from .principal import Access
from .web.slices import Matches, Routes

routes: Final = Routes("list of labels")
_PATH: Final = "/api/v1/incidents/{ref}/labels"

Label = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,38}$", max_length=39)]


class Labels(BaseModel, extra="forbid", frozen=True):
    """All labels of one incident, sorted, each once."""

    labels: Annotated[
        list[Label], Field(max_length=20), AfterValidator(lambda labels: sorted({*labels}))
    ]

    @property
    def etag(self) -> str:
        version = hashlib.sha256(" ".join(self.labels).encode()).hexdigest()[:16]
        return f'"labels-{version}"'


_OF: Final = f"""
select array(select l.label from incident_labels l where l.incident_id = i.id) as labels
  from incidents i
 where {VISIBLE}
   and (i.id = $3::uuid or i.number = $4::bigint)"""  # noqa: S608 - only constants of db.py
_REPLACE: Final = """
with gone as (
  delete from incident_labels
   where incident_id = $1
     and label <> all ($2::text[]))
insert into incident_labels (incident_id, label, created_by)
select $1, label, $3
  from unnest($2::text[]) label
on conflict (incident_id, label) do nothing"""


@routes.api(f"GET {_PATH}", Access.READ, "List the labels of an incident", conditional=True)
async def of(q: Query, ref: Ref) -> Labels:
    labels = await row(q, Labels, _OF, *ref_of(ref), operation="labels_of")
    if labels is None:
        raise missing()
    return labels


@routes.api(f"PUT {_PATH}", Access.WRITE, "Replace the labels of an incident")
async def replace(unit: Unit, ref: Ref, new: Labels, *, matches: Matches) -> Labels:
    incident = await lock_active(unit, ref)
    old = await of(unit, incident.id)
    matches(old.etag)
    if new == old:
        return old
    await unit.execute(
        _REPLACE, incident.id, new.labels, unit.principal.actor, operation="labels_replace"
    )
    await unit.stamp(incident.id)  # So that an incremental pull sees it.
    detail = {"labels": [old.labels, new.labels]}
    await unit.audit("labels.change", incident.ref, incident_id=incident.id, detail=detail)
    return new
