"""Which file of a checkout depends on which, as far as text shows it; `reach.py` asks.

A file depends on another

* if it imports it, anywhere in it, or a program in one of its strings does; a name that a package
  exports stands for the module that defines it, so that `from postfacta_core.guards import Retry`
  is no dependency on hedges;
* if one of its strings names it: as a module (`-m postfacta_app`), or by the end of its path;
* if it looks into its folder (`ROOT / "docs"`): then it reads the file, but does not run it;
* if it is a test, and a `conftest.py` above it has a fixture that it names, or one for all tests.

What text does not show stands in `PROGRAMS` and `COMMANDS`.
"""

from __future__ import annotations

import ast
import re
import textwrap
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from itertools import pairwise
from pathlib import PurePosixPath
from typing import Final

__all__ = ["COMMANDS", "PROGRAMS", "Change", "Graph", "scan"]

PROGRAMS: Final[Mapping[str, tuple[str, ...]]] = {
    "tests/strangers": ("src", "hatch_build.py"),  # They install the wheel.
    "tests/servers": ("tests/servers",),  # Servers load the applications beside the tests.
    "tests/peers": ("tests/peers",),  # Pytest loads the plugins by their folder.
    "src/postfacta_app/__main__.py": ("src/postfacta_app/cli.py",),  # Imported by name.
}
"""What a file, or each below a folder, runs beside what it names, by the start of its path."""

COMMANDS: Final[Mapping[str, str]] = {
    "slo": "postfacta_slo.__main__",
    "lab": "postfacta_lab.__main__",
    "assess": "postfacta_lab.assess.cli",
}
"""The commands of `postfacta` that other packages have: only who names one runs it."""


_TOPS: Final = ("src", "tests", "docs", "deploy", "chaos", "benchmarks", "loadtests", "changelog.d")
_PATH: Final = re.compile(r"[\w.-]+(?:/[\w.-]+)*\.\w+")
_FOLDER: Final = re.compile(r"\.?\w[\w.-]*(?:/[\w.-]+)*")
_DOTTED: Final = re.compile(r"\b[a-z_]\w*(?:\.\w+)*")
_MAIN: Final = "src/postfacta_app/__main__.py"
# What its fixtures for all tests run of the packages, each chosen test runs too.
_ROOT_CONFTEST: Final = "tests/conftest.py"
_EVERYWHERE: Final = {"__init__.py", "__main__.py", "conftest.py"}
_POSTFACTA: Final = re.compile(r"\bpostfacta (\w+)")
_COMMAND: Final = re.compile(r"-m (\w+)|^\s*import (\w+)", re.MULTILINE)


@dataclass
class Names:
    """What a part of a file mentions.

    Attributes:
        modules: Modules that it imports as a whole.
        members: Pairs of a module and a name in it that it imports.
        strings: Its strings, without docstrings.
        folders: Those of the strings that stand in a path: `ROOT / "docs"`.
        words: Its identifiers and parameters.
    """

    modules: set[str] = field(default_factory=set[str])
    members: set[tuple[str, str]] = field(default_factory=set[tuple[str, str]])
    strings: set[str] = field(default_factory=set[str])
    folders: set[str] = field(default_factory=set[str])
    words: set[str] = field(default_factory=set[str])


@dataclass
class Scan:
    """What a Python file mentions.

    Attributes:
        names: All of it; of a package's `__init__`, without what it exports.
        exports: The module and the name in it that each imported name of the file stands for.
        fixtures: What each function mentions, if this is a `conftest.py`.
        always: Its fixtures and hooks that are used without being named.
        by_name: Whether it imports modules that its strings name.
    """

    names: Names
    exports: dict[str, tuple[str, str]]
    fixtures: dict[str, Names]
    always: set[str]
    by_name: bool = False


@dataclass(frozen=True)
class Change:
    """A changed file; `only_text` if it runs as before."""

    path: str
    only_text: bool = False


def scan(path: str, text: str) -> Scan:
    """Read what a Python file mentions; text that is no Python mentions nothing."""
    try:
        tree = ast.parse(text)
    except SyntaxError:
        return Scan(Names(), {}, {}, set())
    package = path.removeprefix("src/").split("/")[:-1]
    exports = {
        alias.asname or alias.name: (_module(node, package), alias.name)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    fixtures: dict[str, Names] = {}
    always: set[str] = set()
    body: list[ast.stmt] = tree.body
    if path.endswith("conftest.py"):
        functions = [
            node for node in body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        ]
        fixtures = {node.name: _names([node], package, exports) for node in functions}
        always = {
            node.name
            for node in functions
            if node.name.startswith("pytest_")
            or any("autouse=True" in ast.unparse(call) for call in node.decorator_list)
        }
        body = [
            node
            for node in body
            if node not in functions and not isinstance(node, ast.Import | ast.ImportFrom)
        ]
    names = _names(body, package, exports if fixtures else {})
    if path.endswith("__init__.py"):
        names.members -= {of for alias, of in exports.items() if alias not in names.words}
    return Scan(names, exports, fixtures, always, "import_module" in exports and path != _MAIN)


def _names(
    body: list[ast.stmt], package: list[str], exports: Mapping[str, tuple[str, str]]
) -> Names:
    names = Names()
    left_out = _docstrings(body)
    for node in (node for part in body for node in ast.walk(part)):
        match node:
            case ast.List() | ast.Tuple() | ast.Call():
                left_out |= _take_started(names, node)
            case ast.Import() | ast.ImportFrom():
                _take_import(names, node, package)
            case ast.JoinedStr():
                names.strings.add("".join(_literal(part) or "*" for part in node.values))
            case ast.Constant(value=str() as value) if id(node) not in left_out:
                _take_text(names, value, package)
            case ast.BinOp(op=ast.Div()):
                names.folders.update(filter(None, map(_literal, (node.left, node.right))))
            case ast.Name(id=word) | ast.arg(arg=word):
                names.words.add(word)
            case _:
                pass
    names.members |= {exports[word] for word in names.words & exports.keys()}
    return names


def _docstrings(body: list[ast.stmt]) -> set[int]:
    return {
        id(node.body[0].value)
        for part in body
        for node in (ast.Module([part], []), *ast.walk(part))
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }


def _take_started(names: Names, node: ast.List | ast.Tuple | ast.Call) -> set[int]:
    """Add the module after `-m` in the words of a command; return which literals that were."""
    taken: set[int] = set()
    for option, of in pairwise(node.args if isinstance(node, ast.Call) else node.elts):
        if _literal(option) == "-m" and (module := _literal(of)):
            names.modules |= {module, f"{module}.__main__"}
            taken.add(id(of))
    return taken


def _take_import(names: Names, node: ast.Import | ast.ImportFrom, package: list[str]) -> None:
    if isinstance(node, ast.Import):
        names.modules.update(alias.name for alias in node.names)
    else:
        names.members.update((_module(node, package), alias.name) for alias in node.names)


def _literal(node: ast.expr) -> str:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def _module(node: ast.ImportFrom, package: list[str]) -> str:
    base = package[: len(package) - node.level + 1] if node.level else []
    return ".".join([*base, *([node.module] if node.module else [])])


def _take_text(names: Names, value: str, package: list[str]) -> None:
    """Add a string; of a program, what the program mentions."""
    try:
        tree = ast.parse(textwrap.dedent(value)) if "import " in value else None
    except SyntaxError:
        tree = None
    if tree is None:
        names.strings.add(value)
        return
    program = _names(tree.body, package, {})
    names.modules |= program.modules
    names.members |= program.members
    names.strings |= program.strings


class Graph:
    """Which file of a tree depends on which.

    Args:
        scans: What each Python file mentions, by its path.
        others: The text of each other file; of one that is not text, nothing.
    """

    def __init__(self, scans: Mapping[str, Scan], others: Mapping[str, str]) -> None:
        self.files: Final = {*scans, *others}
        self.tests: Final = {path for path in scans if _is_test(path)}
        self._scans: Final = scans
        self._others: Final = others
        self._homes: Final = {_dotted(path): path for path in scans}
        self._ends: dict[str, set[str]] = defaultdict(set)
        for path in self.files:
            parts = path.split("/")
            for start in range(len(parts)):
                self._ends["/".join(parts[start:])].add(path)
        self._inside: dict[str, set[str]] = defaultdict(set)
        for path in self.files:
            for parent in PurePosixPath(path).parents:
                self._inside[str(parent)].add(path)
        self.runs: Final[dict[str, set[str]]] = {}
        self.reads: Final[dict[str, set[str]]] = {}
        for path, of in scans.items():
            self.runs[path], self.reads[path] = self._edges(path, of.names)
        for path, of in scans.items():
            if _is_test(path):
                self._take_fixtures(path, of)
            self._take_programs(path)
        self._named: Final = self._named_in_pages()

    def _edges(self, path: str, names: Names) -> tuple[set[str], set[str]]:
        runs: set[str] = set()
        reads: set[str] = set()
        for module in names.modules:
            runs |= self._whole(self._beside(path, module))
        for module, name in names.members:
            runs |= self._defining(self._beside(path, module), name)
        for value in names.strings:
            self._take_string(path, value, runs, reads)
        in_src = path.startswith("src/")
        for value in names.folders:
            reads |= self._folder(path, value, only_others=in_src)
        if in_src:
            runs |= self._parents(path)
        return runs - {path}, reads - {path}

    def _beside(self, path: str, module: str) -> str:
        """Return the full name of a module that a script may take from its own folder."""
        beside = _dotted(path).rpartition(".")[0] + "." + module
        return beside if module not in self._homes and beside in self._homes else module

    def _parents(self, path: str) -> set[str]:
        folders = PurePosixPath(path).parents
        return {f"{folder}/__init__.py" for folder in folders} & self.files

    def _whole(self, module: str) -> set[str]:
        """Return what importing a module and using any of it depends on."""
        home = self._homes.get(module)
        if home is None:
            parent, _, _ = module.rpartition(".")
            return self._whole(parent) if parent else set()
        found = {home, *self._parents(home)}
        for source, name in self._exports(home).values():
            found |= self._defining(source, name)
        return found

    def _exports(self, home: str) -> Mapping[str, tuple[str, str]]:
        return self._scans[home].exports if home.endswith("__init__.py") else {}

    def _defining(self, module: str, name: str) -> set[str]:
        """Return what importing a name from a module depends on."""
        if f"{module}.{name}" in self._homes:
            return self._whole(f"{module}.{name}") | self._parents(self._homes[f"{module}.{name}"])
        home = self._homes.get(module)
        if home is None:
            return set()
        if name == "*":
            return self._whole(module)
        found = {home, *self._parents(home)}
        source = self._exports(home).get(name)
        return found | (self._defining(*source) if source and source[0] != module else set())

    def _take_string(self, path: str, value: str, runs: set[str], reads: set[str]) -> None:
        in_src = path.startswith("src/")
        for end in _PATH.findall(value):
            # A sentence that points its reader to a page does not read the page.
            found = set[str]() if " " in value and end.endswith(".md") else self._ending(end)
            runs |= {of for of in found if not _is_test(of)}
            reads |= found
        if not in_src or self._scans[path].by_name:
            runs |= self._named_modules(value)
        if not in_src:
            for word in {value, *_POSTFACTA.findall(value)} & COMMANDS.keys():
                runs |= self._whole(COMMANDS[word])
        if value == "ls-files" and not in_src:
            reads |= self.files
        if value.strip("/") in _TOPS or ("/" in value and _FOLDER.fullmatch(value.strip("/"))):
            reads |= self._folder(path, value, only_others=in_src)

    def _named_modules(self, value: str) -> set[str]:
        """Return what a string depends on that names modules."""
        found: set[str] = set()
        for dotted in _DOTTED.findall(value):
            found |= self._mentioned(dotted)
        for package in [value, *(word for words in _COMMAND.findall(value) for word in words)]:
            found |= self._package(package)
        if value.startswith("postfacta_") and "*" in value:
            found |= {home for name, home in self._homes.items() if fnmatchcase(name, value)}
        return found

    def _mentioned(self, dotted: str) -> set[str]:
        module, _, name = dotted.rpartition(".")
        if not module:
            return set()
        if dotted in self._homes:
            found = self._whole(dotted)
            main = self._homes.get(f"{dotted}.__main__")
            return found | ({main} if main else set())
        return self._defining(module, name) if module in self._homes else set()

    def _package(self, name: str) -> set[str]:
        """Return all modules of one of our packages, for who names it alone."""
        if not name.startswith("postfacta_"):
            return set()
        return {of for of in self._inside.get(f"src/{name}", ()) if of in self._scans}

    def _folder(self, path: str, value: str, *, only_others: bool) -> set[str]:
        value = value.strip("/")
        found: set[str] = set()
        for parent in PurePosixPath(path).parents:
            found |= self._inside.get(value if str(parent) == "." else f"{parent}/{value}", set())
        return {of for of in found if of not in self._scans} if only_others else found

    def _take_fixtures(self, path: str, of: Scan) -> None:
        """Add what the fixtures depend on that a test uses."""
        above = [
            home
            for parent in PurePosixPath(path).parents
            if (home := f"{parent}/conftest.py") in self._scans and home != path
        ]
        words = of.names.words | of.names.strings
        for home in above:
            self.runs[path] |= {home} | self.runs[home]
            self.reads[path] |= self.reads[home]
            words |= self._scans[home].always
        left = [(home, name) for home in above for name in self._scans[home].fixtures]
        while used := [(home, name) for home, name in left if name in words]:
            left = [fixture for fixture in left if fixture not in used]
            for home, name in used:
                names = self._scans[home].fixtures[name]
                words |= names.words | names.strings
                runs, reads = self._edges(home, names)
                is_common = home == _ROOT_CONFTEST and name in self._scans[home].always
                self.runs[path] |= {of for of in runs if not (is_common and of.startswith("src/"))}
                self.reads[path] |= reads
        for home in above:
            for name, source in self._scans[home].exports.items():
                if name in words and source[0].startswith("tests."):  # A fixture of another folder.
                    self.runs[path] |= self._defining(*source)

    def _take_programs(self, path: str) -> None:
        for folder, targets in PROGRAMS.items():
            if f"{path}/".startswith(f"{folder}/"):
                for target in targets:
                    found = self._inside.get(target, set()) | ({target} & self.files)
                    is_script = target.startswith(folder)
                    self.runs[path] |= {of for of in found if not (is_script and _is_test(of))} - {
                        path
                    }

    def _named_in_pages(self) -> Mapping[str, set[str]]:
        """Return which pages, templates and files of settings name a file."""
        named: dict[str, set[str]] = defaultdict(set)
        for page, text in self._others.items():
            for end in set(_PATH.findall(text)):
                if "/" in end or page.startswith("src/"):
                    for target in self._ending(end):
                        named[target].add(page)
        return named

    def _ending(self, end: str) -> set[str]:
        """Return the files that the end of a path names, unless each folder has such a one."""
        while end.startswith(("./", "../")):
            end = end.partition("/")[2]
        return set() if end in _EVERYWHERE else self._ends.get(end, set())

    def dependants(self, change: Change) -> set[str]:
        """Return all files that a change can reach, itself among them."""
        texts = {change.path, *self._named.get(change.path, ())}
        if change.path.startswith("src/") and change.path not in self._scans:
            texts |= self._holders(change.path)
        readers = {path for path, read in self.reads.items() if read & texts}
        seeds = readers | (
            {path for path, runs in self.runs.items() if runs & (texts - self._scans.keys())}
        )
        if change.only_text:
            # Who names the file, such as a test that breaks it by its text.
            seeds |= {path for path in self._scans if self._names_path(path, change.path)}
        else:
            seeds |= texts
        return self._above(seeds) | {change.path}

    def _names_path(self, path: str, target: str) -> bool:
        end = target.rpartition("/")[2]
        if end == "__init__.py":
            end = target.rpartition("/")[0].rpartition("/")[2] + "/" + end
        of = self._scans[path]
        parts = (of.names, *of.fixtures.values())
        return any(end in value for names in parts for value in names.strings)

    def _holders(self, path: str) -> set[str]:
        """Return the modules of the package that holds a template, SQL or other file."""
        users = {
            *self._named.get(path, ()),
            *(of for of, runs in self.runs.items() if path in runs),
        }
        if any(user.startswith("src/") for user in users):
            return set()
        for parent in PurePosixPath(path).parents:
            modules = {of for of in self._scans if str(PurePosixPath(of).parent) == str(parent)}
            if modules:
                return modules
        return set()

    def _above(self, seeds: Iterable[str]) -> set[str]:
        users: dict[str, set[str]] = defaultdict(set)
        for path, runs in self.runs.items():
            for of in runs:
                users[of].add(path)
        reached, left = set[str](), list(seeds)
        while left:
            path = left.pop()
            if path not in reached:
                reached.add(path)
                left += users.get(path, ())
        return reached


def _dotted(path: str) -> str:
    return path.removeprefix("src/").removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def _is_test(path: str) -> bool:
    name = path.rpartition("/")[2]
    return path.startswith("tests/") and name.startswith("test_") and name.endswith(".py")
