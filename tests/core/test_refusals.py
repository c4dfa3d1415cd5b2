"""Each setting that makes no sense is refused with a sentence that names the field, the rule, the value and an example.

`refusals.txt` has the call, and below it the whole sentence.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from postfacta_core.backoff import Backoff
from postfacta_core.deadlines._limits import TransferLimits
from postfacta_core.drain._course import DrainLimits
from postfacta_core.guards._circuit import CircuitConfig
from postfacta_core.guards.budget import RetryBudget
from postfacta_core.guards.bulkhead import Bulkhead
from postfacta_core.guards.fallback import Fallback
from postfacta_core.guards.hedge import Hedge
from postfacta_core.guards.retry import Retry
from postfacta_core.health import HealthRegistry
from postfacta_core.limits._overload import OverloadConfig, OverloadLimiter
from postfacta_core.limits._rates import Rate
from postfacta_core.limits.address import TrustedProxies
from postfacta_core.limits.rate import RateCounter
from postfacta_core.limits.streams import StreamLimits
from postfacta_postgres.connecting import PoolOptions, check_address
from tests.kit.every import every


async def is_alive() -> None:
    """Be a check."""


def add_check(**options: Any) -> None:
    HealthRegistry().add("database", is_alive, **options)


KINDS = (
    Backoff, Bulkhead, CircuitConfig, DrainLimits, Fallback, Hedge, OverloadConfig,
    OverloadLimiter, PoolOptions, Rate, RateCounter, Retry, RetryBudget,
    StreamLimits, TransferLimits, TrustedProxies,
)  # fmt: skip
NAMES: dict[str, object] = {
    "check_address": check_address,
    "add_check": add_check,
    **{kind.__name__: kind for kind in KINDS},
}
CASES = re.findall(
    r"^(\S.*)\n    (.+)$", Path(__file__).with_name("refusals.txt").read_text(), re.MULTILINE
)


def test_each_refusal_is_the_whole_sentence() -> None:
    assert len(CASES) == 108
    with every() as case:
        for call, sentence in CASES:
            with case(call), pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
                eval(call, NAMES.copy())  # noqa: S307 - of the file beside this one


def test_each_kind_of_setting_is_there() -> None:
    assert {call.partition("(")[0] for call, _ in CASES} == NAMES.keys()
