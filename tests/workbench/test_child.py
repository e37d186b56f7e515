"""What is done in a process of its own: results and faults come back, and it has bounds."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aoai_gateway.inspect import snippets
from aoai_gateway.inspect.views.facts import Facts
from aoai_gateway.rerun.case_set import SetError, parse
from aoai_gateway.rerun.expectations import ExpectationError
from aoai_gateway.wire.gateway_error import GatewayError
from aoai_gateway.workbench import child
from aoai_gateway.workbench.case_files import extended
from aoai_gateway.workbench.checks import checked
from aoai_gateway.workbench.child import ChildError
from aoai_gateway.workbench.page_requests import BadRequestError, EditError, NotFoundError
from aoai_gateway.workbench.prompts import asked_for, ready
from aoai_gateway.workbench.shape import part, shapes

CHAT = Facts("chat.completions", status=200, content_type="application/json")
HEAD = snippets.Request("http://a", "POST", "/openai/v1/chat/completions", (), b"")
REQUEST = b'{"messages": [{"role": "user", "content": "Hello"}]}'


def elsewhere(function: Callable[..., Any], *arguments: Any) -> Any:
    return asyncio.run(child.perform(function, *arguments))


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        (shapes, (REQUEST, b"{}", CHAT)),
        (ready, (REQUEST, b'{"messages": {"$kept": "/messages"}}', {})),
        (part, (REQUEST, "/messages/0/content")),
        (checked, (REQUEST, b"{}", [{"contains": "a"}], {}, CHAT)),
        (extended, (b"", b'{"case": {"body": {}}}', "a.yaml")),
        (asked_for, (b'{"places": ["p"], "body": {}}',)),
    ],
)
def test_it_is_the_same_there_as_here(function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    assert elsewhere(function, *arguments) == function(*arguments)


@pytest.mark.parametrize(
    ("function", "arguments", "fault"),
    [
        (ready, (b"", b'{"a": {"$kept": "/a"}}', {}), EditError),
        (part, (REQUEST, "/messages/7"), NotFoundError),
        (asked_for, (b"[",), BadRequestError),
        (checked, (REQUEST, b"", [{"regex": "("}], {}, CHAT), ExpectationError),
        (extended, (b"cases: 1", b"{}", "a.yaml"), SetError),
        (snippets.code, (b"{", "python", HEAD), GatewayError),
        (ready, (b"", b'{"a": ' * 100_000 + b"1" + b"}" * 100_000, {}), BadRequestError),
    ],
)  # fmt: skip
def test_what_it_says_of_its_arguments_is_raised_here(
    function: Callable[..., Any], arguments: tuple[Any, ...], fault: type[Exception]
) -> None:
    with pytest.raises(fault) as there:
        elsewhere(function, *arguments)
    with pytest.raises(fault) as here:
        asyncio.run(child.by_size(0, function, *arguments))
    assert str(here.value) == str(there.value)


def test_a_job_without_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "SECONDS", 1.0)
    answer = b'{"choices": [{"message": {"content": "' + b"a" * 50 + b'!"}}]}'
    began = time.monotonic()
    with pytest.raises(ChildError, match="given up after 1 s"):
        elsewhere(checked, REQUEST, answer, [{"regex": "^(a+)+$"}], {}, CHAT)
    assert time.monotonic() - began < 20


def test_a_job_gets_no_more_memory_than_its_bound() -> None:
    with pytest.raises(ChildError, match="could not be read"):
        elsewhere(bytes, child.MEMORY)


def test_a_bug_in_a_function_is_told_without_its_words() -> None:
    with pytest.raises(ChildError, match="could not be read"):
        elsewhere(len, 5)


def test_a_job_that_has_no_turn_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        monkeypatch.setattr(child, "TURN_SECONDS", 0.05)
        monkeypatch.setattr(child, "_room", asyncio.Semaphore(0))
        with pytest.raises(ChildError, match="too much"):
            await child.perform(len, b"")

    asyncio.run(scenario())


def test_parsing_what_is_no_set_says_where() -> None:
    with pytest.raises(SetError, match=r"a.yaml, line 1"):
        elsewhere(parse, b"cases: [", Path("a.yaml"))
