"""Bounds stand in the models; the checks of the tables allow exactly what these allow."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, TypeAdapter

from postfacta_app.actions import ActionChange, NewAction
from postfacta_app.incidents.model import NewIncident
from postfacta_app.labels import Label
from postfacta_app.links import NewLink
from postfacta_app.web.forms import fields_of
from postfacta_postgres import Database
from tests.kit.every import every

TABLES: dict[str, list[type[BaseModel]]] = {
    "action_items": [NewAction, ActionChange],
    "incidents": [NewIncident],
    "incident_links": [NewLink],
}
_CHECKS = """
select pg_get_constraintdef(oid) from pg_constraint
 where conrelid = $1::regclass and contype = 'c' and cardinality(conkey) = 1"""


def bounds_of(checks: list[str]) -> dict[str, object]:
    """Read the longest text, the range or the words of each column."""
    found: dict[str, object] = {}
    for check in checks:
        if one := re.search(r"char_length\((\w+)\) <= (\d+)", check):
            found[one[1]] = int(one[2])
        elif one := re.search(r"\((\w+) >= (\d+)\) AND \(\1 <= (\d+)\)", check):
            found[one[1]] = [str(each) for each in range(int(one[2]), int(one[3]) + 1)]
        elif one := re.search(r"\((\w+) = ANY", check):
            found[one[1]] = re.findall(r"'([^']+)'", check)
    return found


def bound_of(field: Mapping[str, Any]) -> object:
    if "minimum" in field:
        return [str(each) for each in range(field["minimum"], field["maximum"] + 1)]
    # A slug has its length in its pattern.
    return field.get("enum") or field.get("maxLength") or 63


async def test_models_and_tables_have_the_same_bounds(app_database: Database) -> None:
    with every() as case:
        for table, models in TABLES.items():
            checks = await app_database.fetch(_CHECKS, table)
            bounds = bounds_of([row[0] for row in checks])
            for model in models:
                for name, field in fields_of(model).items():
                    if name in bounds:
                        with case(f"{table}.{name}"):
                            assert bounds[name] == bound_of(field)
            with case(f"{table} has bounds"):
                assert len(bounds) > 1


async def test_a_label_has_one_pattern_in_the_model_and_in_the_table(
    app_database: Database,
) -> None:
    (check,) = await app_database.fetch(_CHECKS, "incident_labels")
    pattern = TypeAdapter[str](Label).json_schema()["pattern"]
    assert f"'{pattern}'" in check[0]
