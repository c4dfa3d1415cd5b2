"""What `harden` adds to a request is held in instructions, beside the peers' stack in the same run."""

from __future__ import annotations

import os
import shutil

import pytest

from benchmarks.instructions import count

# The goals of the budget: a share of what the cheapest peers add with like features, a JSON line
# each. The first is 0.10 on a quiet machine, where it was 0.097 on 2026-12-02. A busy one adds up to
# 0.004, as the sweep runs more often while requests take longer.
PLAIN, RATED = 0.105, 0.12
OURS, PEERS = "harden, no SDK, no shedding", "peers, cheapest"


@pytest.mark.skipif(
    shutil.which("valgrind") is None and "TEST_REQUIRE_ALL" not in os.environ,
    reason="needs valgrind",
)
def test_a_request_keeps_the_budget_of_instructions(programs: None) -> None:
    figures = count(["bare", OURS, PEERS, "harden, rate limit and headers", f"{PEERS}, rate limit"])
    bare, plain, peers, rated, peers_rated = figures.values()
    assert 50_000 < bare < plain < rated
    assert (plain - bare) / (peers - bare) <= PLAIN
    assert (rated - bare) / (peers_rated - bare) <= RATED
