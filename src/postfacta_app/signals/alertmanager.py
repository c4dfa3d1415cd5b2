"""Convert notifications of Alertmanager's webhook, version 4, to signals.

Both Alertmanagers of a pair, and every repeat, send the same keys, so each alert is stored once. Its content is its
labels and times: annotations are templates that change between repeats. The first ones stay.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Annotated, Final, Literal

from pydantic import BaseModel, Field, JsonValue, StringConstraints

from ..errors import FieldError, InvalidFieldsError
from ..principal import Principal
from ..web.body import Time, parse
from .model import Fact, ItemResult, NewSignal, Result

_MOST_ITEMS: Final = 1000
_TOO_MANY: Final = FieldError("", "too_long", f"makes more than {_MOST_ITEMS} signals: lower max_alerts")
_ZERO: Final = datetime(1, 1, 1, tzinfo=UTC)  # Go's zero time.
_LONGEST_TITLE, _LONGEST_BODY, _LONGEST_SLUG = 500, 20_000, 63
_ADDRESS: Final = re.compile(r"https?://[!#-\[\]-~]{1,3000}")


class Webhook(BaseModel):
    """A notification. Unknown members are ignored, and invalid ones do not lose the alerts."""

    version: Literal["4"]
    alerts: list[JsonValue]
    group_key: JsonValue = Field("", alias="groupKey")
    external_url: JsonValue = Field("", alias="externalURL")
    truncated_alerts: JsonValue = Field(
        0, alias="truncatedAlerts", description="How many alerts were omitted due to `max_alerts`."
    )

    @property
    def lost(self) -> int:
        number = self.truncated_alerts
        return number if isinstance(number, int) and number > 0 else 0


Labels = tuple[str, str]  # those that hold an alert's service and environment


class _Alert(BaseModel):
    status: Literal["firing", "resolved"]
    labels: dict[str, str]
    annotations: dict[str, str] = {}
    fingerprint: Annotated[str, StringConstraints(min_length=1, max_length=100)]
    starts_at: Time = Field(alias="startsAt")
    sent: JsonValue = Field(None, alias="startsAt")  # the same exactly as sent: a part of its keys
    ends_at: Time = Field(_ZERO, alias="endsAt")
    generator_url: str = Field("", alias="generatorURL")


def read_alerts(
    webhook: Webhook, principal: Principal, *, labels: Labels, clean: Callable[[JsonValue], JsonValue]
) -> Sequence[Fact | ItemResult]:
    """Convert each alert to one signal, a resolved one to two; the index is that of the alert.

    Invalid alerts, and those beyond 1,000 items, are rejected, the others not. `clean` redacts secrets.
    """
    items: list[Fact | ItemResult] = []
    source = None if principal.source else "alertmanager"
    about = {"groupKey": clean(webhook.group_key), "externalURL": clean(webhook.external_url)}
    for index, sent in enumerate(webhook.alerts):
        try:
            alert = parse(_Alert, clean(sent))
            said: dict[str, object] = {**_said(alert, labels), "source": source}
            said["payload"] = {"labels": alert.labels, "annotations": alert.annotations, **about}
            found = [
                Fact.of(index, parse(NewSignal, said | told), principal, content=content)
                for told, content in _events(alert)
            ]
            errors = [] if len(items) + len(found) <= _MOST_ITEMS else [_TOO_MANY]
        except InvalidFieldsError as refused:
            found, errors = [], list(refused.errors)
        items += found if not errors else [ItemResult(index=index, result=Result.REJECTED, errors=errors)]
    return items


def _events(alert: _Alert) -> Iterator[tuple[dict[str, object], dict[str, object]]]:
    """Return the fields that differ between an alert's signals, with the content of each."""
    began: dict[str, object] = {"labels": alert.labels, "starts_at": alert.starts_at}
    events = {"firing": (alert.starts_at, began)}
    if alert.status == "resolved":
        events["resolved"] = (alert.ends_at, began | {"ends_at": alert.ends_at})
    for state, (at, content) in events.items():
        told: dict[str, object] = {"kind": f"alert_{state}", "occurred_at": None if at == _ZERO else at}
        yield told | {"id": f"{alert.fingerprint}:{alert.sent}:{state}"}, content


def _said(alert: _Alert, labels: Labels) -> dict[str, object]:
    notes = alert.annotations
    title = alert.labels.get("alertname") or notes.get("summary") or "An alert without a name"
    service, environment = (_slug(alert.labels.get(name, "")) for name in labels)
    links = (
        ("Prometheus", alert.generator_url),
        ("Runbook", notes.get("runbook_url") or notes.get("runbook") or ""),
    )
    return {
        "title": title[:_LONGEST_TITLE],
        "body": notes["description"][:_LONGEST_BODY] if "description" in notes else None,
        "services": [service] if service else [],
        "environment": environment or None,
        "links": [{"title": name, "url": url} for name, url in links if _ADDRESS.fullmatch(url)],
    }


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:_LONGEST_SLUG].rstrip("-")
