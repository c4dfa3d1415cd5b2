"""Nothing acknowledged is lost while the service and its database are hit.

The short form of `make chaos`: one fault in CI, and six as evidence.
"""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import pytest

from chaos.durability import Durability, Options, check_durability
from chaos.faults import FAULTS
from chaos.stack import prepare
from tests.kit.pg import open_folder

FAULTS_OF_A_SHORT_RUN = 6


@pytest.fixture(scope="module")
def template() -> Generator[Path]:
    """Make the database once that each stack starts from a copy of."""
    with open_folder() as folder:
        yield prepare(folder / "template")


@pytest.fixture(scope="module")
def found(template: Path) -> Generator[Durability]:
    """Hit a stack once for most tests here.

    The seed is fixed, so that a failure can be had again.
    """
    options = Options(faults=FAULTS_OF_A_SHORT_RUN, seed=20, minimum=200)
    with open_folder() as folder:
        yield check_durability(folder, options, template=template)


@pytest.fixture(scope="module")
def smoke(template: Path) -> Generator[Durability]:
    """Hit a stack with one fault."""
    with open_folder() as folder:
        yield check_durability(folder, Options(faults=1, seed=20, minimum=1), template=template)


def test_nothing_acknowledged_is_lost_in_one_fault(smoke: Durability) -> None:
    assert smoke.findings.wrong == {name: [] for name in smoke.findings.wrong}
    assert (smoke.verdict, len(smoke.faults)) == ("pass", 1)
    assert smoke.findings.acknowledged > 0


@pytest.mark.long
def test_nothing_acknowledged_is_lost_doubled_or_torn(found: Durability) -> None:
    assert found.findings.wrong == {name: [] for name in found.findings.wrong}
    assert (found.verdict, found.exit_code, list(found.problems)) == ("pass", 0, [])


@pytest.mark.long
def test_no_single_statement_is_lost_or_doubled_and_none_is_called_refused_that_was_done(
    found: Durability,
) -> None:
    told = found.statements
    assert told.findings.wrong == {name: [] for name in told.findings.wrong}
    assert told.findings.acknowledged >= 200
    assert told.lost_answers > 0
    assert told.findings.unknown > 0
    assert told.findings.unknown_done > 0


@pytest.mark.long
def test_there_were_faults_of_many_kinds_and_writes_to_lose(found: Durability) -> None:
    assert len(found.faults) == FAULTS_OF_A_SHORT_RUN
    assert len({fault.kind for fault in found.faults}) == FAULTS_OF_A_SHORT_RUN
    assert {fault.kind for fault in found.faults} <= set(FAULTS)
    assert found.findings.acknowledged >= 200


@pytest.mark.long
def test_clients_were_left_in_doubt_and_found_out(found: Durability) -> None:
    # Otherwise nothing was hit while it was at work, and the run proves little.
    assert found.findings.unclear_attempts > 0
    assert sum(found.findings.explained.values()) == sum(found.findings.resolved.values())
    assert found.findings.unknown == 0


@pytest.mark.long
def test_a_database_that_acknowledges_before_it_has_written_is_found_out(template: Path) -> None:
    options = Options(
        faults=2,
        seed=5,
        minimum=1,
        kinds=("PostgreSQL SIGKILL",),
        # The service refuses to be ready with such a database; here it is told to look away.
        environment=(("POSTFACTA_READY_REQUIRES_DB", "false"),),
        database=(("synchronous_commit", "off"), ("wal_writer_delay", "5s")),
    )
    with open_folder() as folder:
        careless = check_durability(folder, options, template=template)
    assert (careless.verdict, careless.exit_code) == ("fail", 1), careless.problems
    assert careless.findings.wrong["lost"]
