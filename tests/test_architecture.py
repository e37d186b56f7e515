"""The rules that keep the packages easy to change, checked on their source.

1. The core is sans-I/O: it imports nothing that reads a clock, draws a random number, opens a socket or
   belongs to mitmproxy. Time and randomness are its arguments.
2. Every package has a rank of its own, and imports only packages of lower ranks.
3. Inside a package there are no import circles, not even for types.
4. The top level holds the layout and nothing else: no output of a program that ran there.

The lists of packages and modules are read from the folders: what is new has to be given its rank.
"""

import ast
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest

pytestmark = pytest.mark.one_python

CHECKOUT = Path(__file__).parent.parent
ADDONS = CHECKOUT / "addons"
NAME = "aoai_gateway"
SIMULATOR = "aoai_simulator"
PACKAGE = ADDONS / NAME

RANKED = (
    "bounded",
    "command_line",
    "whole_lines",
    "child_process",
    "config",
    "wire",
    "tokens",
    "quota",
    "routing",
    "engine",
    "state",
    "usage",
    "identity",
    "runtime",
    "proxy",
    "admin",
    "inspect",
    "rerun",
    "workbench",
    SIMULATOR,
    "analysis",
    "benchmark",
    "app",
)
"""The packages, and the modules beside them, from the inside out: each imports only what stands before it."""

CORE = ("bounded", "wire", "tokens", "routing", "quota", "engine")
"""What is sans-I/O, and of the simulator, what judges a request."""

CORE_OF_SIMULATOR = ("limits",)

SEEN_BY_SIMULATOR = ("config", "tokens")
"""Of the gateway, the simulator reads the configuration and counts tokens; it is Azure, and knows no more."""

TOP_LEVEL = frozenset(
    {
        *(
            ".ci",
            ".github",
            ".gitignore",
            "CHANGELOG.md",
            "CONTRIBUTING.md",
            "LICENSE",
            "README.md",
            "SECURITY.md",
        ),
        *("addons", "deploy", "docs", "examples", "gateway.yaml", "mkdocs.yml", "policies", "pyproject.toml"),
        *("run.sh", "tests"),
    }
)
"""What git tracks at the top, lock files (``requirements*.lock``) aside."""

FORBIDDEN_MODULES = frozenset(
    {
        "aiohttp",
        "asyncio",
        "concurrent",
        "http",
        "httpx",
        "mitmproxy",
        "multiprocessing",
        "random",
        "redis",
        "requests",
        "sched",
        "secrets",
        "select",
        "selectors",
        "signal",
        "socket",
        "socketserver",
        "ssl",
        "subprocess",
        "time",
        "tornado",
        "urllib.request",
        "urllib3",
        "uuid",
    }
)
# The type of a source of randomness that is given as an argument.
ALLOWED_NAMES = frozenset({("random", "Random")})
FORBIDDEN_CALLS = frozenset({"now", "today", "utcnow", "urandom", "getrandbits", "localtime", "Random"})


@cache
def imports(source: str) -> tuple[tuple[int, str, str | None], ...]:
    """(line, module, name) of every import, wherever it stands; the name is None for ``import module``."""
    return tuple(_imports(ast.parse(source)))


def _imports(tree: ast.AST) -> Iterator[tuple[int, str, str | None]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name, None
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports are banned by the linter"
            for alias in node.names:
                yield node.lineno, node.module or "", alias.name


def impurities(source: str) -> list[str]:
    """What in this source the sans-I/O rule forbids."""
    found = []
    for line, module, name in imports(source):
        parents = module.split(".")
        prefixes = {".".join(parents[: count + 1]) for count in range(len(parents))}
        if name is not None:
            prefixes.add(f"{module}.{name}")
        if prefixes & FORBIDDEN_MODULES and (module, name) not in ALLOWED_NAMES:
            found.append(f"line {line}: imports {module}")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            function = node.func
            called = getattr(function, "attr", None) or getattr(function, "id", None)
            if called in FORBIDDEN_CALLS:
                found.append(f"line {node.lineno}: calls {called}()")
            if isinstance(function, ast.Name) and function.id in ("print", "input"):
                found.append(f"line {node.lineno}: calls {function.id}()")
    return found


def inside_of(module: str, name: str | None) -> str | None:
    """The package of ours that an import leads to, None for others."""
    first, _, rest = module.partition(".")
    if first == SIMULATOR:
        return SIMULATOR
    if first != NAME:
        return None
    return rest.partition(".")[0] or name


def outward_imports(source: str, part: str) -> list[str]:
    """Imports in `part` (a package) of one that does not stand before it."""
    allowed = SEEN_BY_SIMULATOR if part == SIMULATOR else RANKED[: RANKED.index(part)]
    found = []
    for line, module, name in imports(source):
        inner = inside_of(module, name)
        if inner is not None and inner != part and inner not in allowed:
            found.append(f"line {line}: {part} imports {inner}")
    return found


def circles(imported: Mapping[str, set[str]]) -> list[list[str]]:
    """Groups of modules each of which leads to each other, or to itself, by imports (Tarjan's algorithm)."""
    numbers: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(module: str) -> None:
        numbers[module] = lowest[module] = len(numbers)
        stack.append(module)
        for other in imported.get(module, ()):
            if other not in numbers:
                visit(other)
                lowest[module] = min(lowest[module], lowest[other])
            elif other in stack:
                lowest[module] = min(lowest[module], numbers[other])
        if lowest[module] == numbers[module]:
            group = stack[stack.index(module) :]
            del stack[-len(group) :]
            if len(group) > 1 or module in imported.get(module, ()):
                found.append(sorted(group))

    for module in imported:
        if module not in numbers:
            visit(module)
    return found


@cache
def imports_of_modules() -> dict[str, set[str]]:
    """By module of ours (with dots): the modules of ours that it imports anywhere, for types too."""
    named = {dotted(path): path for path in modules()}
    found: dict[str, set[str]] = {}
    for own, path in named.items():
        of = found[own] = set()
        for _, module, name in imports(path.read_text()):
            longer = f"{module}.{name}"
            of.update({longer if longer in named else module} & named.keys())
    return found


def dotted(path: Path) -> str:
    return ".".join(path.relative_to(ADDONS).with_suffix("").parts).removesuffix(".__init__")


def modules() -> list[Path]:
    return sorted((*PACKAGE.rglob("*.py"), *(ADDONS / SIMULATOR).rglob("*.py")))


def part_of(path: Path) -> str:
    package, *rest = path.relative_to(ADDONS).with_suffix("").parts
    return package if package == SIMULATOR else rest[0]


def is_core(path: Path) -> bool:
    package, *rest = path.relative_to(ADDONS).with_suffix("").parts
    return rest[0] in (CORE_OF_SIMULATOR if package == SIMULATOR else CORE)


def test_the_top_level_holds_the_layout_alone() -> None:
    if not (CHECKOUT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("this is no checkout")
    tracked = subprocess.run(["git", "ls-files"], cwd=CHECKOUT, capture_output=True, text=True, check=True)
    names = {line.split("/")[0] for line in tracked.stdout.splitlines()}
    assert {name for name in names if not Path(name).match("requirements*.lock")} == TOP_LEVEL


def test_every_package_has_a_rank() -> None:
    folders = {part_of(path) for path in modules()} - {"__init__"}
    assert folders == set(RANKED)


def test_the_core_is_sans_io() -> None:
    found = {dotted(path): impurities(path.read_text()) for path in modules() if is_core(path)}
    assert {"aoai_gateway.wire.errors", "aoai_gateway.tokens.bodies", "aoai_simulator.limits"} <= set(found)
    assert {path: impure for path, impure in found.items() if impure} == {}


def test_imports_go_one_way() -> None:
    found = {
        dotted(path): outward_imports(path.read_text(), part_of(path))
        for path in modules()
        if path != PACKAGE / "__init__.py"
    }
    assert {path: outward for path, outward in found.items() if outward} == {}


def test_there_are_no_circles() -> None:
    imported = imports_of_modules()
    assert "aoai_gateway.wire.gateway_error" in imported["aoai_gateway.engine.engine"]
    assert circles(imported) == []


def test_the_checker_sees_a_circle() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]
    assert circles({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []
    assert circles({"a": {"a", "b"}, "b": set()}) == [["a"]]


@pytest.mark.parametrize(
    "source",
    [
        "import time",
        "import asyncio.queues as q",
        "from time import monotonic",
        "from urllib import request",
        "import urllib.request",
        "import random",
        "from random import choice",
        "from mitmproxy.http import Headers",
        "def f():\n    import socket",
        "if TYPE_CHECKING:\n    from mitmproxy import http",
        "import datetime\ndatetime.datetime.now()",
        "from os import urandom\nurandom(4)",
        "from random import Random\nRandom()",
        "print('x')",
    ],
)
def test_the_checker_sees_an_impurity(source: str) -> None:
    assert impurities(source)


@pytest.mark.parametrize(
    "source",
    [
        "from random import Random",
        "from urllib.parse import quote",
        "import json",
        "from datetime import UTC",
    ],
)
def test_the_checker_lets_pure_imports_pass(source: str) -> None:
    assert impurities(source) == []


@pytest.mark.parametrize(
    ("part", "source"),
    [
        ("wire", "from aoai_gateway.quota.quota import Quota"),
        ("config", "from aoai_gateway import wire"),
        ("routing", "import aoai_gateway.engine.engine"),
        ("engine", "from aoai_gateway.proxy.layer import Layer"),
        ("tokens", "def f():\n    from aoai_gateway.state import memory"),
        ("quota", "from aoai_gateway.routing import order"),
        ("proxy", "from aoai_simulator import server"),
        ("aoai_simulator", "from aoai_gateway.wire import errors"),
    ],
)
def test_the_checker_sees_an_outward_import(part: str, source: str) -> None:
    assert outward_imports(source, part)


@pytest.mark.parametrize(
    ("part", "source"),
    [
        ("quota", "from aoai_gateway.wire.errors import GatewayError"),
        ("routing", "from aoai_gateway.quota import window"),
        ("proxy", "from aoai_gateway.engine.engine import Call"),
        ("app", "from aoai_simulator import server"),
        ("wire", "import aoai_gateway_else"),
    ],
)
def test_the_checker_lets_inward_imports_pass(part: str, source: str) -> None:
    assert outward_imports(source, part) == []
