"""What docs/concepts/architecture.md names is where it says."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from aoai_gateway.proxy.stream import STEPS, State
from tests.docs.pages import first_cells, page, rows
from tests.e2e.processes import CHECKOUT
from tests.test_architecture import CORE, RANKED

PAGE = page("docs/concepts/architecture.md")
ADDONS = CHECKOUT / "addons"
FILES = sorted(set(re.findall(r"`([\w/]+/(?:\w+\.\w+)?)`", PAGE.text)))
NAMES = sorted(set(re.findall(r"`([\w.]+)` \(`([\w/]+\.py)`\)", PAGE.text)))


def found(path: str) -> Path:
    """Return the file or folder that the page means: of the gateway, beside it, or of the tests."""
    roots = (ADDONS / "aoai_gateway", ADDONS, CHECKOUT)
    there = [root / path for root in roots if (root / path).exists()]
    assert there, f"{PAGE.name} names {path}"
    return there[0]


def defined(path: Path) -> set[str]:
    """Return the names that a module defines: classes, functions, types, constants, Class.method."""
    names: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            names.add(node.name)
            names |= {
                f"{node.name}.{each.name}" for each in ast.walk(node) if isinstance(each, ast.FunctionDef)
            }
        elif isinstance(node, ast.TypeAlias):
            names.add(node.name.id)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return names


def test_the_page_names_files() -> None:
    assert len(FILES) > 40
    assert len(NAMES) > 10


@pytest.mark.parametrize("path", FILES)
def test_every_file_that_is_named_exists(path: str) -> None:
    found(path)


@pytest.mark.parametrize(("name", "path"), NAMES)
def test_every_name_is_defined_where_the_page_says(name: str, path: str) -> None:
    assert name in defined(found(path))


def test_what_is_to_be_edited_by_name_is_there() -> None:
    for name, path in (
        *((name, "wire/hints.py") for name in ("_WAITS", "_RESETS", "_REMAINING", "_LIMITS")),
        ("FIELDS", "usage/record.py"),
        ("_in_preamble", "proxy/upstream_response.py"),
    ):
        assert f"`{name}`" in PAGE.text
        assert re.search(rf"^ *(?:def )?{name}\b", found(path).read_text(encoding="utf-8"), re.MULTILINE), (
            name
        )


def test_the_packages_are_listed_by_rank() -> None:
    table = PAGE.section("The packages")
    assert tuple(first_cells(table)) == RANKED
    assert {line.split("`")[1] for line in table.splitlines() if "| • |" in line} == set(CORE)


def test_the_states_of_a_stream_are_those_of_its_table_of_steps() -> None:
    told = {
        (state, step)
        for row in rows(PAGE.section("The states of a stream"))
        for state in re.findall(r"`(\w+)`", row[0])
        for step in re.findall(r"`([\w.]+)`", row[-1])
    }
    everywhere = {"client_gone", "fail_closed"}
    known = {(state.name, step) for (state, _), step in STEPS.items()}
    assert told - {(state.name, step) for state in State for step in everywhere} == {
        (state, step) for state, step in known if step not in everywhere
    }
    told_states = {row[0].strip("`") for row in rows(PAGE.section("The states of a stream"))}
    assert told_states == {state.name for state in State}
