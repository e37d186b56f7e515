"""``${ENV_VAR}`` in values."""

from pathlib import Path

import pytest

from aoai_gateway.config.document import Scalar, find, parse, plain
from aoai_gateway.config.env import resolve

ENV = {"KEY": "k3y", "EMPTY": "", "TRICKY": "${KEY}: [a, b] # c", "PORT": "9000"}


def resolved(text: str) -> tuple[object, list[str]]:
    tree, problems = parse(Path("gateway.yaml"), text.encode())
    assert tree is not None
    assert problems == []
    tree, problems = resolve(tree, ENV)
    return plain(tree), [str(problem) for problem in problems]


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("${KEY}", "k3y"),
        ("Bearer ${KEY}", "Bearer k3y"),
        ("${KEY}${PORT}", "k3y9000"),
        ("${NOT_SET:-fallback}", "fallback"),
        ("${EMPTY:-fallback}", "fallback"),
        ("${NOT_SET:-}", ""),
        ("${KEY:-fallback}", "k3y"),
        ("${EMPTY}", ""),
        ("$${KEY}", "${KEY}"),
        ("$KEY", "$KEY"),
        ("costs 5$", "costs 5$"),
        ("(?!x-)$", "(?!x-)$"),
    ],
)
def test_values(written: str, value: str):
    assert resolved(f"a: '{written}'") == ({"a": value}, [])


def test_what_a_variable_holds_is_a_value_and_nothing_else():
    assert resolved("a: ${TRICKY}") == ({"a": "${KEY}: [a, b] # c"}, [])


def test_in_lists_and_deep_down_but_not_in_keys():
    assert resolved("${KEY}:\n  - ${KEY}\n  - b: ${PORT}\n") == ({"${KEY}": ["k3y", {"b": "9000"}]}, [])


def test_every_unset_variable_is_named_where_it_stands():
    _, problems = resolved("a: ${ONE}\nb:\n  - ok\n  - ${TWO}-${THREE}\n")
    assert problems == [
        "gateway.yaml:1: a: the environment variable ONE is not set; set it, or write ${ONE:-default}",
        "gateway.yaml:4: b[1]: the environment variable TWO is not set; set it, or write ${TWO:-default}",
        "gateway.yaml:4: b[1]: the environment variable THREE is not set; set it, or write ${THREE:-default}",
    ]


@pytest.mark.parametrize("written", ["${}", "${1A}", "${A B}", "${KEY", "${KEY:=x}"])
def test_other_shell_forms_are_problems(written: str):
    _, problems = resolved(f"a: '{written}'")
    assert problems == [
        "gateway.yaml:1: a: holds a ${ that is not ${NAME} or ${NAME:-default}; "
        "write $${ to mean the two characters"
    ]


def test_a_resolved_value_remembers_how_it_was_written():
    tree, _ = parse(Path("gateway.yaml"), b"a: ${KEY}")
    assert tree is not None
    _, node, _ = find(resolve(tree, ENV)[0], ("a",))
    assert isinstance(node, Scalar)
    assert (node.text, node.written, node.unresolved) == ("k3y", "${KEY}", False)
