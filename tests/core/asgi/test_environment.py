"""What an environment says in a wrong way is refused with the name of its variable."""

from __future__ import annotations

import traceback
from dataclasses import fields

import pytest

from postfacta_core.asgi import HardenOptions
from postfacta_core.asgi._environment import GROUPS
from tests.kit.every import every


def test_a_wrong_value_is_refused_with_its_variable() -> None:
    wrong = {
        "BILLING_REQUEST_TIMEOUT=soon": "BILLING_REQUEST_TIMEOUT must be a number, not 'soon'; for example 30",
        "BILLING_REQUEST_TIMEOUT=-1": "HardenOptions.request_timeout must be a finite number above 0, not -1; for "
        "example 30.0, None, or a function of the scope (the environment sets BILLING_REQUEST_TIMEOUT)",
        "BILLING_DRAIN_TIMEOUT=-1": "DrainLimits.drain_timeout must be a finite number at least 0, not -1; for "
        "example drain_timeout=20.0 (the environment sets BILLING_DRAIN_TIMEOUT)",
        "BILLING_DEV=yes": "BILLING_DEV must be true or false, not 'yes'; for example true",
        "BILLING_REQEST_TIMEOUT=1": "the environment variable must be BILLING_REQUEST_TIMEOUT, not "
        "'BILLING_REQEST_TIMEOUT'; for example BILLING_REQUEST_TIMEOUT=...",
        "BILLING_RESPONSE_HEADERS=DENY": "BILLING_RESPONSE_HEADERS must be a header a line, not 'DENY'; for example "
        "X-Frame-Options: DENY",
    }
    with every() as case:
        for setting, message in wrong.items():
            with case(setting), pytest.raises(ValueError) as refused:  # noqa: PT011 - compared below
                HardenOptions.from_env("BILLING_", dict([setting.split("=")]))
            assert str(refused.value) == message


def test_the_address_of_a_store_is_not_repeated() -> None:
    given = {"BILLING_RATE_LIMIT_STORE": "carrier://user:hunter2@pigeon"}
    with pytest.raises(
        ValueError, match=r"not 'carrier://...'.*\(the environment sets BILLING_RATE_LIMIT_STORE\)"
    ) as refused:
        HardenOptions.from_env("BILLING_", given)
    # Nor by an error before it, which a traceback shows too.
    assert "hunter2" not in "".join(traceback.format_exception(refused.value))


def test_every_group_is_an_option() -> None:
    assert GROUPS.keys() <= {option.name for option in fields(HardenOptions)}
