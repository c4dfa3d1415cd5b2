"""R2, no silent default: every setting is given wrong once, and each is refused where it is given.

A public class or function whose parameters are settings stands in `SETTINGS`, with wrong values for
each parameter, or the reason why it has none. What is no setting stands in `NO_SETTINGS`. So a new
class or parameter that is in neither fails a test here.
"""

from __future__ import annotations

import enum
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Final, cast

import pytest

import postfacta_adapters
import postfacta_core
import postfacta_postgres
import postfacta_web
from postfacta_core import (
    Pipeline,
)
from postfacta_core.events import process_observer
from tests.attack.settings_of_asgi import ASGI
from tests.attack.settings_of_guards import GUARDS
from tests.attack.settings_of_process import PROCESS
from tests.attack.wrong import (
    SECRET_TEXT,
)
from tests.kit.every import every

SETTINGS: Final = {**GUARDS, **PROCESS, **ASGI}

# What is public and no setting: whole modules, and classes in the others.
OTHER_MODULES: Final[Mapping[str, str]] = {
    "events": "records of what happened, made by the library",
    "context": "a record of a request, made by the library",
    "clock": "clocks",
    "testing": "for tests, which fail by themselves",
    "slo": "read by `slo.strict`, which refuses with the path in the file",
}
NO_SETTINGS: Final[Mapping[str, str]] = {
    **dict.fromkeys(
        (
            "Answer",
            "OpenSpan",
            "Part",
            "Watcher",
            "Listener",
            "Growth",
            "Trial",
            "Holders",
            "Answers",
            "CheckReport",
            "CircuitStatistics",
            "ClientWait",
            "Silence",
            "LoopWatch",
            "Occupancy",
            "OpenStreams",
            "Deadline",
            "Decision",
            "EventRecord",
            "Exchange",
            "Message",
            "Backlog",
            "Exposition",
            "HealthReport",
            "About",
            "Shed",
            "State",
            "SocketExchange",
            "StoredAnswer",
        ),
        "a record",
    ),
    **dict.fromkeys(
        (
            "Admit",
            "Attempts",
            "Bound",
            "Block",
            "BlockGuard",
            "LastValues",
            "Latencies",
            "Outcome",
            "Registry",
            "Runner",
            "View",
            "Borrowed",
            "BucketSet",
            "Buckets",
            "HistogramSeries",
            "Circuit",
            "Connection",
            "ConnectionMonitor",
            "Connector",
            "Statement",
            "Statements",
            "Course",
            "ErrorTypes",
            "Schedule",
            "Family",
            "Guard",
            "Interception",
            "Job",
            "JobCounts",
            "Lifecycle",
            "Lender",
            "Lease",
            "PasswordFile",
            "Loan",
            "Pool",
            "Setup",
            "RefusalSampler",
            "RequestFilter",
            "Running",
            "LineWriter",
            "ConsoleFormatter",
            "JsonFormatter",
            "RunningRequests",
            "Siblings",
            "Tracing",
            "Turn",
            "Turns",
            "Wait",
            "WaitingLine",
            "Watched",
            "Work",
        ),
        "made by the library, from settings that were checked",
    ),
    **dict.fromkeys(("AccessLog", "EventLog"), "made by the library, with nothing to check"),
    "HardenedWsgi": "checked by `Hardened`, and in tests/adapters/test_wsgi.py",
    "BoundedHttp": "made by uvicorn; its numbers are checked by `bounded`",
    **dict.fromkeys(
        ("OverloadConfig", "OverloadLimiter"),
        "checked in tests/core/refusals.txt",
    ),
}


ROOMS: Final = {"guards", "limits", "deadlines", "drain", "health"}


def public_classes() -> Iterator[type]:
    """Find each public class of the library that can be made."""
    for module in (
        *pkgutil.walk_packages(postfacta_adapters.__path__, "postfacta_adapters."),
        *pkgutil.walk_packages(postfacta_core.__path__, "postfacta_core."),
        *pkgutil.walk_packages(postfacta_postgres.__path__, "postfacta_postgres."),
        *pkgutil.walk_packages(postfacta_web.__path__, "postfacta_web."),
    ):
        path = module.name.split(".")[1:]
        # What decides is underscored, and is given the settings that its runner is given.
        is_inner = path[0] not in ROOMS and any(part.startswith("_") for part in path)
        if path[0] in OTHER_MODULES or is_inner:
            continue
        found = importlib.import_module(module.name)
        for name, each in vars(found).items():
            if (
                inspect.isclass(each)
                and not name.startswith("_")
                and each.__module__ == module.name
                and not issubclass(each, BaseException | enum.Enum)
                and not getattr(each, "_is_protocol", False)
            ):
                yield each


SUBJECTS: Final = pytest.mark.parametrize(
    "subject", SETTINGS, ids=lambda subject: subject.__qualname__
)


def call(subject: Callable[..., object], given: Mapping[str, object]) -> object:
    setting = SETTINGS[subject]
    return (setting.call or subject)(**{**setting.right, **given})


def test_each_public_class_is_a_setting_or_listed_as_none() -> None:
    classes = {each.__name__: each for each in public_classes()}
    forgotten = [
        name for name, each in classes.items() if each not in SETTINGS and name not in NO_SETTINGS
    ]
    assert forgotten == []
    assert [name for name in NO_SETTINGS if name not in classes] == []


def test_each_parameter_is_given_wrong_or_free_for_a_reason() -> None:
    with every() as case:
        for subject, setting in SETTINGS.items():
            with case(subject.__qualname__):
                parameters = {
                    name for name in inspect.signature(subject).parameters if name != "self"
                }
                assert parameters == {*setting.wrong, *setting.free}
                assert all(setting.wrong.values())
                assert all(setting.free.values())


async def test_right_settings_are_accepted() -> None:
    with every() as case:
        for subject in SETTINGS:
            with case(subject.__qualname__):
                process_observer.clear()
                call(subject, {})


@SUBJECTS
async def test_a_wrong_setting_is_refused_with_field_value_rule_and_example(
    subject: Callable[..., object],
) -> None:
    with every() as case:
        for parameter, values in SETTINGS[subject].wrong.items():
            for value in values:
                with case(parameter, repr(value)):
                    assert_refused(subject, parameter, value)


def assert_refused(subject: Callable[..., object], parameter: str, value: object) -> None:
    with pytest.raises((ValueError, TypeError)) as caught:
        call(subject, {parameter: value})
    text = str(caught.value)
    assert SETTINGS[subject].shown_as.get(parameter, parameter) in text
    assert " must be " in text
    assert "; for example " in text
    shown: list[object] = [value, type(value)]
    if isinstance(value, list | tuple | dict):
        shown = [value, *cast("Collection[object]", value)]
    if parameter not in SETTINGS[subject].hidden:
        assert any(repr(each)[:60] in text for each in shown)
    assert SECRET_TEXT not in text
    assert len(text) < 500


async def test_an_unknown_name_is_refused_by_its_name() -> None:
    with every() as case:
        for subject, setting in SETTINGS.items():
            if subject is Pipeline:
                continue  # It takes guards alone, by place.
            with case(subject.__qualname__), pytest.raises(TypeError, match="no_such_setting"):
                subject(**{**setting.right, "no_such_setting": 1})


def test_the_wrong_settings_are_many() -> None:
    assert (
        sum(len(values) for setting in SETTINGS.values() for values in setting.wrong.values())
        > 1000
    )
