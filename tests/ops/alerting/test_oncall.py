"""A known person is on call at every moment."""

from __future__ import annotations

# YAML is read without types.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false, reportUnknownLambdaType=false
import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import jsonschema_rs
import pytest
import yaml

from tests.ops.alerting.rules import DEPLOY, alerts

FILE = DEPLOY / "oncall.yaml"
PROGRAM = DEPLOY / "bin/oncall.py"
_Change = Callable[[dict[str, Any]], object]


def oncall(*arguments: str, file: Path = FILE) -> tuple[int, str, str]:
    done = subprocess.run(  # noqa: S603 - our own program
        [sys.executable, str(PROGRAM), "--file", str(file), *arguments],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def content() -> dict[str, Any]:
    # As text: the schema is about what is written, and YAML makes dates of dates.
    found: dict[str, Any] = yaml.load(FILE.read_text(), yaml.BaseLoader)  # noqa: S506 - it makes text alone
    for step in found["escalation"]:
        step["after_minutes"] = int(step["after_minutes"])
    found["version"] = int(found["version"])
    found["expectations"] = {name: int(text) for name, text in found["expectations"].items()}
    return found


def changed(folder: Path, *changes: _Change) -> Path:
    file = folder / "oncall.yaml"
    made = content()
    for change in changes:
        change(made)
    file.write_text(yaml.safe_dump(made))
    return file


def test_the_file_is_what_its_schema_says() -> None:
    schema = json.loads((DEPLOY / "oncall.schema.json").read_text())
    jsonschema_rs.Draft202012Validator(schema)
    jsonschema_rs.validate(schema, content())


@pytest.mark.parametrize(
    "change",
    [
        lambda made: made.pop("escalation"),
        lambda made: made.update(phone="+49 1"),
        lambda made: made["rotations"][0]["shifts"][0].update(seats=[]),
        lambda made: made["handover"].update(time="25:00"),
        lambda made: made["escalation"][0].update(role="engineering-lead"),
    ],
    ids=["no escalation", "an unknown key", "nobody", "no time", "a rotation and a role"],
)
def test_the_schema_refuses_what_it_should(change: _Change) -> None:
    schema, made = json.loads((DEPLOY / "oncall.schema.json").read_text()), content()
    change(made)
    with pytest.raises(jsonschema_rs.ValidationError):
        jsonschema_rs.validate(schema, made)


@pytest.mark.usefixtures("programs")
def test_there_is_no_gap_and_no_double_in_the_next_90_days() -> None:
    code, said, _ = oncall("check", "--days", "90")
    assert (code, said[:26]) == (0, "no gap and no double from ")


@pytest.mark.usefixtures("programs")
def test_the_present_holder_is_printed() -> None:
    code, said, _ = oncall("who")
    assert code == 0
    assert said.startswith("primary      engineer-")
    assert said.endswith("after 30 min  engineering-manager\n")


@pytest.mark.usefixtures("programs")
@pytest.mark.parametrize(
    ("at", "primary", "secondary"),
    [
        ("2026-09-07T10:00", "engineer-1", "engineer-2"),
        ("2026-09-14T09:59", "engineer-1", "engineer-2"),
        ("2026-09-14T10:00", "engineer-2", "engineer-3"),
        ("2026-09-14T11:59+02:00", "engineer-1", "engineer-2"),
        ("2026-10-05T10:00", "engineer-1", "engineer-2"),
    ],
)
def test_shifts_change_at_the_handover_and_come_round(
    at: str, primary: str, secondary: str
) -> None:
    assert oncall("who", "--at", at, "--rotation", "primary")[1] == f"{primary}\n"
    assert oncall("who", "--at", at, "--rotation", "secondary")[1] == f"{secondary}\n"


def _swap(start: str, end: str, seat: str, rotation: str = "primary") -> _Change:
    return lambda made: made["overrides"].append(
        {"rotation": rotation, "from": start, "until": end, "seat": seat}
    )


@pytest.mark.usefixtures("programs")
def test_an_override_holds_for_its_own_time_alone(tmp_path: Path) -> None:
    file = changed(tmp_path, _swap("2026-09-08T08:00", "2026-09-08T20:00", "engineer-4"))
    held = {
        at: oncall("who", "--at", at, "--rotation", "primary", file=file)[1].strip()
        for at in ("2026-09-08T07:59", "2026-09-08T08:00", "2026-09-08T20:00")
    }
    assert list(held.values()) == ["engineer-1", "engineer-4", "engineer-1"]


def _ends(made: dict[str, Any]) -> None:
    made["rotations"][0]["shifts"][0]["until"] = "2026-10-05"


def _goes_on(made: dict[str, Any]) -> None:
    shifts = made["rotations"][0]["shifts"]
    shifts.append({"from": "2026-09-28", "seats": ["engineer-9"]})


@pytest.mark.usefixtures("programs")
@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ([_ends], "2026-10-05 10:00 to 2026-10-12 10:00: primary has no one"),
        (
            [_ends, _goes_on],
            "2026-09-28 10:00 to 2026-10-05 10:00: primary has engineer-4 and engineer-9",
        ),
        (
            [_swap("2026-09-08T08:00", "2026-09-08T20:00", "engineer-2")],
            "2026-09-08 08:00 to 2026-09-08 20:00: engineer-2 is primary and secondary at once",
        ),
        (
            [
                _swap("2026-09-08T08:00", "2026-09-08T20:00", "engineer-3"),
                _swap("2026-09-08T12:00", "2026-09-09T12:00", "engineer-4"),
            ],
            "2026-09-08 12:00 to 2026-09-08 20:00: primary has engineer-3 and engineer-4",
        ),
        (
            [lambda made: made["escalation"].pop(), lambda made: made["escalation"].pop()],
            "escalation ends with a rotation",
        ),
        (
            [lambda made: made["escalation"][2].update(after_minutes=5)],
            "each step later than the one before",
        ),
        (
            [lambda made: made["escalation"][3].update(role="the-boss")],
            "'the-boss', which is no role",
        ),
        (
            [lambda made: made["receivers"]["pager"].update(reaches="nobody")],
            "'nobody', which is no rotation",
        ),
        (
            [lambda made: made["services"][0]["receivers"].append("fax")],
            "the receiver 'fax', which is not there",
        ),
    ],
    ids=[
        *(
            "a gap",
            "two at once",
            "a deputy of himself",
            "two swaps at once",
            "no person at the end",
        ),
        *("two steps at once", "an unknown role", "an unknown rotation", "an unknown receiver"),
    ],
)
def test_a_gap_a_double_and_a_dead_end_are_found(
    changes: list[_Change], found: str, tmp_path: Path
) -> None:
    code, said, _ = oncall("check", "--at", "2026-09-07T10:00", file=changed(tmp_path, *changes))
    assert code == 1
    assert found in said


@pytest.mark.usefixtures("programs")
def test_no_one_on_call_is_an_error(tmp_path: Path) -> None:
    code, _, complaint = oncall("who", "--at", "2026-11-01", file=changed(tmp_path, _ends))
    assert (code, complaint) == (1, "oncall: primary: nobody at 2026-11-01T00:00:00+00:00\n")


@pytest.mark.usefixtures("programs")
@pytest.mark.parametrize(
    ("arguments", "change", "complaint"),
    [
        (["--at", "noon"], None, "--at noon: no time"),
        ([], lambda made: made.update(timezone="Mars/Olympus"), "'Mars/Olympus' is not known here"),
        (
            [],
            lambda made: made.pop("handover"),
            "does not fit oncall.schema.json: KeyError('handover')",
        ),
        (
            [],
            lambda made: made["rotations"][0]["shifts"][0].update({"from": "2026-09-08"}),
            "2026-09-08 is a tuesday, no monday",
        ),
        ([], _swap("2026-09-09T08:00", "2026-09-08T08:00", "engineer-2"), "must end later"),
    ],
    ids=["no time", "no zone", "no handover", "no Monday", "an end before its beginning"],
)
def test_what_cannot_be_used_is_refused_with_its_place(
    arguments: list[str], change: _Change | None, complaint: str, tmp_path: Path
) -> None:
    code, said, told = oncall(
        "who", *arguments, file=changed(tmp_path, *([change] if change else []))
    )
    assert (code, said) == (2, "")
    assert complaint in told
    assert len(told.splitlines()) == 1


@pytest.mark.usefixtures("programs")
def test_an_unknown_rotation_is_answered_with_those_that_there_are() -> None:
    code, _, told = oncall("who", "--rotation", "tertiary")
    assert (code, told) == (
        1,
        "oncall: there is no rotation 'tertiary': there are primary, secondary\n",
    )


@pytest.mark.usefixtures("programs")
def test_a_handover_is_at_ten_by_the_clock_on_the_wall_in_summer_and_in_winter(
    tmp_path: Path,
) -> None:
    try:
        zone = ZoneInfo("Europe/Berlin")
    except ZoneInfoNotFoundError:  # pragma: no cover - a machine without time zones
        pytest.skip("there is no time zone data here: apt-get install tzdata")
    file = changed(tmp_path, lambda made: made.update(timezone="Europe/Berlin"))
    for day in (datetime(2026, 10, 19, 10, tzinfo=zone), datetime(2026, 10, 26, 10, tzinfo=zone)):
        at = day.astimezone(UTC)
        before = oncall(
            "who", "--at", at.replace(minute=0).isoformat(), "--rotation", "primary", file=file
        )[1]
        earlier = at.timestamp() - 1
        last = datetime.fromtimestamp(earlier, UTC).isoformat()
        assert oncall("who", "--at", last, "--rotation", "primary", file=file)[1] != before


def test_each_receiver_reaches_a_person_and_each_service_an_owner() -> None:
    config: Mapping[str, Any] = yaml.safe_load(
        (DEPLOY / "alertmanager/alertmanager.yml").read_text()
    )
    receivers = {receiver["name"] for receiver in config["receivers"]} - {"nobody"}
    assert receivers == set(content()["receivers"])
    assert {one.labels["service"] for one in alerts()} == {
        one["name"] for one in content()["services"]
    }


def test_pages_reach_the_primary_at_once_and_a_person_in_the_end() -> None:
    steps = content()["escalation"]
    assert steps[0] == {"after_minutes": 0, "rotation": "primary"}
    assert steps[1] == {"after_minutes": 5, "rotation": "secondary"}
    assert "role" in steps[-1]
    assert content()["receivers"]["pager"]["hours"] == "always"


def test_no_persons_name_or_number_stands_in_it() -> None:
    text = FILE.read_text()
    assert "@" not in text
    assert "+49" not in text
    seats = {
        seat for one in content()["rotations"] for shift in one["shifts"] for seat in shift["seats"]
    }
    assert all(seat.startswith("engineer-") for seat in seats)
