"""Read received signals: redact their secrets, check them, and convert an Alertmanager's alerts."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from itertools import repeat
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, Field, JsonValue

from postfacta_core.telemetry.redaction import REDACTED, redact, redact_text

from ..errors import FieldError, InvalidFieldsError
from ..principal import Principal
from ..settings import Settings
from ..web.body import Time, parse
from . import model
from .model import Fact, ItemResult, Result


class Intake:
    """How received signals are read: without secrets, and by which labels of alerts."""

    def __init__(self, settings: Settings) -> None:
        self._keys = frozenset(key.lower().replace("-", "_") for key in settings.secret_keys)
        self.labels = settings.alert_service_label, settings.alert_environment_label

    def clean(self, value: JsonValue) -> JsonValue:
        """Redact the values of secret keys, and secrets in any text, at any depth.

        A key is secret if the service's log would redact it, or if the settings name it. Most have
        nothing to hide, and are looked at as one text: a third of the cost.
        """
        parts = [value]
        names: list[str] = []
        for part in parts:  # It grows meanwhile.
            if isinstance(part, dict):
                names += part
                parts += part.values()
            elif isinstance(part, list):
                parts += part
        text = "\n".join([part for part in parts if isinstance(part, str)])
        if redact_text(text) == text and not any(map(_is_secret, names, repeat(self._keys))):
            return value
        return self._redacted(value)

    def _redacted(self, value: JsonValue) -> JsonValue:
        if isinstance(value, str):
            return redact_text(value)
        if isinstance(value, list):
            return [self._redacted(item) for item in value]
        if isinstance(value, dict):
            return {
                name: (
                    REDACTED
                    if item is not None and _is_secret(name, self._keys)
                    else self._redacted(item)
                )
                for name, item in value.items()
            }
        return value


_CAMEL: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


# The same few names occur in every signal.
@lru_cache(maxsize=1024)
def _is_secret(name: str, keys: frozenset[str]) -> bool:
    plain = _CAMEL.sub("_", name).lower().replace("-", "_")
    return plain in keys or redact({plain: "x"})[plain] == REDACTED


def read_item(
    index: int, sent: JsonValue, *, principal: Principal, intake: Intake
) -> Fact | ItemResult:
    """Redact and check one item of a batch; return why it is rejected if it is invalid."""
    clean = intake.clean(sent)
    if isinstance(sent, dict) and isinstance(clean, dict):
        # Keys must not be redacted.
        clean |= {name: sent[name] for name in ("source", "id") if name in sent}
    try:
        return Fact.of(index, parse(model.NewSignal, clean), principal)
    except InvalidFieldsError as refusal:
        return ItemResult(index=index, result=Result.REJECTED, errors=tuple(refusal.errors))


# Alertmanager's webhook, version 4, and Grafana's, version 1. Both Alertmanagers of a pair, and
# every repeat, send the same keys, so each alert is stored once. Its content is its labels and
# times: annotations are templates that change between repeats. The first stay.

MOST_ITEMS: Final = 1000
_TOO_MANY: Final = FieldError(
    "", "too_long", f"makes more than {MOST_ITEMS} signals: lower max_alerts"
)
_GENERATORS: Final = {"1": "Grafana", "4": "Prometheus"}  # what an alert's generator is
_ZERO: Final = datetime(1, 1, 1, tzinfo=UTC)  # Go's zero time.
LONGEST_TITLE = 500
LONGEST_BODY = 20_000
_LONGEST_SLUG = 63
_ADDRESS: Final = re.compile(r"https?://[!#-\[\]-~]{1,3000}")


class Webhook(BaseModel):
    """A notification of Alertmanager or Grafana.

    Unknown members are ignored, and invalid ones do not lose the alerts.
    """

    version: Literal["1", "4"]  # Grafana's, Alertmanager's
    alerts: list[Any]
    group_key: Any = Field("", alias="groupKey")
    external_url: Any = Field("", alias="externalURL")
    truncated_alerts: Any = Field(
        0, alias="truncatedAlerts", description="How many alerts were omitted due to `max_alerts`."
    )

    @property
    def lost(self) -> int:
        number = self.truncated_alerts
        return number if isinstance(number, int) and number > 0 else 0


class _Alert(BaseModel):
    status: Literal["firing", "resolved"]
    labels: dict[str, str]
    annotations: dict[str, str] = {}
    fingerprint: Annotated[str, Field(min_length=1, max_length=100)]
    starts_at: Time = Field(alias="startsAt")
    sent: Any = Field(None, alias="startsAt")  # the same exactly as sent: a part of its keys
    ends_at: Time = Field(_ZERO, alias="endsAt")
    generator_url: Any = Field("", alias="generatorURL")
    # Grafana has these too.
    dashboard_url: Any = Field("", alias="dashboardURL")
    panel_url: Any = Field("", alias="panelURL")
    silence_url: Any = Field("", alias="silenceURL")


def read_alerts(
    webhook: Webhook, principal: Principal, intake: Intake
) -> Sequence[Fact | ItemResult]:
    """Convert each firing alert to one signal, a resolved one to two: it fired, and it ended.

    The index of an item is that of its alert. Invalid alerts, and those beyond 1,000 items, are
    rejected; the others are not.
    """
    items: list[Fact | ItemResult] = []
    source = None if principal.source else "alertmanager"
    about = {
        "groupKey": intake.clean(webhook.group_key),
        "externalURL": intake.clean(webhook.external_url),
    }
    for index, sent in enumerate(webhook.alerts):
        try:
            alert = parse(_Alert, intake.clean(sent))
            common = _common_fields(alert, intake.labels, _GENERATORS[webhook.version])
            fields: dict[str, object] = {**common, "source": source}
            fields["payload"] = {"labels": alert.labels, "annotations": alert.annotations, **about}
            facts = [
                Fact.of(index, parse(model.NewSignal, fields | event), principal, content=content)
                for event, content in _events(alert)
            ]
            errors = [] if len(items) + len(facts) <= MOST_ITEMS else [_TOO_MANY]
        except InvalidFieldsError as refusal:
            facts = []
            errors = [*refusal.errors]
        if errors:
            items.append(ItemResult(index=index, result=Result.REJECTED, errors=tuple(errors)))
        else:
            items += facts
    return items


def _events(alert: _Alert) -> Iterator[tuple[dict[str, object], dict[str, object]]]:
    """Return the fields that differ between an alert's signals, with the content of each."""
    began: dict[str, object] = {"labels": alert.labels, "starts_at": alert.starts_at}
    events = {"firing": (alert.starts_at, began)}
    if alert.status == "resolved":
        events["resolved"] = (alert.ends_at, began | {"ends_at": alert.ends_at})
    for state, (at, content) in events.items():
        fields: dict[str, object] = {
            "kind": f"alert_{state}",
            "occurred_at": None if at == _ZERO else at,
            "id": f"{alert.fingerprint}:{alert.sent}:{state}",
        }
        yield fields, content


def _common_fields(alert: _Alert, labels: Sequence[str], generator: str) -> dict[str, object]:
    notes = alert.annotations
    title = alert.labels.get("alertname") or notes.get("summary") or "An alert without a name"
    service, environment = (slug(alert.labels.get(name, "")) for name in labels)
    links = (
        (generator, alert.generator_url),
        ("Dashboard", alert.dashboard_url),
        ("Panel", alert.panel_url),
        ("Silence", alert.silence_url),
        ("Runbook", notes.get("runbook_url") or notes.get("runbook") or ""),
    )
    return {
        "title": title[:LONGEST_TITLE],
        "body": notes["description"][:LONGEST_BODY] if "description" in notes else None,
        "services": [service] if service else [],
        "environment": environment or None,
        "links": [{"title": name, "url": url} for name, url in links if is_address(url)],
    }


def is_address(value: JsonValue) -> bool:
    return isinstance(value, str) and _ADDRESS.fullmatch(value) is not None


def slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:_LONGEST_SLUG].rstrip("-")
