"""Turn parts of a service off by name while it runs.

Kill switches from a JSON file or from OpenFeature's provider.

They are read in the background, so that no request waits for them; if they cannot be read, the last
states stay. A provider needs the extra `flags`, which brings OpenFeature's SDK.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Collection, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, cast

from postfacta_core.installation import missing_extra
from postfacta_core.validation import validation

from ._rereading import reread_in_intervals
from .strict_json import MalformedJsonError, parse

__all__ = ["State", "Switches"]

_LOG: Final = logging.getLogger("postfacta")
_EXAMPLE: Final = '{"exports": {"on": false, "reason": "INC-12"}}'
_MOST_BYTES: Final = 1_000_000  # Of the file: a larger one is another file.
_LONGEST: Final = 200  # characters of a reason, or of the names in an error


@dataclass(frozen=True, slots=True)
class State:
    """Whether a switch is on, and why, as an operator wrote it: at most 200 characters."""

    on: bool = True
    reason: str = ""


class Switches:
    """What operators may turn off by name without a restart.

    All is on until something turns it off.

        switches = Switches(["exports", "mail"], file="/etc/billing/switches.json")
        app = harden(web, service="billing", resources=[switches.running()])

        if not switches.is_on("exports"):
            raise HTTPException(503, "Exports are off for now", headers={"Retry-After": "60"})

    The file is such as `{"exports": {"on": false, "reason": "INC-12"}}`: what it does not name is
    on, and a name counts where it is last. Write a new one beside it and move it into its place, so
    that no reading finds half of it. A file that is missing, larger than 1 MB, no JSON, or has an
    unknown name or a wrong type changes nothing.

    Each change is logged once as `flag.changed`, and what cannot be read once as
    `flags.unreadable`, until it can be.

    Args:
        names: All switches that there are.
        file: Read in intervals. It need not exist yet.
        domain: Without a file, OpenFeature's provider for this domain is asked. A switch that it
            does not know, or cannot evaluate, stays as it was. Set it before `running`, as by
            `openfeature.api.set_provider_and_wait`.
        every: Seconds between two readings; also an attribute.

    Attributes:
        is_valid: Whether the last reading succeeded, for a metric; True before the first.
        states: The states that hold now, by name. A change replaces the mapping.

    Raises:
        ModuleNotFoundError: If there is a domain and no file, and the extra `flags` is not
            installed.
        ValueError: If a setting is wrong.
    """

    def __init__(
        self,
        names: Collection[str],
        *,
        file: str | Path | None = None,
        domain: str = "",
        every: float = 2.0,
    ) -> None:
        texts = validation.texts("Switches.names", names, example='["exports"]')
        self.states: Mapping[str, State] = {
            validation.name("Switches.names", name, example='["exports"]'): State()
            for name in texts
        }
        self.every: float = validation.seconds("Switches.every", every, example="every=2.0")
        self.is_valid: bool = True
        self._turn = threading.Lock()
        validation.text("Switches.domain", domain, example='domain="billing"')
        is_path = isinstance(file, str | Path) and str(file)
        if not is_path and not (file is None and domain):
            example = 'file="/etc/billing/switches.json"'
            validation.refuse(
                "Switches.file", file, "a path, or None with a domain", example=example
            )
        self._file = None if file is None else Path(file)
        if file is None:
            try:
                from openfeature import api  # noqa: PLC0415 - an extra, which a file does not need
            except ModuleNotFoundError as error:
                raise missing_extra("Switches.domain", "flags", error) from error
            self._client = api.get_client(domain)

    def is_on(self, name: str) -> bool:
        """Return whether a switch is on, as last read.

        Raises `KeyError` for a name that was not given.
        """
        return self.states[name].on

    def read(self) -> dict[str, State]:
        """Return what the file says of each switch, or the provider of those that it knows.

        Call it in a thread.

        Raises:
            ValueError: If the file cannot be used: what is wrong, where, and what is right.
        """
        if self._file is None:
            details = [
                self._client.get_boolean_details(name, default_value=True) for name in self.states
            ]
            return {
                detail.flag_key: State(on=detail.value)
                for detail in details
                if detail.error_code is None
            }
        try:
            with self._file.open("rb") as opened:
                text = opened.read(_MOST_BYTES + 1)
        except OSError as error:
            raise ValueError(f"{self._file}: {error.strerror}") from None
        if len(text) > _MOST_BYTES:
            raise ValueError(f"{self._file}: more than {_MOST_BYTES:,} bytes")
        try:
            states = _members(str(self._file), parse(text), self.states, example=_EXAMPLE)
        except MalformedJsonError as error:
            raise ValueError(f"{self._file}: {error}; for example {_EXAMPLE}") from None
        return {name: _state(f"{self._file}: {name}", states.get(name, {})) for name in self.states}

    def reread(self) -> None:
        """Read now, and take over what changed. Call it in a thread."""
        with self._turn:
            try:
                states = self.read()
            except Exception as error:  # noqa: BLE001 - a provider is foreign code
                reason = str(error) if self._file else type(error).__name__
                if self.is_valid:
                    _LOG.error("flags.unreadable", extra={"reason": reason})
                self.is_valid = False
                return
            self.is_valid = True
            for name, state in states.items():
                if state.on != self.is_on(name):
                    self.states = {**self.states, name: state}
                    _LOG.warning("flag.changed", extra={"flag": name, **asdict(state)})

    def running(self) -> AbstractAsyncContextManager[None]:
        """Read once, and then in intervals until the block ends.

        A resource for `harden(resources=[...])`.
        """
        return reread_in_intervals(self, name="switches")


def _members(
    field: str, value: object, names: Collection[str], *, example: str
) -> Mapping[str, object]:
    if not isinstance(value, dict):
        validation.refuse(field, value, "an object", example=example)
    members = cast("dict[str, object]", value)
    if unknown := ", ".join(sorted(members.keys() - set(names))):
        raise ValueError(
            f"{field}: {unknown[:_LONGEST]}: unknown; known are {', '.join(sorted(names))}"
        )
    return members


def _state(field: str, value: object) -> State:
    members = _members(field, value, {"on", "reason"}, example='{"on": false}')
    on = members.get("on", True)
    reason = members.get("reason", "")
    if not isinstance(on, bool):
        validation.refuse(f"{field}.on", on, "true or false", example="false")
    if not isinstance(reason, str) or len(reason) > _LONGEST:
        rule = f"a text of at most {_LONGEST} characters"
        validation.refuse(f"{field}.reason", reason, rule, example='"INC-12"')
    return State(on, reason)
