"""List the small changes of a module that a test should notice, and compile the module with one of them.

Each change replaces one node in the body of a function: a statement by `pass`, a comparison by its
neighbour, an operand, a constant, an argument by none. What a module or class runs when it is
imported (constants, defaults, decorators) stays.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import CodeType
from typing import Any, cast

__all__ = ["Mutant", "compiled", "functions", "mutants_of"]

Function = ast.FunctionDef | ast.AsyncFunctionDef
_SWAPS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.And: ast.Or,
    ast.Or: ast.And,
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Div,
    ast.Mod: ast.Div,
    ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
}
_NAMES = {"min": "max", "max": "min", "any": "all", "all": "any"}
_REMOVED = (ast.AugAssign, ast.Break, ast.Continue, ast.Delete, ast.Raise)
# Their text is for people: to compare it word by word would copy it into the tests.
_PROSE = (ast.Raise, ast.JoinedStr)


@dataclass(frozen=True, slots=True)
class Mutant:
    """One change of a module.

    Attributes:
        number: Its place among the changes of its module.
        function: The qualified name of the outermost function that it is in.
        line: Where it is.
        lines: A test that runs none of these cannot notice it.
        before: The source of what is replaced.
        after: The source of what stands there instead.
    """

    number: int
    function: str
    line: int
    lines: range
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class _Site:
    """A place for a node in a tree, and what may stand there instead."""

    function: str
    statement: ast.stmt
    node: ast.AST
    put: Callable[[ast.AST], None]
    instead: ast.AST


def mutants_of(tree: ast.Module) -> list[Mutant]:
    """Return all changes of a module, in the order of its text."""
    return [
        Mutant(
            number,
            site.function,
            (
                site.node.lineno
                if isinstance(site.node, ast.stmt | ast.expr)
                else site.statement.lineno
            ),
            _lines(site),
            ast.unparse(site.node),
            ast.unparse(site.instead),
        )
        for number, site in enumerate(_sites(tree))
    ]


def compiled(tree: ast.Module, filename: str, number: int) -> CodeType:
    """Return the code of the module with one change; the tree stays as it is."""
    site = next(site for place, site in enumerate(_sites(tree)) if place == number)
    site.put(site.instead)
    try:
        return compile(tree, filename, "exec", dont_inherit=True)
    finally:
        site.put(site.node)


def functions(code: CodeType) -> Iterator[CodeType]:
    """Return the code of each function that is in no other one, by the code of its module."""
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            # A class body is no function: it has no fast locals.
            if constant.co_flags & 0x2:
                yield constant
            else:
                yield from functions(constant)


def _lines(site: _Site) -> range:
    start = site.statement.lineno
    if isinstance(site.node, ast.stmt | ast.expr):
        start = site.node.lineno
        end = site.node.end_lineno or site.node.lineno
        if isinstance(
            site.statement, ast.If | ast.While | ast.For | ast.AsyncFor | ast.With | ast.AsyncWith
        ):
            return range(start, end + 1)
        return range(min(start, site.statement.lineno), end + 1)
    return range(start, start + 1)


def _sites(tree: ast.Module) -> Iterator[_Site]:
    for name, function in _outermost(tree.body, ""):
        yield from _in_block(name, function)


def _outermost(body: list[ast.stmt], prefix: str) -> Iterator[tuple[str, Function]]:
    for node in body:
        if isinstance(node, Function):
            yield prefix + node.name, node
        elif isinstance(node, ast.ClassDef):
            yield from _outermost(node.body, f"{prefix}{node.name}.")
        elif isinstance(node, ast.If):
            yield from _outermost([*node.body, *node.orelse], prefix)


def _in_block(name: str, owner: ast.AST) -> Iterator[_Site]:
    """Walk through the statements of a function, and through the expressions of each."""
    for _, value in ast.iter_fields(owner):
        children = cast("list[ast.AST]", value) if isinstance(value, list) else []
        for index, child in enumerate(children):
            if isinstance(child, ast.stmt):
                put = _into(children, index)
                is_docstring = index == 0 and isinstance(owner, Function) and _is_text(child)
                if not is_docstring:
                    for instead in _statements_instead(child):
                        yield _Site(name, child, child, put, ast.copy_location(instead, child))
                    if not isinstance(child, ast.ClassDef):
                        yield from _in_expressions(
                            name, child, child, in_prose=isinstance(child, _PROSE)
                        )
                    yield from _in_block(name, child)
            elif isinstance(child, ast.excepthandler | ast.match_case):
                yield from _in_block(name, child)


def _in_expressions(
    name: str, statement: ast.stmt, owner: ast.AST, *, in_prose: bool
) -> Iterator[_Site]:
    for field, value in ast.iter_fields(owner):
        if field in {
            "decorator_list",
            "args",
            "returns",
            "annotation",
            "type_params",
        } and isinstance(owner, ast.stmt):
            continue
        children = cast("list[ast.AST]", value) if isinstance(value, list) else [value]
        for index, child in enumerate(children):
            put = _into(children, index) if isinstance(value, list) else _onto(owner, field)
            if isinstance(
                child,
                ast.expr
                | ast.keyword
                | ast.comprehension
                | ast.withitem
                | ast.operator
                | ast.boolop,
            ):
                for instead in _expressions_instead(child, in_prose=in_prose):
                    if isinstance(child, ast.expr):
                        ast.copy_location(instead, child)
                    yield _Site(name, statement, child, put, ast.fix_missing_locations(instead))
                prose = in_prose or isinstance(child, _PROSE)
                yield from _in_expressions(name, statement, child, in_prose=prose)


def _into(values: list[ast.AST], index: int) -> Callable[[ast.AST], None]:
    def put(node: ast.AST) -> None:
        values[index] = node

    return put


def _onto(owner: ast.AST, field: str) -> Callable[[ast.AST], None]:
    def put(node: ast.AST) -> None:
        setattr(owner, field, node)

    return put


def _statements_instead(node: ast.stmt) -> Iterator[ast.AST]:
    """Return what may stand in the place of a statement.

    Nothing, or its block without its condition or its care.
    """
    match node:
        case ast.Expr(value=ast.Constant()):
            return  # the dots of a protocol
        case ast.Assign(targets=[ast.Name()]) | ast.AnnAssign(target=ast.Name()):
            if node.value is not None and not _is_none(node.value):
                instead = copy.copy(node)
                instead.value = ast.copy_location(ast.Constant(None), node.value)
                yield instead
        case ast.Return(value=value):
            if value is not None and not _is_none(value):
                yield ast.copy_location(
                    ast.Return(ast.copy_location(ast.Constant(None), node)), node
                )
            else:
                yield ast.Pass()
        case ast.With(body=body) | ast.AsyncWith(body=body) | ast.Try(body=body):
            if not (
                isinstance(node, ast.With | ast.AsyncWith)
                and any(i.optional_vars for i in node.items)
            ):
                always = ast.copy_location(ast.Constant(value=True), node)
                yield ast.copy_location(ast.If(always, body, []), node)
        case ast.If() | ast.Expr() | ast.Assign() | ast.AnnAssign(value=ast.expr()):
            yield ast.Pass()
        case _ if isinstance(node, _REMOVED):
            yield ast.Pass()
        case _:
            return


def _expressions_instead(node: ast.AST, *, in_prose: bool) -> Iterator[ast.AST]:  # noqa: C901, PLR0912 - a table
    match node:
        case ast.Compare(ops=[operator]) if type(operator) in _SWAPS:
            yield ast.Compare(node.left, [_swapped(operator)], node.comparators)
        case ast.BoolOp(op=operator, values=values):
            yield ast.BoolOp(_swapped(operator), values)
        case ast.BinOp(op=operator) if type(operator) in _SWAPS and not in_prose:
            yield ast.BinOp(node.left, _swapped(operator), node.right)
        case ast.UnaryOp(op=ast.Not() | ast.USub(), operand=operand):
            yield operand
        case ast.IfExp(test=test, body=body, orelse=orelse):
            yield ast.IfExp(test, orelse, body)
        case ast.Constant(value=bool(value)):
            yield ast.Constant(value=not value)
        case ast.Constant(value=int() | float() as value):
            yield ast.Constant(value + 1)
        case ast.Constant(value=str(value)) if not in_prose:
            yield ast.Constant(value + "XX")
        case ast.Name(id=name, ctx=ast.Load()) if name in _NAMES:
            yield ast.Name(_NAMES[name], node.ctx)
        case ast.Call(func=func, args=arguments, keywords=keywords) if not in_prose:
            for keyword in keywords:
                if keyword.arg is not None:
                    yield ast.Call(
                        func, arguments, [other for other in keywords if other is not keyword]
                    )
        case _:
            return


def _swapped(operator: ast.AST) -> Any:
    return _SWAPS[type(operator)]()


def _is_none(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
