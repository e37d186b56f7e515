"""Several files as one document."""

from pathlib import Path

from aoai_gateway.config.document import Mapping, find, parse, plain
from aoai_gateway.config.merge import merge


def documents(*texts: str) -> list[Mapping]:
    trees = []
    for number, text in enumerate(texts):
        tree, problems = parse(Path(f"{number}.yaml"), text.encode())
        assert problems == []
        assert isinstance(tree, Mapping)
        trees.append(tree)
    return trees


def test_lists_are_appended_and_mappings_merged_deeply():
    merged, problems = merge(
        documents(
            "clients: [{name: a}]\naoai: {endpoints: [x]}\n",
            "clients: [{name: b}]\naoai: {endpoints: [y], trusted_ca: ca.pem}\n",
            "clients: [{name: c}]\nlisten: {port: 1}\n",
        )
    )
    assert problems == []
    assert plain(merged) == {
        "clients": [{"name": "a"}, {"name": "b"}, {"name": "c"}],
        "aoai": {"endpoints": ["x", "y"], "trusted_ca": "ca.pem"},
        "listen": {"port": "1"},
    }


def test_an_appended_item_keeps_its_file_and_line():
    merged, _ = merge(documents("clients:\n  - name: a\n", "\n\nclients:\n  - name: b\n"))
    _, _, place = find(merged, ("clients", 1, "name"))
    assert str(place) == "1.yaml:4"


def test_conflicts_name_both_places_and_come_all_at_once():
    merged, problems = merge(
        documents("listen:\n  port: 1\nclients: []\n", "clients: none\nlisten:\n  port: 2\n")
    )
    assert [str(problem) for problem in problems] == [
        "1.yaml:1: clients: conflicts with 0.yaml:3; write it in one of the two files",
        "1.yaml:3: listen.port: conflicts with 0.yaml:2; write it in one of the two files",
    ]
    assert plain(merged) == {"listen": {"port": "1"}, "clients": []}


def test_saying_the_same_twice_or_nothing_is_no_conflict():
    merged, problems = merge(documents("a: 1\nb:\nc: [x]\n", "a: 1\nb: {d: 2}\nc:\n"))
    assert problems == []
    assert plain(merged) == {"a": "1", "b": {"d": "2"}, "c": ["x"]}
