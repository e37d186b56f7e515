"""The two rules that keep the package easy to change, checked on its source.

1. The core is sans-I/O: it imports nothing that reads a clock, draws a random number, opens a socket or
   belongs to mitmproxy. Time and randomness are its arguments.
2. Imports go one way: config, wire, tokens, policy and routing, engine, and then everything that does I/O.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "addons" / "aoai_gateway"
NAME = "aoai_gateway"

# What is imported comes before what imports it; the same number may import each other.
RANKS = {
    "bounded": 0,
    "config": 0,
    "wire": 1,
    "tokens": 2,
    "policy": 3,
    "routing": 3,
    "aftermath": 4,
    "attempts": 4,
    "budgeting": 4,
    "call": 4,
    "deadlines": 4,
    "dispatch": 4,
    "effects": 4,
    "engine": 4,
    "failures": 4,
    "wishes": 4,
}
OUTSIDE = 5

CORE = (
    "bounded",
    "wire",
    "tokens",
    "routing",
    "policy",
    "aftermath",
    "attempts",
    "budgeting",
    "call",
    "deadlines",
    "dispatch",
    "effects",
    "engine",
    "failures",
    "wishes",
    "simulator/limits",
)

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


def imports(tree: ast.AST) -> Iterator[tuple[int, str, str | None]]:
    """(line, module, name) of every import, wherever it stands; the name is None for ``import module``."""
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
    tree = ast.parse(source)
    found = []
    for line, module, name in imports(tree):
        parents = module.split(".")
        prefixes = {".".join(parents[: count + 1]) for count in range(len(parents))}
        if name is not None:
            prefixes.add(f"{module}.{name}")
        if prefixes & FORBIDDEN_MODULES and (module, name) not in ALLOWED_NAMES:
            found.append(f"line {line}: imports {module}")
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            function = node.func
            called = getattr(function, "attr", None) or getattr(function, "id", None)
            if called in FORBIDDEN_CALLS:
                found.append(f"line {node.lineno}: calls {called}()")
            if isinstance(function, ast.Name) and function.id in ("print", "input"):
                found.append(f"line {node.lineno}: calls {function.id}()")
    return found


def rank(part: str) -> int:
    return RANKS.get(part, OUTSIDE)


def outward_imports(source: str, part: str) -> list[str]:
    """Imports in ``part`` (the package's first level) of what is further out than itself."""
    found = []
    for line, module, name in imports(ast.parse(source)):
        if module != NAME and not module.startswith(NAME + "."):
            continue
        inner = module.removeprefix(NAME).lstrip(".").partition(".")[0] or (name or "")
        if rank(inner) > rank(part):
            found.append(f"line {line}: {part} imports {inner}")
    return found


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def part_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def is_core(path: Path) -> bool:
    relative = path.relative_to(PACKAGE).with_suffix("").as_posix()
    return any(relative == part or relative.startswith(part + "/") for part in CORE)


def test_there_is_something_to_check() -> None:
    assert PACKAGE / "wire" / "errors.py" in modules()
    assert PACKAGE / "simulator" / "limits.py" in modules()
    assert is_core(PACKAGE / "wire" / "errors.py")
    assert is_core(PACKAGE / "tokens.py")
    assert is_core(PACKAGE / "simulator" / "limits.py")
    assert not is_core(PACKAGE / "proxy" / "layer.py")


def test_the_core_is_sans_io() -> None:
    found = {
        str(path.relative_to(PACKAGE)): impurities(path.read_text()) for path in modules() if is_core(path)
    }
    assert {path: what for path, what in found.items() if what} == {}


def test_imports_go_one_way() -> None:
    found = {
        str(path.relative_to(PACKAGE)): outward_imports(path.read_text(), part_of(path)) for path in modules()
    }
    assert {path: what for path, what in found.items() if what} == {}


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
        ("wire", "from aoai_gateway.policy.quota import Quota"),
        ("config", "from aoai_gateway import wire"),
        ("routing", "import aoai_gateway.engine"),
        ("engine", "from aoai_gateway.proxy.layer import Layer"),
        ("tokens", "def f():\n    from aoai_gateway.state import memory"),
    ],
)
def test_the_checker_sees_an_outward_import(part: str, source: str) -> None:
    assert outward_imports(source, part)


@pytest.mark.parametrize(
    ("part", "source"),
    [
        ("policy", "from aoai_gateway.wire.errors import GatewayError"),
        ("policy", "from aoai_gateway.routing import order"),
        ("proxy", "from aoai_gateway.engine import Call"),
        ("cli", "from aoai_gateway.simulator import server"),
        ("wire", "import aoai_gateway_else"),
    ],
)
def test_the_checker_lets_inward_imports_pass(part: str, source: str) -> None:
    assert outward_imports(source, part) == []
