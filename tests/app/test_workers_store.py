"""The workers' own store: its end, and what keeps it from starting, ends nothing else."""

from __future__ import annotations

import asyncio
import errno
import json
import subprocess
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import redis

from aoai_gateway.app import workers_store
from aoai_gateway.app.processes import LONGEST_PAUSE
from aoai_gateway.app.workers_store import NoStoreError, WorkersStore
from aoai_gateway.config.models import Config
from aoai_gateway.quota.quotas import Quota, Reservation
from aoai_gateway.runtime.gateway import Gateway
from aoai_gateway.runtime.state_sync import StateSync
from tests.engine_driver import config
from tests.redis_server import require_redis


def with_file(path: Path) -> Config:
    return config("a").model_copy(update={"budget_file": path})


@pytest.fixture
def store(tmp_path: Path) -> Iterator[WorkersStore]:
    require_redis()
    made = WorkersStore(tmp_path, with_file(tmp_path / "budgets.json"))
    yield made
    made.stop()


def write_budget(folder: Path, tokens: int) -> None:
    day = datetime.now(UTC).date().isoformat()
    budget = {"client": "team", "deployment": None, "day": day, "tokens": tokens}
    (folder / "budgets.json").write_text(json.dumps({"version": 1, "budgets": [budget]}))


def spent(store: WorkersStore) -> int:
    with redis.Redis.from_url(store.url) as client:
        (key,) = client.keys("*:budgets")
        return sum(map(int, client.hvals(key)))


def kill(store: WorkersStore) -> None:
    process: Any = store._process
    process.kill()
    process.wait()


NO_PROCESS = [
    OSError(errno.EAGAIN, "Resource temporarily unavailable"),
    subprocess.SubprocessError("preexec"),
]


@pytest.mark.parametrize("error", NO_PROCESS, ids=lambda error: type(error).__name__)
def test_a_store_that_cannot_be_started_just_now_is_tried_again(
    store: WorkersStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    write_budget(tmp_path, 300)
    store.start()
    tried: list[int] = []

    def none_left(*_: object, **__: object) -> None:
        tried.append(1)
        raise error

    now = time.monotonic()
    with monkeypatch.context() as machine:
        machine.setattr(workers_store.subprocess, "Popen", none_left)
        kill(store)
        store.look(now)  # notices it
        # From the first to the longest pause: each try comes later than the one before, and none ends it.
        for _ in range(100):
            now += 1
            store.look(now)
    assert 5 < len(tried) < 30
    for _ in range(int(LONGEST_PAUSE) + 1):
        now += 1
        store.look(now)
    assert spent(store) == 300


def test_a_machine_without_room_for_the_store_fails_its_start_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_redis()
    made = WorkersStore(tmp_path, config("a"))
    monkeypatch.setattr(
        workers_store.subprocess, "Popen", lambda *_, **__: (_ for _ in ()).throw(NO_PROCESS[0])
    )
    with pytest.raises(NoStoreError, match="could not be started: Resource temporarily unavailable"):
        made.start()


def test_a_store_that_does_not_come_up_is_not_left_running(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers_store, "program", lambda: "/bin/sleep")
    made = WorkersStore(tmp_path, config("a"))
    made._command = ["/bin/sleep", "60"]
    with pytest.raises(NoStoreError, match="did not start"):
        made.start(0.05)
    assert made._process is not None
    assert made._process.poll() is not None


def test_a_store_without_its_budgets_does_not_run(
    store: WorkersStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_budget(tmp_path, 300)
    store.start()
    kill(store)
    store.look(time.monotonic())
    with monkeypatch.context() as machine:
        machine.setattr("aoai_gateway.app.workers_store.put_budgets", _refused)
        store.look(time.monotonic() + 1)
        assert store._ended() is not None
    # What keeps the file may have met the empty store meanwhile, and written down that nothing was spent.
    write_budget(tmp_path, 0)
    store.look(time.monotonic() + 60)
    assert spent(store) == 300


def _refused(*_: object) -> None:
    raise redis.exceptions.ConnectionError("refused")


@pytest.mark.parametrize("broken", [b"{", b"[" * 100_000, b'{"version": 1, "budgets": [{"tokens": -1}]}'])
def test_a_broken_budget_file_stops_a_start_and_not_a_restart(
    store: WorkersStore, tmp_path: Path, broken: bytes
) -> None:
    write_budget(tmp_path, 10)
    store.start()
    (tmp_path / "budgets.json").write_bytes(broken)
    kill(store)
    now = time.monotonic()
    for _ in range(30):
        now += 1
        store.look(now)
    assert store._ended() is not None
    with pytest.raises(NoStoreError, match="repair the file"):
        store.start()
    write_budget(tmp_path, 11)
    store.look(now + LONGEST_PAUSE + 1)
    assert spent(store) == 11


def test_workers_that_read_another_prefix_find_the_same_budgets(store: WorkersStore, tmp_path: Path) -> None:
    write_budget(tmp_path, 300)
    store.start()
    reservation = Reservation("call", "team", (Quota(None, tokens_per_day=1000),), tokens=1)

    async def left() -> int:
        gateway = Gateway()
        sync = StateSync(gateway)
        assert await sync.open(config("a").model_copy(update={"state_prefix": "another"}), store.url)
        try:
            return (await gateway.state.peek(reservation, time.time())).standings[0].remaining
        finally:
            await sync.close()

    assert asyncio.run(left()) == 700
