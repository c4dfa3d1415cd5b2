"""The faces: each name is loaded at its first use, and is the same for people, type checkers and `dir`."""

from __future__ import annotations

import ast
import importlib
import inspect
from types import ModuleType

import pytest

import postfacta_core
import postfacta_postgres
from postfacta_core import asgi, guards, testing
from postfacta_core.face import lazy

FACES = (postfacta_core, asgi, guards, postfacta_postgres)
# It is read as an attribute, and no import with a star brings it.
NOT_STARRED = {"__version__"}


def halves(face: ModuleType) -> tuple[dict[str, set[str]], dict[str, set[str]]]:
    """Return what type checkers read and what is loaded, both by module."""
    (both,) = [node for node in ast.parse(inspect.getsource(face)).body if isinstance(node, ast.If)]
    read = {
        str(node.module): {name.asname or name.name for name in node.names}
        for node in both.body
        if isinstance(node, ast.ImportFrom)
    }
    (assigned,) = both.orelse
    assert isinstance(assigned, ast.Assign)
    assert isinstance(assigned.value, ast.Call)
    loaded = ast.literal_eval(assigned.value.args[1])
    return read, {module: set(names) for module, names in loaded.items()}


@pytest.mark.parametrize("face", FACES, ids=lambda face: face.__name__)
def test_type_checkers_and_the_interpreter_see_the_same_names(face: ModuleType) -> None:
    read, loaded = halves(face)
    assert read == loaded
    assert set(face.__all__) == set().union(*loaded.values()) - NOT_STARRED


@pytest.mark.parametrize("face", FACES, ids=lambda face: face.__name__)
def test_each_name_is_the_one_of_its_module_and_stays(face: ModuleType) -> None:
    for module, names in halves(face)[1].items():
        for name in names:
            found = getattr(face, name)
            assert found is getattr(importlib.import_module(f"{face.__name__}.{module}"), name)
            assert vars(face)[name] is found


def test_the_first_call_is_a_name_of_the_first_face() -> None:
    assert postfacta_core.harden is asgi.harden
    assert postfacta_core.HardenOptions is asgi.HardenOptions


def test_dir_lists_names_that_are_not_loaded_yet() -> None:
    _, everything = lazy(testing.__name__, {"by_hand": ("ManualClock",), "nowhere": ("Later",)})
    assert {"Later", "ManualClock", "__path__"} <= set(everything())
    assert len(everything()) == len(set(everything()))
    for face in FACES:
        assert set(face.__all__) <= set(dir(face))


@pytest.mark.parametrize(
    "name",
    [
        "Database",
        "Feed",
        "Mode",
        "Outgoing",
        "OverloadConfig",
        "RateCounter",
        "RateLimiter",
        "spawn",
        "time_limit",
    ],
)
def test_a_name_of_another_package_is_refused_with_its_place(name: str) -> None:
    with pytest.raises(ImportError, match=rf"^postfacta_core has no {name}: from ") as refused:
        exec(f"from postfacta_core import {name}")  # noqa: S102 - a statement of our own
    exec(str(refused.value).partition(": ")[2])  # noqa: S102 - likewise


def test_an_unknown_name_is_refused_with_its_package() -> None:
    with pytest.raises(
        AttributeError, match="module 'postfacta_core' has no attribute 'CircuitBraker'"
    ) as refused:
        _ = postfacta_core.CircuitBraker  # type: ignore[attr-defined] # see the name
    assert refused.value.name == "CircuitBraker"
    assert refused.value.obj is postfacta_core
