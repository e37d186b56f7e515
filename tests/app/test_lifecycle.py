"""The watcher of the configuration goes on after each exception."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from mitmproxy.test import taddons

from aoai_gateway.app import lifecycle as lifecycles
from aoai_gateway.app.lifecycle import Lifecycle
from aoai_gateway.config.loader import Loaded, load
from aoai_gateway.config.models import Log
from aoai_gateway.runtime.gateway import Gateway

FILE = """\
clients: [{name: Team, key: a-key-of-a-team}]
aoai: {endpoints: [{name: one, url: 'https://one.example', key: k}]}
drain_seconds: SECONDS
"""


@pytest.mark.parametrize("broken", ["_say_ready", "_close_silent", "_pool_watch", "state_sync"])
def test_what_one_look_raises_ends_neither_the_watcher_nor_the_reload(
    broken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text(FILE.replace("SECONDS", "30"))
    monkeypatch.setattr(lifecycles, "POLL_SECONDS", 0.001)

    async def story() -> int:
        lifecycle = Lifecycle(Gateway())
        lifecycle._path, lifecycle._loaded = path, load(path, env={})
        taken: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        raised = 0

        def bug(*_: object) -> None:
            nonlocal raised
            raised += 1
            # A store's bug ends one look; the next one comes to the file.
            if broken != "state_sync" or raised == 1:
                raise RuntimeError("a bug")

        async def slow_bug() -> None:
            bug()

        async def adopt(found: Loaded) -> None:
            taken.set_result(int(found.config.drain_seconds))

        part: Any = (
            lifecycle if broken.startswith("_") and broken != "_pool_watch" else getattr(lifecycle, broken)
        )
        name = {"_pool_watch": "look", "state_sync": "look"}.get(broken, broken)
        monkeypatch.setattr(part, name, slow_bug if broken == "state_sync" else bug)
        monkeypatch.setattr(lifecycle, "_adopt", adopt)
        with taddons.context():
            watching = asyncio.create_task(lifecycle._watch())
            path.write_text(FILE.replace("SECONDS", "77"))
            try:
                return await asyncio.wait_for(taken, 60)
            finally:
                watching.cancel()

    assert asyncio.run(story()) == 77
    assert "RuntimeError" in caplog.text


def test_a_saved_log_format_is_written_in_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text(FILE.replace("SECONDS", "30"))
    monkeypatch.setattr(lifecycles, "POLL_SECONDS", 0.001)

    async def story() -> Log:
        lifecycle = Lifecycle(Gateway())
        lifecycle.loaded(path, load(path, env={}))
        written: asyncio.Future[Log] = asyncio.get_running_loop().create_future()
        lifecycle.write_log = written.set_result
        with taddons.context():
            watching = asyncio.create_task(lifecycle._watch())
            path.write_text(FILE.replace("SECONDS", "30") + "log: {format: json, level: debug}\n")
            try:
                return await asyncio.wait_for(written, 60)
            finally:
                watching.cancel()

    assert asyncio.run(story()) == Log(format="json", level="debug")
