"""The kept timeline is the one that the rules build.

Entries, order, digest and durations, at every as-of.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from itertools import product
from random import Random
from typing import Any, Final, Literal
from uuid import UUID, uuid4

import anyio
import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from postfacta_app.db import Unit
from postfacta_app.durations import Phase, durations
from postfacta_app.errors import NotFoundError, SchemaMissingError
from postfacta_app.migrations import upgrade
from postfacta_app.postmortems import api as postmortems
from postfacta_app.postmortems.model import Content, Revision, Stage
from postfacta_app.principal import ANONYMOUS
from postfacta_app.signals.model import Precision
from postfacta_app.timeline.kept import KeptTimelines, TimelineQuery, Wanted
from postfacta_app.timeline.model import (
    Annotation,
    Edit,
    Entry,
    Facts,
    Op,
    Signal,
    StatusChange,
    moment,
)
from postfacta_app.timeline.rules import RULES, build
from postfacta_app.timeline.statements import WIDTHS, WINDOWS
from postfacta_app.timeline.view import anchor
from postfacta_embedded.account import Account
from postfacta_postgres import Connection, Database
from tests.app.timeline.oracle import (
    etag as etag_of,
    is_narrative,
    marks,
    pattern,
    post_mortem,
    shows,
)
from tests.app.timeline.stored import Row, incident_of, keep, rows
from tests.app.timeline.worlds import (
    KINDS,
    NOON,
    SOURCES,
    an_edit,
    attach,
    edit,
    ids,
    signals,
    stamps,
    worlds,
)
from tests.kit.every import every
from tests.kit.pg import execute, open_folder, prepared_server

EARLIER = -2 * NOON  # As microseconds since 1970 this is long before it.
BODIES = (
    "", "Rolled\u2028back", "\u3000 Wide \x1f\nmore", '"quoted" \\ back', "tab\tand \x01 control \x7f", "\U0001d518\U0001d52b é",
    "\n\n second", "x" * 250, "\u0085", "a\r\nb",
)  # fmt: skip
TITLES = (
    "Deploy",
    "Latency",
    "Zürich",
    '"q" \\ \x02',
    "\U0001d518\ue000",
    "tab\t",
    "\u2028",
    "Wait 8 ms",
    "Wait 9.5 ms",
    "HTTP 500",
    "HTTP 404",
)
NAMES = ("z", "Z", "é", "\U0001d518", "\ue000", "a")
MOVES = (("OPEN", None), ("IN_PROGRESS", None), ("RESOLVED", None), ("CLOSED", "workaround"))


class _RollBackError(Exception):
    """Ends a transaction without a trace."""


# Of a revision, what its comparison with the present does not read.
_REVISION = {
    "rev": 1, "status": Stage.DRAFT, "message": None, "restored_from": None, "author": "ada", "at": moment(0),
    "schema_version": 1, "content": Content(), "timeline_digest": "", "rules": RULES,
}  # fmt: skip


@st.composite
def histories(draw: st.DrawFn) -> Facts:
    """Make facts with odd words and names, edits of entries that come later, and sometimes times before 1970."""
    facts = draw(worlds())
    more = [
        draw(signals(f"{draw(st.sampled_from(NAMES))}{n}")) for n in range(draw(st.integers(0, 8)))
    ]
    sequences = st.none() | st.sampled_from(["1", "2", "10", "", *NAMES])
    found = [
        replace(it, title=draw(st.sampled_from(TITLES)), sequence=draw(sequences))
        for it in (*facts.signals, *more)
    ]
    words = st.sampled_from(BODIES)
    notes = [replace(it, body=draw(words | st.just(it.body))) for it in facts.annotations]
    changes = [
        replace(
            it, from_status=MOVES[n - 1][0] if n else None, to_status=MOVES[n][0], outcome=MOVES[n][1],
            reason=draw(st.none() | words.filter(bool)),
        )
        for n, it in enumerate(facts.changes)
    ]  # fmt: skip
    targets = [
        *((it.source, it.external_id) for it in found),
        *(("postfacta", f"status:{it.id}") for it in changes),
        *(("human", f"annotation:{it.root}") for it in notes),
    ]
    edits = [*facts.edits, *(attach(it, draw(stamps), draw(ids)) for it in more)]
    edits += draw(st.lists(an_edit(targets, found), max_size=15))
    made = Facts(found, changes, notes, edits)
    return earlier(made) if draw(st.booleans()) else made


def earlier(facts: Facts) -> Facts:
    """Move what happened to long before 1970; what was recorded stays."""

    def moved(at: int | None) -> Any:
        return None if at is None else at + EARLIER

    return Facts(
        [
            replace(it, occurred_at=moved(it.occurred_at), known_at=moved(it.known_at))
            for it in facts.signals
        ],
        [replace(it, occurred_at=moved(it.occurred_at)) for it in facts.changes],
        [replace(it, occurred_at=moved(it.occurred_at)) for it in facts.annotations],
        facts.edits,
    )


@asynccontextmanager
async def written(
    database: Database, facts: Facts, random: Random, *, by_backfill: bool
) -> AsyncGenerator[tuple[Connection, UUID]]:
    """Write facts in any order, through the triggers or before there were any.

    Leave nothing behind.
    """
    incident = uuid4()
    with suppress(_RollBackError):
        async with database.transaction() as connection:
            if by_backfill:
                await connection.execute("set local session_replication_role = replica")
            for sql, *values in incident_of(facts, incident):
                await connection.execute(sql, *values)
            if not by_backfill:  # As its declaration does.
                stub = "insert into incident_measures (incident_id, rules) values ($1, $2)"
                await connection.execute(stub, incident, RULES)
            for sql, *values in _shuffled(list(rows(facts, incident)), random):
                await connection.execute(sql, *values)
            if by_backfill:
                await connection.execute("select timeline_rebuild($1)", incident)
            yield connection, incident
            raise _RollBackError


def _shuffled(given: Sequence[Row], random: Random) -> Sequence[Row]:
    """Shuffle, but keep the versions of an annotation in order."""
    chains = [row for row in given if "into annotations" in row[0]]
    order = list(given)
    random.shuffle(order)
    turns = iter(chains)
    return [next(turns) if "into annotations" in row[0] else row for row in order]


async def differences(
    connection: Connection, incident: UUID, facts: Facts, random: Random | None = None
) -> list[str]:
    """Compare with the rules at each as-of.

    Whole timelines, or slices of random filters and sizes.
    """
    found: list[str] = []
    kept, unit = KeptTimelines(), Unit(connection, ANONYMOUS, None)
    for until, hidden in product((None, *range(8)), (False, True)):
        known = (
            None
            if random is None
            else random.choice([None, NOON, NOON + 30_000_000, NOON + EARLIER])
        )
        query = _query(random).model_copy(
            update={
                "as_of": None if until is None else moment(until),
                "known_as_of": None if known is None else moment(known),
                "include_hidden": hidden,
            }
        )
        whole = build(facts, as_of=until, known_as_of=known, include_hidden=hidden)
        items: list[Entry] = []
        cursor, digest, etag = None, "", ""
        while True:
            got = await kept.slice(unit, incident, query.model_copy(update={"cursor": cursor}))
            items += got.page.items
            digest, etag, milestones = str(got.page.digest), got.etag, got.page.milestones
            if (cursor := got.page.next_cursor) is None:
                break
        told = f"as of {until}, hidden {hidden}, known {known}, {query!r}"
        wanted = [it for it in whole.entries if shows(query, it)]
        if items != wanted:
            found.append(f"entries {told}: {items} for {wanted}")
        if (digest, etag, milestones) != (whole.digest, etag_of(whole), whole.milestones):
            found.append(f"digest {told}")
    found += [
        it for until in range(8) for it in await _change_differences(unit, incident, facts, until)
    ]
    if random is not None:
        found += await _page_differences(unit, incident, facts, random)
    return [*found, *await _measure_differences(connection, incident, facts)]


def folded(entries: Sequence[Entry], facts: Facts, size: int) -> list[tuple[Entry, list[Entry]]]:
    """Fold a whole list: by source, kind, services, title without measures, and window.

    What an edit touched stands alone.
    """
    touched = {(it.source, it.external_id) for it in facts.edits}
    foldable = [it for it in entries if it.signal_id and (it.source, it.id) not in touched]
    if len(foldable) <= size:
        return [(it, [it]) for it in entries]
    alike: dict[tuple[object, ...], list[int]] = {}
    for it in foldable:
        alike.setdefault(_alike(it), []).append(it.t)
    groups: dict[tuple[object, ...], list[Entry]] = {}
    for it in entries:
        key: tuple[object, ...] = (it.source, it.id)
        if it in foldable:
            times = alike[_alike(it)]
            length = max(times) - min(times)
            width = next((w for w in WIDTHS if length <= WINDOWS * w), max(WIDTHS))
            key = (*_alike(it), it.t // width)
        groups.setdefault(key, []).append(it)
    return [(group[0], group) for group in groups.values()]


def _alike(entry: Entry) -> tuple[object, ...]:
    return entry.source, entry.kind, entry.services, pattern(entry.title)


async def _change_differences(
    unit: Unit, incident: UUID, facts: Facts, until: int
) -> Iterable[str]:
    """Compare what a post-mortem of that time says of the present."""
    revision = Revision.model_validate(
        _REVISION | {"incident_id": incident, "timeline_at": moment(until)}
    )
    got, wanted = await postmortems.compared(unit, revision), post_mortem(revision, facts)
    return [] if got == wanted else [f"changes since {until}: {got} for {wanted}"]


async def _measure_differences(
    connection: Connection, incident: UUID, facts: Facts
) -> Iterable[str]:
    """Compare the measures."""
    known_marks, is_open = marks(facts)
    lengths = durations(known_marks, is_open=is_open)
    row = await connection.fetchrow(
        "select *, (select count(*) from timeline_entries e where e.incident_id = m.incident_id) as held"
        " from incident_measures m where m.incident_id = $1",
        *(incident,),
        operation="test",
    )
    assert row is not None
    written_marks = {name: [it.t, it.p.rank, it.basis] for name, it in known_marks.items()}
    if facts.edits or facts.changes:
        measured = (
            json.loads(row["marks"]),
            row["is_open"],
            row["status"],
            row["seconds"],
            row["entries"],
        )
        if measured != (
            written_marks,
            is_open,
            [lengths[it].status for it in Phase],
            [lengths[it].seconds for it in Phase],
            row["held"],
        ):
            return [f"measures {measured} for {written_marks}, {lengths}"]
    return []


ORDERS: Final[Sequence[Literal["oldest", "newest"]]] = ("oldest", "newest")


async def _page_differences(
    unit: Unit, incident: UUID, facts: Facts, random: Random
) -> Iterable[str]:
    """Compare a numbered page with the rules: by its number, or by an entry on it."""
    known = random.choice([None, NOON, NOON + EARLIER])
    hidden, narrative, size = random.random() < 0.5, random.random() < 0.5, random.randint(1, 4)
    then = build(facts, known_as_of=known, include_hidden=True).entries
    shown = [it for it in then if (hidden or not it.hidden) and (not narrative or is_narrative(it))]
    at, last = random.randint(0, 5), max(0, len(shown) - 1) // size
    turned = random.choice([None, *range(len(shown))])
    named = None if turned is None else (shown[turned].source, shown[turned].id)
    fold = turned is None and not narrative and random.random() < 0.5
    total = len(shown)
    groups = [(it, [it]) for it in shown]
    if fold:
        groups = folded(shown, facts, size)
    shown, last = [it for it, _ in groups], max(0, len(groups) - 1) // size
    order = random.choice(ORDERS)
    view = Wanted(
        known_as_of=None if known is None else moment(known),
        hidden=hidden,
        view="narrative" if narrative else "all",
        repeats="folded" if fold else "each",
        order=order,
    )
    which = view.model_copy(
        update={"page": at + 1, "entry": "" if named is None else anchor(*named)}
    )
    got = await KeptTimelines().page(unit, incident, which, size=size)
    for it in got.repeats:
        of_group = view.model_copy(update={"group": it.group})
        inner = (await KeptTimelines().page(unit, incident, of_group, size=2000)).entries
        alike = next(group for first, group in groups if first == got.entries[it.item])
        titles = list(dict.fromkeys(entry.title for entry in alike))
        about = (pattern(titles[0]), len(titles), len(it.titles), {*it.titles} <= {*titles})
        if (inner, it.until) != (alike, alike[-1].t) or (it.pattern, it.distinct) != about[:2]:
            return [f"group {it} is not {about}"]
        if about[2:] != (min(5, len(titles)), True):
            return [f"group {it} opens to {inner} for {alike}"]
    if turned is not None and order == "newest":
        turned = len(shown) - 1 - turned
    at = min(at, last) if turned is None else turned // size
    first, end = at * size, min(len(shown), (at + 1) * size)
    if order == "newest":
        first, end = max(0, len(shown) - end), len(shown) - first
    wanted = (
        shown[first:end],
        shown[end : end + 1],
        at + 1,
        len(shown),
        sum(it.hidden for it in then),
        total,
        [len(group) for _, group in groups[first:end]],
    )
    counts = {it.item: it.count for it in got.repeats}
    counted = [counts.get(n, 1) for n in range(len(got.entries))]
    if (got.entries, got.after, got.page, got.count, got.hidden, got.total, counted) != wanted:
        told = f"page {at}, {order}, size {size}, hidden {hidden}, narrative {narrative}, known {known}: {got} for {wanted}"
        return [told]
    return []


def _query(random: Random | None) -> TimelineQuery:
    if random is None:
        return TimelineQuery.model_validate({})
    return TimelineQuery.model_validate(
        {
            "kind": random.sample(KINDS, 3) if random.random() < 0.3 else [],
            "source": [random.choice(SOURCES)] if random.random() < 0.3 else [],
            "pinned": random.choice([None, None, True, False]),
            "limit": random.randint(1, 7),
        }
    )


@pytest.mark.usefixtures("programs")
@settings(
    deadline=None,
    max_examples=settings().max_examples // 4,  # Each of them asks the database a hundred times.
    suppress_health_check=[
        HealthCheck.function_scoped_fixture,
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
    ],
)
@given(facts=histories(), seed=st.integers(0, 2**32), by_backfill=st.booleans())
async def test_a_kept_timeline_is_the_one_of_the_rules(
    app_database: Database, facts: Facts, seed: int, *, by_backfill: bool
) -> None:
    random = Random(seed)  # noqa: S311 - for no secret
    async with written(app_database, facts, random, by_backfill=by_backfill) as (
        connection,
        incident,
    ):
        assert await differences(connection, incident, facts, random) == []


# What the mutants change, each aimed at by one of these.

ONE = Signal(
    signal_id=uuid4(), source="ci", external_id="a", kind="alert_firing", occurred_at=NOON + 31_000_000,
    precision=Precision.MINUTE, title="One", content_sha256="ab" * 32, received_at=NOON, time_basis="event", conflicts=1,
)  # fmt: skip
SEVERAL = [replace(ONE, signal_id=uuid4(), external_id=name) for name in ("Z", "a", "é", "_", "B")]
SHOWN = attach(ONE, 1, uuid4())


def _edited(*edits: Edit) -> Facts:
    return Facts([ONE], [], [], [SHOWN, *edits])


def _entry(op: Op, at: int, value: Any = None) -> Edit:
    return edit(op, at, uuid4(), source="ci", external_id="a", value=value)


def _clock(at: int, ms: int) -> Edit:
    return edit(Op.CLOCK_OFFSET, at, uuid4(), source="ci", value={"ms": ms})


_BY_HAND = {"at": moment(NOON).isoformat(), "precision": "second"}
AIMED = {
    "two edits of one family": _edited(_entry(Op.SET_TITLE, 3, {"title": "A"}), _entry(Op.SET_TITLE, 5, {"title": "B"})),
    "a clock that moves later": _edited(_clock(3, 1500), _clock(5, -90_000)),
    "an edit after the attachment": _edited(_entry(Op.HIDE, 5)),
    "a clock by less than the precision": _edited(_clock(2, 29_500)),
    "a time set by hand, then a clock": _edited(_entry(Op.SET_TIME, 3, _BY_HAND), _clock(5, 60_000)),
    "names that languages order otherwise": Facts(SEVERAL, [], [], [attach(it, 1, uuid4()) for it in SEVERAL]),
    "a time before 1970": earlier(_edited()),
    "a signal that left": _edited(attach(ONE, 4, uuid4(), Op.DETACH)),
    "a hidden alert": Facts(
        [ONE],
        [StatusChange(id=uuid4(), at=1, from_status=None, to_status="OPEN", occurred_at=NOON + 60_000_000)],
        [],
        [SHOWN, _entry(Op.HIDE, 5)],
    ),
    "a pin": _edited(_entry(Op.PIN, 5)),
    "an entry that came back": _edited(_entry(Op.HIDE, 3), _entry(Op.UNHIDE, 5)),
    "a milestone": _edited(edit(Op.MILESTONE, 5, uuid4(), value={"name": "detected", **_BY_HAND})),
    "a remark that was retracted": Facts(
        annotations=[
            Annotation(id=(note := uuid4()), root=note, at=2, kind="note", body="Said", occurred_at=NOON),
            Annotation(id=uuid4(), root=note, at=4, kind="note", body="Said", occurred_at=NOON, retracted=True),
        ]
    ),
}  # fmt: skip
# function, what it says, what the mutant says
MUTANTS = {
    "the first edit counts": ("timeline_rows", "e.external_id, e.at desc, e.id desc", "e.external_id, e.at, e.id"),
    "the past reads later clocks": ("timeline_rows", "timeline_clocks(inc, until)", "timeline_clocks(inc, 'infinity')"),
    "a clock that moved later is not seen": ("timeline_seen", "t - e.shift + c.shift", "t"),
    "edits do not count as changes": ("timeline_rows", "greatest(f.at, l.at)", "f.at"),
    "the clock is put right before rounding": (
        "timeline_rows",
        "timeline_floor(f.occurred, f.pn) + coalesce(c.shift, 0)",
        "timeline_floor(f.occurred + coalesce(c.shift, 0), f.pn)",
    ),
    "a clock moves a time set by hand": (
        "timeline_rows", "case when l.t is null then coalesce(c.shift, 0) end", "coalesce(c.shift, 0)",
    ),
    "the sign of rounding": ("timeline_floor", "((t % timeline_width(p)) + timeline_width(p)) % timeline_width(p)", "(t % timeline_width(p))"),
    "a hidden alert detects": ("timeline_measures", "and not e.hidden", ""),
    "what left was never there": ("timeline_seen", "e.first_at <= until", "e.present"),
}  # fmt: skip


async def _survives(database: Database) -> bool:
    for facts, by_backfill in product(AIMED.values(), (False, True)):
        order = Random(0)  # noqa: S311 - for no secret
        async with written(database, facts, order, by_backfill=by_backfill) as (
            connection,
            incident,
        ):
            if await differences(connection, incident, facts):
                return False
    return True


@pytest.mark.usefixtures("programs")
async def test_facts_aimed_at_each_clause_are_kept_right(app_database: Database) -> None:
    assert await _survives(app_database)


async def _definition(database: Database, name: str) -> str:
    query = "select pg_get_functiondef(oid) from pg_proc where proname = $1"
    return str(await database.fetchval(query, name, operation="test"))


@pytest.mark.long
@pytest.mark.usefixtures("programs")
async def test_each_clause_is_missed_when_it_changes(app_database: Database) -> None:
    assert await _survives(app_database)
    with every() as case:
        for what, (name, says, mutant) in MUTANTS.items():
            with case(what):
                whole = await _definition(app_database, name)
                assert says in whole
                await app_database.execute(whole.replace(says, mutant), operation="test")
                assert not await _survives(app_database)
                await app_database.execute(whole, operation="test")


CHANGE_MUTANTS = {
    "pins are no changes": (" or is_pinned", ""),
    "clocks change nothing": ("e.shift is not null and e.source", "false and e.source"),
    "hidden entries count": ("and e.present and not e.hidden", "and e.present"),
    "hidden entries counted": ("e where not e.hidden),", "e),"),
    "milestones are no changes": (
        "timeline_milestones($1, 'infinity')",
        "timeline_milestones($1, $2)",
    ),
}


@pytest.mark.long
@pytest.mark.usefixtures("programs")
async def test_each_clause_of_what_changed_is_missed(
    app_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    statement = " ".join(vars(postmortems)["_CHANGES"].split())

    async def is_right() -> bool:
        for facts in AIMED.values():
            order = Random(0)  # noqa: S311 - for no secret
            async with written(app_database, facts, order, by_backfill=False) as (
                connection,
                incident,
            ):
                unit = Unit(connection, ANONYMOUS, None)
                if any(
                    [await _change_differences(unit, incident, facts, until) for until in range(8)]
                ):
                    return False
        return True

    assert await is_right()
    with every() as case:
        for what, (says, mutant) in CHANGE_MUTANTS.items():
            with case(what):
                assert says in statement
                monkeypatch.setattr(postmortems, "_CHANGES", statement.replace(says, mutant))
                assert not await is_right()


@pytest.fixture
def linguistic_dsn(programs: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Give a migrated database that orders text as English does."""
    start = Account.start
    with open_folder() as folder:
        localedef = ["localedef", "-i", "en_US", "-f", "UTF-8", str(folder / "en_US.UTF-8")]
        subprocess.run(localedef, check=True, capture_output=True, timeout=60)  # noqa: S603 - of the C library

        def with_locale(self: Account, command: Any, *, output: Any, env: Any = None) -> Any:
            return start(self, command, output=output, env={**(env or {}), "LOCPATH": str(folder)})

        monkeypatch.setattr(Account, "start", with_locale)
        with prepared_server() as server:
            execute(
                server.dsn(),
                "create database english template template0 locale_provider libc locale 'en_US.UTF-8'",
            )
            upgrade(server.dsn("english"), progress=lambda _: None)
            yield server.dsn("english")


async def test_the_order_is_by_code_point_where_a_language_has_another(linguistic_dsn: str) -> None:
    async with Database(linguistic_dsn) as database:
        with anyio.fail_after(30):
            await database.wait_connected()
        assert await database.fetchval("select 'a' < 'B'", operation="test")
        assert await _survives(database)
        whole = await _definition(database, "timeline_digest")
        await database.execute(whole.replace('collate "C"', 'collate "default"'), operation="test")
        assert not await _survives(database)


@pytest.mark.usefixtures("programs")
async def test_a_write_before_the_backfill_does_not_count_as_kept(app_database: Database) -> None:
    facts, incident = AIMED["a hidden alert"], uuid4()
    async with app_database.transaction() as connection:
        await connection.execute("set local session_replication_role = replica")
        await keep(connection.execute, replace(facts, edits=[SHOWN]), incident)
        await connection.execute("set local session_replication_role = origin")
        for sql, *values in rows(Facts(edits=facts.edits[1:]), incident):
            await connection.execute(sql, *values)
        kept, unit = KeptTimelines(), Unit(connection, ANONYMOUS, None)
        for read in (
            kept.slice(unit, incident, _query(None)),
            kept.page(unit, incident, Wanted(), size=10),
        ):
            with pytest.raises(SchemaMissingError):
                await read
        with pytest.raises(NotFoundError):
            await kept.slice(unit, uuid4(), _query(None))
        await connection.execute("select timeline_rebuild($1)", incident)
        assert await differences(connection, incident, facts) == []


@pytest.mark.usefixtures("programs")
async def test_the_service_can_only_read_what_is_kept(app_database: Database) -> None:
    facts = AIMED["a signal that left"]
    order = Random(0)  # noqa: S311 - for no secret
    async with written(app_database, facts, order, by_backfill=False) as (connection, incident):
        await connection.execute("set local role postfacta_app")
        rows_kept = await connection.fetch(
            "select from timeline_entries where incident_id = $1", incident, operation="test"
        )
        assert len(rows_kept) == 1
        for statement in (
            "select timeline_rebuild($1)",
            "select timeline_refresh($1, null, null)",
            "select timeline_measures($1)",
            "delete from timeline_entries where incident_id = $1",
            "update incident_measures set entries = 0 where incident_id = $1",
        ):
            await connection.execute("savepoint before", operation="test")
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(statement, incident, operation="test")
            await connection.execute("rollback to savepoint before", operation="test")
