"""Sets in a folder: cases are added side by side and none is lost; another version is not overwritten."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from aoai_gateway.rerun.case_set import SetError, read_set
from aoai_gateway.workbench.case_files import CaseFiles
from aoai_gateway.workbench.page_requests import BadRequestError, ConflictError


@pytest.fixture
def files(tmp_path: Path) -> CaseFiles:
    return CaseFiles(lambda: tmp_path / "sets")


def case(name: str) -> bytes:
    body = {"messages": [{"role": "user", "content": f"one\u2028two\n{name}"}]}
    return json.dumps({"case": {"name": name, "body": body, "expect": [{"contains": "a"}]}}).encode()


def whole(cases: int, **more: Any) -> bytes:
    return json.dumps({"set": {"cases": [{"body": {}}] * cases}, **more}).encode()


@pytest.mark.parametrize("name", ["a.yaml", "a.jsonl"])
def test_cases_that_are_saved_at_the_same_time_are_all_there(files: CaseFiles, name: str) -> None:
    names = [f"case {number}" for number in range(6)]

    async def scenario() -> None:
        await asyncio.gather(*(files.append(name, case(each)) for each in names))

    asyncio.run(scenario())
    assert sorted(each.name for each in read_set(files.folder / name).cases) == names


@pytest.mark.parametrize("name", ["a.yaml", "a.jsonl"])
def test_a_case_is_added_to_a_set_that_keeps_all_else(files: CaseFiles, name: str) -> None:
    document = {
        "name": "Support",
        "deployment": "gpt-4o",
        "judge": {"deployment": "mini"},
        "cases": [{"body": {}}],
    }

    async def scenario() -> None:
        await files.write(name, json.dumps({"set": document}).encode())
        await files.append(name, case("new"))

    asyncio.run(scenario())
    found = read_set(files.folder / name)
    assert (found.name, found.deployment, found.judge) == ("Support", "gpt-4o", {"deployment": "mini"})
    assert [each.name for each in found.cases] == ["case 1", "new"]


def test_a_set_that_was_changed_meanwhile_is_not_overwritten(files: CaseFiles) -> None:
    async def scenario() -> None:
        first = await files.write("a.yaml", whole(1))
        assert (await files.read("a.yaml"))[1] == first
        second = await files.append("a.yaml", case("of another page"))
        with pytest.raises(ConflictError, match="changed meanwhile"):
            await files.write("a.yaml", whole(2, version=first))
        assert len(read_set(files.folder / "a.yaml").cases) == 2
        await files.write("a.yaml", whole(3, version=second))

    asyncio.run(scenario())
    assert len(read_set(files.folder / "a.yaml").cases) == 3


@pytest.mark.parametrize(
    ("asked", "fault"),
    [
        (b"{", BadRequestError),
        (b"[]", BadRequestError),
        (b"{}", BadRequestError),
        (b'{"case": 7, "set": 7}', BadRequestError),
        (b'{"case": {"body": 7}, "set": {"cases": [7]}}', SetError),
        (b'{"case": {"body": {"a": 1e999}}, "set": {"cases": [{"body": {"a": 1e999}}]}}', SetError),
        (b'{"set": {"cases": []}, "case": {"body": {}}, "version": 7}', BadRequestError),
    ],
)
def test_what_is_no_set_changes_nothing(files: CaseFiles, asked: bytes, fault: type[Exception]) -> None:
    async def scenario() -> None:
        before = (await files.append("a.yaml", case("there")), (await files.read("a.yaml"))[0])
        with pytest.raises(fault):
            await files.write("a.yaml", asked)
        if b"version" not in asked:
            with pytest.raises(fault):
                await files.append("a.yaml", asked)
        found, version = await files.read("a.yaml")
        assert (version, found) == before

    asyncio.run(scenario())
