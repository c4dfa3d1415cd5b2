"""Options of `harden` from the environment.

`tests/attack/test_settings.py` has each wrong value.
"""

from __future__ import annotations

import traceback
from dataclasses import fields

import pytest

from postfacta_adapters.limits import SharedStore
from postfacta_core.asgi import Cors, HardenOptions
from postfacta_core.asgi.options import FUNCTIONS, GROUPS
from postfacta_core.drain._course import DrainLimits
from postfacta_core.events import Mode
from tests.kit.every import every

GIVEN = {
    "BILLING_LIMITS_MAX_BODY_BYTES": "2097152",
    "BILLING_LIMITS_WRITE_TIMEOUT": "inf",
    "BILLING_REQUEST_TIMEOUT": "10",
    "BILLING_STREAM_TIMEOUT": "none",
    "BILLING_CANCEL_ON_DISCONNECT": "true",
    "BILLING_RATE_LIMITS": "100/minute per client, 1000/minute per global",
    "BILLING_TRUSTED_PROXIES": "10.0.0.0/8,unix",
    "BILLING_TRUSTED_TRACES": "10.0.0.0/8",
    "BILLING_REQUEST_ID_HEADER": "true",
    "BILLING_SHEDDING": "shadow",
    "BILLING_CONCURRENCY_START": "32",
    "BILLING_PRIORITY_KEY": "key",
    "BILLING_STREAMS_MOST": "500",
    "BILLING_STREAMS_PER_CALLER": "none",
    "BILLING_DRAIN_DELAY": "0",
    "BILLING_DRAIN_CLOSE_TIMEOUT": "2.5",
    "BILLING_WORK_AT_ONCE": "50",
    "BILLING_COVER_TASKS": "true",
    "BILLING_DEV": "False",
    "BILLING_CORS_ALLOW_ORIGINS": "https://console.example.org",
    "BILLING_RESPONSE_HEADERS": "X-Frame-Options: DENY\nStrict-Transport-Security: max-age=1, b; c\n",
    "BILLING_METRICS_PATH": "/series",
    "BILLING_METRICS_TOKEN": "token",
    "BILLING_METRICS_WORKERS": "/run/billing",
    "BILLING_HEALTH_PREFIX": "",
    "BILLING_TRAFFIC_KEY": "traffic",
    "BILLING_QUIET": "/ping",
    "BILLING_ACCESS_LINES": "none",
    # The service's own.
    "BILLING_DATABASE_URL": "postgresql://localhost/billing",
    "PATH": "/bin",
}


def test_every_option_has_a_variable() -> None:
    options = HardenOptions.from_env("BILLING_", GIVEN)
    with every() as case:
        for option in fields(HardenOptions):
            with case(option.name):
                is_default = getattr(options, option.name) == getattr(HardenOptions(), option.name)
                assert is_default == (option.name in {*FUNCTIONS, "stream_timeout", "dev"})


def test_a_variable_says_what_the_code_would() -> None:
    options = HardenOptions.from_env("BILLING_", GIVEN)
    assert (options.request_timeout, options.stream_timeout, options.access_lines) == (
        10,
        None,
        None,
    )
    assert options.shedding is Mode.SHADOW
    assert options.drain == DrainLimits(drain_delay=0, drain_timeout=20.0, close_timeout=2.5)
    assert options.cors == Cors(allow_origins=("https://console.example.org",))
    assert options.rate_limits == ("100/minute per client", "1000/minute per global")
    assert options.response_headers == (
        ("X-Frame-Options", "DENY"),
        ("Strict-Transport-Security", "max-age=1, b; c"),
    )
    assert options.probes[0] == "/live"


def test_the_environment_wins_over_the_code_option_by_option() -> None:
    drain = DrainLimits(drain_delay=1.0, drain_timeout=2.0)
    options = HardenOptions.from_env(
        "BILLING_",
        {"BILLING_DRAIN_TIMEOUT": "9", "BILLING_DEV": "true"},
        drain=drain,
        quiet=["/ping"],
    )
    assert options.drain == DrainLimits(drain_delay=1.0, drain_timeout=9)
    assert (options.dev, options.quiet) == (True, ["/ping"])


def test_the_process_environment_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BILLING_REQUEST_TIMEOUT", "7.5")
    assert HardenOptions.from_env("BILLING_").request_timeout == 7.5


def test_a_prefix_is_needed() -> None:
    with pytest.raises(ValueError, match="prefix must be a text that is not empty"):
        HardenOptions.from_env("", {})


def test_a_wrong_value_is_refused_with_its_variable() -> None:
    wrong = {
        "BILLING_REQUEST_TIMEOUT=soon": "BILLING_REQUEST_TIMEOUT must be a number, not 'soon'; for example 30",
        "BILLING_REQUEST_TIMEOUT=-1": "HardenOptions.request_timeout must be a finite number above 0, not -1; for "
        "example 30.0, or None (the environment sets BILLING_REQUEST_TIMEOUT)",
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


def test_the_address_of_a_store_without_the_store_is_refused_and_not_repeated() -> None:
    given = {
        "BILLING_RATE_LIMITS": "1/minute",
        "BILLING_RATE_LIMIT_STORE": "carrier://user:hunter2@pigeon",
    }
    with pytest.raises(
        ValueError,
        match=r"given the store itself, not 'BILLING_RATE_LIMIT_STORE'; .*SharedStore\(address\)",
    ) as refused:
        HardenOptions.from_env("BILLING_", given)
    assert "hunter2" not in "".join(traceback.format_exception(refused.value))
    store = SharedStore("async+memory://")
    assert (
        HardenOptions.from_env("BILLING_", given, rate_limit_store=store).rate_limit_store is store
    )


def test_a_variable_for_what_only_code_says_is_refused() -> None:
    with every() as case:
        for option in ("routes", "priority_of", "allow_metrics", "allow_health_detail"):
            rule = rf"given {option} from the code.* not 'BILLING_{option.upper()}'; for example {option}="
            with case(option), pytest.raises(ValueError, match=rule):
                HardenOptions.from_env("BILLING_", {f"BILLING_{option.upper()}": "GET /"})


def test_every_group_is_an_option() -> None:
    assert GROUPS.keys() <= {option.name for option in fields(HardenOptions)}
