"""Bodies of messages: small ones are read here, large ones in a process of their own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from aoai_gateway.workbench import bodies, child
from tests.workbench.test_calls import call


@pytest.mark.parametrize("coding", [None, "gzip"])
def test_large_bodies_are_read_elsewhere_and_small_ones_here(
    coding: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[str] = []
    perform = child.perform

    async def noted(function: Callable[..., Any], *arguments: Any) -> Any:
        used.append("elsewhere")
        return await perform(function, *arguments)

    monkeypatch.setattr(child, "perform", noted)
    small, large = call("small"), call("large", size=200_000)
    for flow in (small, large):
        content = flow.request.content
        if coding:
            flow.request.headers["content-encoding"] = coding
            flow.request.content = content
        assert asyncio.run(bodies.read(len, (flow.request,))) == len(content or b"")
    assert used == ["elsewhere"]
