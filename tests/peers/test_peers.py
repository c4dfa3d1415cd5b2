"""What others test of their own software holds with ours in its place, but for a list of differences with a reason each."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import pytest

from tests.peers.kit import compare, differences, with_servers
from tests.peers.suites import SUITES, Suite
from tests.strangers.kit import Environments

# The folder of a checkout, such as of tag pool-3.3.1 of https://github.com/psycopg/psycopg.
_CHECKOUT: Final = "PEER_SOURCE_{}"
PUBLISHED = [suite for suite in SUITES if suite.is_published]
UNPUBLISHED = [suite for suite in SUITES if not suite.is_published]
_NAMES = [suite.name for suite in PUBLISHED]


def _hold(
    suite: Suite, tests: Sequence[str], environments: Environments, source: Path, folder: Path
) -> None:
    listed = differences(suite.name)
    environment = environments(*suite.requirements, extras=suite.extras)
    found = compare(suite, tests, listed, environment=environment, source=source, folder=folder)
    unlisted, healed = found.unlisted(listed), found.healed(listed)
    assert not unlisted, "pass plain, and fail with ours:\n" + "\n".join(unlisted)
    # A list that is longer than the truth hides the next defect.
    assert not healed, "are listed, and pass:\n" + "\n".join(healed)


@pytest.mark.parametrize("suite", PUBLISHED, ids=_NAMES)
def test_a_share_of_a_peers_suite_passes_with_ours(
    suite: Suite, environments: Environments, sources: Callable[[str], Path], tmp_path: Path
) -> None:
    _hold(suite, suite.share, environments, sources(suite.package), tmp_path)


@pytest.mark.long
@pytest.mark.parametrize("suite", PUBLISHED, ids=_NAMES)
def test_a_peers_suite_passes_with_ours(
    suite: Suite, environments: Environments, sources: Callable[[str], Path], tmp_path: Path
) -> None:
    _hold(suite, suite.tests, environments, sources(suite.package), tmp_path)


@pytest.mark.long
@pytest.mark.parametrize("suite", UNPUBLISHED, ids=[suite.name for suite in UNPUBLISHED])
def test_a_suite_that_no_index_has_passes_with_ours(
    suite: Suite, environments: Environments, tmp_path: Path
) -> None:
    variable = _CHECKOUT.format(suite.name.upper())
    checkout = os.environ.get(variable)
    if checkout is None:
        pytest.skip(f"not run: {suite.name}, whose source package has no tests; set {variable}")
    with with_servers(suite, tmp_path) as served:
        _hold(served, suite.tests, environments, Path(checkout), tmp_path)
