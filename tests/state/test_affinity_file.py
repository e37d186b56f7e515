"""Where state lives, in a file: what is kept, how much of it, and what a crash or a bad file does."""

from __future__ import annotations

import asyncio
import logging
import os
import stat
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from aoai_gateway.bounded import digest_of
from aoai_gateway.routing.affinity import LIFETIME, TOLD_SECONDS, Affinity
from aoai_gateway.state import affinity_file
from aoai_gateway.state.affinity_file import HEADER, AffinityFile, AffinityFileError

UNIX_OFFSET = time.time() - 5000.0
"""Unix time of the moment at which the clock of these tests stood at 0."""

NOW = 5000.0


def opened(
    path: Path, unix_offset: float = UNIX_OFFSET, affinity: Affinity | None = None
) -> tuple[Affinity, AffinityFile]:
    affinity = affinity or Affinity()
    file = AffinityFile(path, affinity, lambda: unix_offset)
    file.load()
    return affinity, file


def keep(path: Path, **homes: str) -> None:
    affinity, file = opened(path)
    for name, endpoint in homes.items():
        affinity.remember(name, endpoint, NOW)
    asyncio.run(file.flush())


def size_of(path: Path) -> int:
    return path.stat().st_size


def written_at(path: Path) -> int:
    return path.stat().st_mtime_ns


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "budgets.affinity"


def test_a_restart_keeps_what_was_learned(path: Path) -> None:
    keep(path, resp_1="sweden", resp_2="west europe / 2")
    keep(path, resp_3="france", resp_1="france")
    affinity, _ = opened(path, UNIX_OFFSET + 3000)  # the machine was started anew: its clock began again
    homes = [affinity.home(f"resp_{number}", 2000.0) for number in (1, 2, 3, 4)]
    assert homes == ["france", "west europe / 2", "france", None]


def test_only_the_owner_may_read_it_and_it_names_nothing_of_clients(path: Path) -> None:
    keep(path, resp_secret="sweden")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert b"resp" not in path.read_bytes()
    assert os.listdir(path.parent) == [path.name]


def test_what_azure_keeps_no_more_is_forgotten(path: Path) -> None:
    keep(path, old="sweden")
    path.write_bytes(
        path.read_bytes().replace(b" %d " % round(UNIX_OFFSET + NOW), b" %d " % (UNIX_OFFSET - LIFETIME))
    )
    affinity, _ = opened(path)
    assert len(affinity) == 0


@pytest.mark.parametrize("torn", [b"0123", b"00" * 16, b"00" * 16 + b" 17", b"00" * 16 + b" 1700000000 sw"])
def test_a_line_that_a_crash_cut_off_costs_itself_only(path: Path, torn: bytes) -> None:
    keep(path, resp_1="sweden")
    with path.open("ab") as file:
        file.write(torn)
    keep(path, resp_2="france")
    affinity, _ = opened(path)
    assert len(affinity) == 2
    assert affinity.home("resp_2", NOW) == "france"


@pytest.mark.parametrize(
    "line",
    [
        b"\xff\xfe\n",
        b"\n",
        b"xx 1700000000 sweden\n",
        b"00 1700000000 sweden\n",
        b"0" * 32 + b" 17e9 sweden\n",
        b"0" * 32 + b" 1700000000 \n",
        b"0" * 32 + b" 1700000000 sweden france\n",
        b"0" * 32 + b" " + b"9" * 5000 + b" sweden\n",
        b"0" * 100_000 + b"\n",
        b"0" * 32 + b" 9999999999 %ff\n",
    ],
)
def test_a_line_that_is_none_is_passed_over(path: Path, line: bytes) -> None:
    keep(path, resp_1="sweden")
    with path.open("ab") as file:
        file.write(line)
    keep(path, resp_2="france")
    affinity, _ = opened(path)
    assert len(affinity) == 2


@pytest.mark.parametrize("content", [b"", HEADER[:5], HEADER])
def test_a_file_that_has_hardly_begun_is_used(path: Path, content: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    keep(path, resp_1="sweden")
    affinity, _ = opened(path)
    assert affinity.home("resp_1", NOW) == "sweden"


def test_another_file_is_left_alone(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b'{"budgets": []}\n')
    with pytest.raises(AffinityFileError, match="name another one, or remove it"):
        opened(path)
    assert path.read_bytes() == b'{"budgets": []}\n'


def test_a_folder_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(AffinityFileError, match="cannot read"):
        opened(tmp_path)


def test_it_is_bounded_in_bytes_and_keeps_the_newest(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(affinity_file, "LARGEST_FILE", 10_000)
    monkeypatch.setattr(affinity_file, "ALWAYS_APPENDED", 100)
    monkeypatch.setattr(affinity_file, "PORTION", 10)
    affinity, file = opened(path, affinity=Affinity(capacity=500))

    async def story() -> None:
        for number in range(600):
            affinity.remember(f"resp_{number}", "sweden", NOW)
            await file.flush()
            assert size_of(path) <= 10_100

    asyncio.run(story())
    again, _ = opened(path)
    assert 50 < len(again) <= 200
    assert again.home("resp_599", NOW) == "sweden"
    assert again.home("resp_590", NOW) == "sweden"


def test_it_does_not_grow_with_what_is_told_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(affinity_file, "ALWAYS_APPENDED", 1000)
    affinity, file = opened(path)

    async def story() -> None:
        for turn in range(60):
            affinity.remember("resp_1", "sweden", NOW + turn * TOLD_SECONDS)
            await file.flush()

    asyncio.run(story())
    assert path.stat().st_size <= 1100


def test_a_file_is_made_shorter_from_itself_alone(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No copy of the memory is made meanwhile, which would hold calls up."""
    monkeypatch.setattr(affinity_file, "ALWAYS_APPENDED", 100)
    keep(path, **{f"resp_{number}": "sweden" for number in range(20)})
    affinity, file = opened(path)
    affinity.snapshot = lambda: pytest.fail("copied")  # type: ignore[method-assign]  # a trap

    async def story() -> None:
        for turn in range(1, 50):
            affinity.remember("resp_7", "france", NOW + turn * TOLD_SECONDS)
            await file.flush()

    asyncio.run(story())
    again, _ = opened(path)
    assert len(again) == 20
    assert again.home("resp_7", NOW) == "france"
    assert len(path.read_bytes().splitlines()) < 50


def test_nothing_is_written_when_nothing_is_new(path: Path) -> None:
    affinity, file = opened(path)

    async def story() -> None:
        affinity.remember("resp_1", "sweden", NOW)
        await file.flush()
        before = written_at(path)
        affinity.remember("resp_1", "sweden", NOW + 60)
        await file.flush()
        assert written_at(path) == before

    asyncio.run(story())


def test_it_is_written_in_a_thread(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writers = set()
    fsync = os.fsync

    def note(number: int) -> None:
        writers.add(threading.current_thread())
        fsync(number)

    monkeypatch.setattr(os, "fsync", note)
    keep(path, resp_1="sweden")
    keep(path, resp_2="sweden")
    assert writers
    assert threading.main_thread() not in writers


def failing(path: Path, story: Callable[[Affinity, AffinityFile], Awaitable[None]]) -> None:
    affinity, file = opened(path)
    asyncio.run(story(affinity, file))  # type: ignore[arg-type]  # it is a coroutine


def test_a_failing_disk_is_logged_once_and_tried_again(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def story(affinity: Affinity, file: AffinityFile) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError("disk gone")))
            for name in ("resp_1", "resp_2"):
                affinity.remember(name, "sweden", NOW)
                await file.flush()
        await file.flush()

    with caplog.at_level(logging.INFO):
        failing(path, story)
    assert [record.levelname for record in caplog.records] == ["ERROR", "INFO"]
    affinity, _ = opened(path)
    assert affinity.home("resp_1", NOW) == affinity.home("resp_2", NOW) == "sweden"


def test_a_file_that_was_removed_is_written_anew(path: Path) -> None:
    async def story(affinity: Affinity, file: AffinityFile) -> None:
        affinity.remember("resp_1", "sweden", NOW)
        await file.flush()
        os.remove(path)
        affinity.remember("resp_2", "sweden", NOW)
        await file.flush()
        await file.flush()

    failing(path, story)
    affinity, _ = opened(path)
    assert affinity.home("resp_1", NOW) == affinity.home("resp_2", NOW) == "sweden"


def test_a_file_that_was_removed_before_it_is_made_shorter_is_written_anew(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story(affinity: Affinity, file: AffinityFile) -> None:
        affinity.remember("resp_1", "sweden", NOW)
        await file.flush()
        os.remove(path)
        monkeypatch.setattr(affinity_file, "ALWAYS_APPENDED", 0)
        file._compact_size = 0  # so that it is due to be made shorter
        affinity.remember("resp_2", "sweden", NOW)
        await file.flush()
        await file.flush()

    failing(path, story)
    affinity, _ = opened(path)
    assert affinity.home("resp_1", NOW) == affinity.home("resp_2", NOW) == "sweden"


def test_what_a_cancelled_flush_could_not_write_is_written_by_the_next(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, goes_on = threading.Event(), threading.Event()

    def fail(_: int) -> None:
        begun.set()
        goes_on.wait(60)
        raise OSError("disk gone")

    async def story(affinity: Affinity, file: AffinityFile) -> None:
        affinity.remember("resp_1", "sweden", NOW)
        await file.flush()
        affinity.remember("resp_2", "sweden", NOW)
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", fail)
            first = asyncio.create_task(file.flush())
            await asyncio.to_thread(begun.wait, 10)
            first.cancel()
            await asyncio.wait({first})
            assert first.cancelled()
            os.truncate(path, len(HEADER))  # nothing of it has reached the disk
            goes_on.set()
            assert file._writing is not None
            await asyncio.wait({file._writing})
        await file.flush()

    failing(path, story)
    affinity, _ = opened(path)
    assert affinity.home("resp_2", NOW) == "sweden"


def test_a_last_flush_follows_a_cancelled_run(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(affinity_file, "INTERVAL", 0.001)

    async def story(affinity: Affinity, file: AffinityFile) -> None:
        task = asyncio.create_task(file.run())
        for number in range(20):
            affinity.remember(f"resp_{number}", "sweden", NOW)
            await asyncio.sleep(0.002)
        affinity.remember("resp_20", "sweden", NOW)
        task.cancel()
        await asyncio.wait({task})
        await file.flush()

    failing(path, story)
    affinity, _ = opened(path)
    assert len(affinity) == 21


def test_later_news_is_not_undone_by_what_a_file_says(path: Path) -> None:
    keep(path, resp_1="sweden")
    affinity = Affinity()
    affinity.remember("resp_1", "france", NOW + 100)
    opened(path, affinity=affinity)
    assert affinity.home("resp_1", NOW) == "france"
    digest = digest_of("resp_1")
    assert digest is not None
    assert affinity.take_in((digest, "sweden", NOW + 50)) is False
