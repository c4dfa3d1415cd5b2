"""Each change is one that a test can notice, runs in place of the function that it changes, and is counted once."""

from __future__ import annotations

import ast
from types import FunctionType

import pytest

from benchmarks.mutants import Mutant, compiled, functions, mutants_of
from benchmarks.mutation_page import change, counted, score, table

SOURCE = '''
LIMIT = 3


class Counter:
    """Counts."""

    def __init__(self, start: int = 0) -> None:
        """Begin."""
        self.count = start

    @property
    def is_full(self) -> bool:
        return self.count >= LIMIT

    def add(self, *, by: int = 1) -> int:
        if self.is_full or by < 0:
            raise ValueError("too " + "many")
        self.count += by
        return self.count


def outer(items: list[int]) -> int:
    def inner(item: int) -> int:
        return item + 1

    with open("x"):
        total = sum(map(inner, items), start=2)
    try:
        return min(total, 10)
    except ValueError:
        pass
    return None
'''
TREE = ast.parse(SOURCE)


def test_each_change_compiles_alone_and_leaves_the_tree_as_it_is() -> None:
    before = ast.dump(TREE)
    whole = {
        code.co_qualname: code
        for code in functions(compile(TREE, "x.py", "exec", dont_inherit=True))
    }
    for mutant in mutants_of(TREE):
        changed = {
            code.co_qualname: code for code in functions(compiled(TREE, "x.py", mutant.number))
        }
        assert [name for name in whole if whole[name] != changed[name]] == [mutant.function]
    assert ast.dump(TREE) == before


@pytest.mark.parametrize(("before", "result"), [("item + 1", 1), ("min", 10)])
def test_the_changed_code_runs_in_place_of_the_old(before: str, result: int) -> None:
    source = SOURCE.replace('    with open("x"):\n        total', "    if True:\n        total")
    tree = ast.parse(source)
    space: dict[str, object] = {}
    exec(compile(tree, "x.py", "exec"), space)  # noqa: S102 - a text of this file
    outer = space["outer"]
    assert isinstance(outer, FunctionType)
    assert outer([1]) == 4
    mutant = next(it for it in mutants_of(tree) if (it.function, it.before) == ("outer", before))
    codes = {code.co_qualname: code for code in functions(compiled(tree, "x.py", mutant.number))}
    outer.__code__ = codes["outer"]
    assert outer([1]) == result + (1 if before != "min" else 0)


def test_a_change_is_judged_by_the_tests_of_all_its_lines() -> None:
    lines = {it.before.split("\n")[0]: it.lines for it in mutants_of(TREE)}
    start = SOURCE.splitlines().index("    try:") + 1
    assert lines["try:"] == range(start, start + 4)
    assert lines["min"] == range(start + 1, start + 2)


def result(
    number: int, status: str, *, before: str = "a", module: str = "src/m.py"
) -> dict[str, object]:
    mutant = Mutant(number, "f", 10 + number, range(1), before, "pass")
    return {
        "module": module, "number": number, "line": mutant.line,
        "before": mutant.before, "after": mutant.after, "status": status,
    }  # fmt: skip


RESULTS = [
    result(0, "killed"),
    result(1, "timeout"),
    result(2, "survived", before="x | y"),
    result(3, "uncovered", before="text `code`"),
    result(4, "unreachable"),
    result(-1, "control survived"),
    result(-2, "control killed"),
]


def test_what_no_test_noticed_or_ran_lowers_the_score_and_what_changes_nothing_does_not() -> None:
    assert score(RESULTS, ()) == 50.0
    equivalent = {("src/m.py", change(RESULTS[2]))}
    assert round(score(RESULTS, equivalent), 1) == 66.7
    assert list(table(RESULTS, equivalent, {"src/m.py": 9}))[2:] == [
        "| m.py | 9 | 4 | 1 | 1 | 1 | 1 | 1 | 66.7 % |",
        "| all | 9 | 4 | 1 | 1 | 1 | 1 | 1 | 66.7 % |",
    ]
    assert len(counted(RESULTS)) == 4
    # A verdict on a mutant that is noticed now counts no more.
    assert score([result(0, "killed", before="x | y")], equivalent) == 100.0
