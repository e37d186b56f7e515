"""Files: which are read, in which order, and what is said when one cannot be."""

from pathlib import Path

import pytest

from aoai_gateway.config.document import Mapping, find, parse, plain
from aoai_gateway.config.loader import ConfigErrors, load, merge, read
from aoai_gateway.config.reload import Watch

MAIN = "aoai: {endpoints: [{name: one, url: 'https://one.example', key: k}]}\n"


def client(name: str) -> str:
    return f"clients:\n  - name: {name}\n    key: key-of-the-client-{name}\n"


def write(folder: Path, **files: str) -> Path:
    (folder / "policies").mkdir(parents=True, exist_ok=True)
    (folder / "gateway.yaml").write_text(files.pop("main", MAIN))
    for name, text in files.items():
        (folder / "policies" / f"{name}.yaml").write_text(text)
    return folder / "gateway.yaml"


def names(path: Path) -> list[str]:
    return [each.name for each in load(path, env={}).config.clients]


def test_policies_are_read_in_the_order_of_their_names(tmp_path: Path):
    path = write(tmp_path, main=MAIN + client("main"), b=client("b"), a=client("a"), c=client("c"))
    loaded = load(path, env={})
    assert [each.name for each in loaded.config.clients] == ["main", "a", "b", "c"]
    assert loaded.files == (path, *(tmp_path / "policies" / f"{name}.yaml" for name in "abc"))


def test_a_single_file_will_do(tmp_path: Path):
    path = tmp_path / "powerproxy.yaml"
    path.write_text(MAIN + client("a"))
    assert names(path) == ["a"]


def test_hidden_and_other_files_are_not_read_and_yml_is_warned_of(tmp_path: Path):
    path = write(tmp_path, a=client("a"))
    (tmp_path / "policies" / ".#a.yaml").write_text(client("editor"))
    (tmp_path / "policies" / "README.md").write_text("text")
    (tmp_path / "policies" / "b.yml").write_text(client("b"))
    assert names(path) == ["a"]
    assert [str(each) for each in load(path, env={}).warnings] == [
        f"{tmp_path}/policies/b.yml:1: is not read; only *.yaml files are: rename it"
    ]


def test_a_link_to_the_main_file_finds_the_policies_beside_its_target(tmp_path: Path):
    write(tmp_path / "real", a=client("a"))
    link = tmp_path / "gateway.yaml"
    link.symlink_to(tmp_path / "real" / "gateway.yaml")
    assert names(link) == ["a"]


def test_policies_beside_a_link_come_before_those_beside_its_target(tmp_path: Path):
    write(tmp_path / "real", a=client("a"))
    write(tmp_path / "mine", b=client("b"))
    (tmp_path / "mine" / "gateway.yaml").unlink()
    (tmp_path / "mine" / "gateway.yaml").symlink_to(tmp_path / "real" / "gateway.yaml")
    assert names(tmp_path / "mine" / "gateway.yaml") == ["b"]


def test_a_config_map_is_read_through_its_links(tmp_path: Path):
    volume = tmp_path / "policies"
    write(tmp_path)
    (volume / "..2024").mkdir()
    (volume / "..2024" / "clients.yaml").write_text(client("a"))
    (volume / "..data").symlink_to("..2024")
    (volume / "clients.yaml").symlink_to("..data/clients.yaml")
    assert names(tmp_path / "gateway.yaml") == ["a"]


def test_every_file_that_cannot_be_read_is_named(tmp_path: Path):
    path = write(tmp_path)
    path.unlink()
    (tmp_path / "policies" / "folder.yaml").mkdir()
    (tmp_path / "policies" / "gone.yaml").symlink_to("nowhere")
    with pytest.raises(ConfigErrors) as caught:
        load(path, env={})
    assert str(caught.value).splitlines() == [
        f"{path}:1: cannot be read: no such file or directory",
        f"{tmp_path}/policies/folder.yaml:1: cannot be read: it is a folder, not a file",
        f"{tmp_path}/policies/gone.yaml:1: cannot be read: no such file or directory",
    ]


def test_links_that_go_round_in_circles(tmp_path: Path):
    path = tmp_path / "gateway.yaml"
    path.symlink_to("gateway.yaml")
    with pytest.raises(ConfigErrors, match="too many levels of symbolic links"):
        load(path, env={})


def test_a_folder_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = write(tmp_path, main=MAIN + client("main"), a=client("a"))

    def refuse(_folder: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refuse)  # tests may run as root, whom no mode keeps out
    with pytest.raises(ConfigErrors) as caught:
        load(path, env={})
    assert str(caught.value) == f"{tmp_path}/policies:1: cannot be read: permission denied"
    watch = Watch(path, env={})
    assert [str(outcome) for _ in range(3) if (outcome := watch.poll())] == [str(caught.value)]


def test_files_that_are_not_yaml_are_all_named_and_nothing_is_said_of_the_hole(tmp_path: Path):
    path = write(tmp_path, main="a: b: c", a="- x", b="d: e: f", c=client("c"))
    with pytest.raises(ConfigErrors) as caught:
        load(path, env={})
    assert [(problem.file.name, problem.line) for problem in caught.value.problems] == [
        ("gateway.yaml", 1),
        ("a.yaml", 1),
        ("b.yaml", 1),
    ]


def test_the_fingerprint_stands_for_the_content(tmp_path: Path):
    path = write(tmp_path, a=client("a"))
    first = load(path, env={})
    path.write_text(path.read_text())
    assert load(path, env={}).fingerprint == first.fingerprint
    (tmp_path / "policies" / "a.yaml").write_text(client("b"))
    assert load(path, env={}).fingerprint != first.fingerprint


def test_errors_have_a_fingerprint_too(tmp_path: Path):
    path = write(tmp_path, main="a: 1")
    with pytest.raises(ConfigErrors) as caught:
        load(path, env={})
    assert len(caught.value.fingerprint) == 64


def test_paths_in_the_file_count_from_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "ca.pem").write_text("x")
    path = tmp_path / "conf" / "gateway.yaml"
    path.write_text(MAIN.replace("}]}", "}], trusted_ca: ca.pem}") + client("a"))
    monkeypatch.chdir(tmp_path)
    config = load(Path("conf/gateway.yaml"), env={}).config
    assert config.aoai.trusted_ca == tmp_path / "conf" / "ca.pem"


def test_a_place_for_anchors(tmp_path: Path):
    extra = "x-common: &common {deployments_allowed: big}\n"
    path = write(
        tmp_path,
        main=extra + MAIN + "clients: [{<<: *common, name: a, key: k}]\n",
        a=extra + "clients: [{<<: *common, name: b, key: l}]\n",
    )
    assert [each.deployments_allowed for each in load(path, env={}).config.clients] == [("big",), ("big",)]


def test_what_is_compiled_is_what_was_read(tmp_path: Path):
    path = write(tmp_path, a=client("a"))
    assert [(source.file.name, source.content) for source in read(path)] == [
        ("gateway.yaml", MAIN.encode()),
        ("a.yaml", client("a").encode()),
    ]


def test_an_error_carries_no_input_in_its_chain(tmp_path: Path):
    path = write(tmp_path, main=MAIN.replace("key: k", "key: 'two s3cr3ts'"), a=client("a"))
    with pytest.raises(ConfigErrors) as caught:
        load(path, env={})
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


# Several files as one document.


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
