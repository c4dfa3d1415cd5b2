"""What an outage of the database does to users is measured, and a service that fares badly is found out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from chaos.database_faults import Record, Sample, judge, run
from chaos.outages import OUTAGES, Outage
from chaos.stack import prepare

BY_NAME = {outage.name: outage for outage in OUTAGES}


def good() -> Record:
    """An outage of 20 seconds, from 100 to 120, that went as it should."""
    record = Record(caused=100.0, mended=120.0)
    for tenth in range(950, 1300):
        at = tenth / 10
        is_away = 100 <= at < 121
        record.samples.append(Sample("write", at, 0.01, 503 if is_away else 201))
        record.samples.append(Sample("read", at, 0.01, 200, is_stale=is_away))
        record.probes.append((at, 200, 503 if 115 <= at < 126 else 200))
    return record


def test_an_outage_that_went_well_is_judged_so() -> None:
    result = judge(BY_NAME["stop"], good())
    assert result.failures == []
    assert result.first_write_after == pytest.approx(1.01)
    assert (result.unready_after, result.ready_again_after) == pytest.approx((15.0, 5.9))
    assert result.stale_reads == 210
    assert result.statuses == {"read 200": 300, "write 201": 90, "write 503": 210}


def crash(record: Record) -> None:
    record.samples.append(Sample("read", 110.0, 0.01, 500))


def hang(record: Record) -> None:
    record.samples.append(Sample("read", 110.0, 2.2, 504))


def vanish(record: Record) -> None:
    record.samples.append(Sample("write", 110.0, 0.01, 0))


def dawdle(record: Record) -> None:
    record.samples = [s for s in record.samples if s.kind == "read" or not 120 < s.began < 123]


def never_write_again(record: Record) -> None:
    record.samples = [s for s in record.samples if s.kind == "read" or s.began < 120]


def die(record: Record) -> None:
    record.probes[100] = (record.probes[100][0], 503, 200)


def stay_ready(record: Record) -> None:
    record.probes = [(at, live, 200) for at, live, _ in record.probes]


def stay_unready(record: Record) -> None:
    record.probes.append((131.0, 200, 503))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (crash, "a read got 500"),
        (hang, "0.2 s after its deadline"),
        (vanish, "a write got 0"),
        (dawdle, "the first write succeeded 3.01 s after the repair"),
        (never_write_again, "the first write succeeded -1.0 s after the repair"),
        (die, "the liveness probe was not always 200"),
        (stay_ready, "readiness did not fall"),
        (stay_unready, "readiness did not come back"),
    ],
)
def test_a_service_that_fares_badly_is_found_out(
    spoil: Callable[[Record], None], words: str
) -> None:
    record = good()
    spoil(record)
    assert any(words in failure for failure in judge(BY_NAME["stop"], record).failures)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("faults")
    for parent in (folder, *folder.parents[:2]):
        parent.chmod(0o755)  # PostgreSQL may run as another user
    return prepare(folder / "template")


@pytest.mark.parametrize(
    "name", ["kill", *(pytest.param(name, marks=pytest.mark.long) for name in ("lock", "failover"))]
)
def test_a_real_outage_under_load_is_survived(name: str, template: Path) -> None:
    # Short of three checks, so readiness need not fall. A busy machine may delay answers and the
    # first write.
    outage: Outage = replace(BY_NAME[name], falls=False)
    result = run(outage, template.parent / name, template, seconds=4.0)
    slow = ("after its deadline", "the first write succeeded")
    assert [
        failure for failure in result.failures if not any(word in failure for word in slow)
    ] == []
    assert result.first_write_after > 0
    assert result.statuses["write 201"] > 0
    assert (
        sum(count for what, count in result.statuses.items() if what.endswith(("503", "504"))) > 0
    )
