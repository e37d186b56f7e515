"""Calendar budgets in a file: what is written, when, and what a crash or a bad file does."""

import asyncio
import collections
import json
import logging
import os
import threading

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from aoai_gateway.quota.calendar import Period
from aoai_gateway.quota.counters import Counters
from aoai_gateway.quota.quotas import Quota, Reservation
from aoai_gateway.state import budget_file as budget_file
from aoai_gateway.state.budget_file import BudgetFile, BudgetFileError, decode, encode

NOW = 1_772_323_150.0  # 28 February 2026, 23:59:10 UTC
QUOTA = Quota("gpt-4o", None, None, 1000, 20_000)

GOOD = {"client": "team", "deployment": None, "day": "2026-02-28", "tokens": 5}


def spent(counters: Counters, now: float = NOW) -> list[int]:
    decision = counters.peek(Reservation("look", "team", (QUOTA,), 0), now)
    return [standing.limit - standing.remaining for standing in decision.standings]


def settle(counters: Counters, name: str, used: int, now: float = NOW) -> None:
    reservation = Reservation(name, "team", (QUOTA,), 500)
    assert counters.reserve(reservation, now).admitted
    counters.settle(reservation, used, now)


def test_a_restart_keeps_what_was_settled_and_forgets_what_was_reserved(tmp_path):
    path = tmp_path / "state" / "budgets.json"
    counters = Counters()
    book = BudgetFile(path, counters)
    book.load()
    settle(counters, "done", 300)
    assert counters.reserve(Reservation("running", "team", (QUOTA,), 500), NOW).admitted
    asyncio.run(book.flush())

    restarted = Counters()
    BudgetFile(path, restarted).load()
    assert spent(restarted) == [300, 300]
    assert spent(restarted, NOW + 60) == [0, 0]  # another day, and another month
    assert os.listdir(path.parent) == ["budgets.json"]


def test_entries_survive_encoding():
    entries = [
        ("team ü", None, Period("day", "2026-02-28"), 12),
        ("team ü", "gpt-4o", Period("month", "2026-02"), 345),
    ]
    assert decode(encode(reversed(entries))) == sorted(entries, key=repr)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b'{"version": 2, "budgets": []}',
        b'{"version": 1}',
        b'{"version": 1, "budgets": [{"client": "a"}]}',
        b'{"version": 1, "budgets": 5}',
        b'{"version": true, "budgets": 5}',
        b'{"version": 1, "budgets": {}}',
        b'{"version": 1, "budgets": null}',
        b'{"version": 1, "budgets": [null]}',
        b'{"version": 1, "budgets": [[]]}',
        b"[" * 100_000,
        b'{"version": 1, "budgets": ' + b"[" * 100_000,
        b"\xff\xfe",
        b'{"version": 1, "budgets": [' + b"9" * 5000 + b"]}",
        *(
            json.dumps({"version": 1, "budgets": [budget]}).encode()
            for budget in (
                *({**GOOD, "tokens": tokens} for tokens in (-1, True, 2**53 + 1, 10**30, 1.5, "5", None, [])),
                *({**GOOD, "day": day} for day in ("", "soon", "2026-02-30", "2026-02", "20260228", 5)),
                {**GOOD, "client": 5},
                {**GOOD, "client": "\ud800"},
                {**GOOD, "deployment": []},
                {**GOOD, "deployment": "\ud800"},
                {"client": "team", "deployment": None, "month": "2026-13", "tokens": 5},
                {"client": "team", "deployment": None, "month": "2026-02-01", "tokens": 5},
                {"client": "team", "deployment": None, "tokens": 5},
            )
        ),
    ],
    ids=lambda content: content[:60] if isinstance(content, str) else content[-60:].decode("latin-1"),
)
def test_a_broken_file_is_an_error_that_says_what_to_do(tmp_path, content):
    path = tmp_path / "budgets.json"
    path.write_bytes(content)
    with pytest.raises(BudgetFileError, match=r"budgets\.json.*repair the file, or remove it"):
        BudgetFile(path, Counters()).load()


def test_the_reason_is_one_short_line_of_ascii(tmp_path):
    path = tmp_path / "budgets.json"
    path.write_text(json.dumps({"version": 1, "budgets": [{"client": "\x1b\u202e\n" * 5000}]}))
    with pytest.raises(BudgetFileError) as raised:
        BudgetFile(path, Counters()).load()
    assert str(raised.value).isascii()
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 300 + len(str(path))


def test_what_fits_is_taken(tmp_path):
    path = tmp_path / "budgets.json"
    most = {**GOOD, "tokens": 2**53}
    path.write_text(json.dumps({"version": 1, "budgets": [most, {**GOOD, "client": "b", "tokens": 0}]}))
    assert [entry[3] for entry in budget_file.read(path)] == [2**53, 0]


def test_nothing_is_written_when_nothing_was_settled(tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr(budget_file, "write_atomically", lambda path, content: written.append(content))
    counters = Counters()
    book = BudgetFile(tmp_path / "budgets.json", counters)

    async def story():
        settle(counters, "one", 10)
        await book.flush()
        await book.flush()
        settle(counters, "two", 10)
        await book.flush()

    asyncio.run(story())
    assert [json.loads(content)["budgets"][0]["tokens"] for content in written] == [10, 20]


def test_nothing_is_even_looked_at_when_nothing_was_settled(tmp_path, monkeypatch):
    counters = Counters()
    book = BudgetFile(tmp_path / "budgets.json", counters)

    async def story():
        settle(counters, "one", 10)
        await book.flush()
        monkeypatch.setattr(counters, "settled", lambda: pytest.fail("looked at"))
        counters.reserve(Reservation("two", "team", (QUOTA,), 500), NOW)
        await book.flush()
        restarted = BudgetFile(tmp_path / "budgets.json", other := Counters())
        restarted.load()
        monkeypatch.setattr(other, "settled", lambda: pytest.fail("looked at"))
        await restarted.flush()

    asyncio.run(story())


def test_the_budgets_of_20_000_end_users_are_gathered_in_portions_and_encoded_in_a_thread(
    tmp_path, monkeypatch
):
    counters = Counters()
    book = BudgetFile(tmp_path / "budgets.json", counters)
    for number in range(20_000):
        for of in (Period("day", "2026-02-28"), Period("month", "2026-02")):
            counters.restore("chat", f"user/{number:032x}", of, 1000 + number)
    turn, gathered, encoded_by = 0, collections.Counter(), set()
    settled, lines = counters.settled, budget_file._lines

    def gather():
        for each in settled():
            gathered[turn] += 1
            yield each

    def encode_lines(entries):
        encoded_by.add(threading.current_thread())
        return lines(entries)

    monkeypatch.setattr(counters, "settled", gather)
    monkeypatch.setattr(budget_file, "_lines", encode_lines)

    async def watch():
        nonlocal turn
        while True:
            turn += 1
            await asyncio.sleep(0)

    async def story():
        watching = asyncio.create_task(watch())
        await book.flush()
        watching.cancel()

    asyncio.run(story())
    assert len(decode((tmp_path / "budgets.json").read_bytes())) == 40_000
    assert max(gathered.values()) <= budget_file.PORTION
    assert encoded_by
    assert threading.main_thread() not in encoded_by


def test_what_is_settled_while_the_file_is_gathered_is_in_the_next_one(tmp_path, monkeypatch):
    monkeypatch.setattr(budget_file, "PORTION", 1)
    counters = Counters()
    book = BudgetFile(tmp_path / "budgets.json", counters)

    async def story():
        for client in "abc":
            counters.restore(client, None, Period("day", "2026-02-28"), 1)
        writing = asyncio.create_task(book.flush())
        await asyncio.sleep(0)
        counters.restore("a", None, Period("day", "2026-02-28"), 1)
        counters.restore("d", None, Period("month", "2026-02"), 1)
        await writing
        await book.flush()

    asyncio.run(story())
    found = {client: tokens for client, _, _, tokens in decode((tmp_path / "budgets.json").read_bytes())}
    assert found == {"a": 2, "b": 1, "c": 1, "d": 1}


def test_a_failing_disk_is_logged_once_and_tried_again(tmp_path, monkeypatch, caplog):
    counters = Counters()
    book = BudgetFile(tmp_path / "budgets.json", counters)

    def full(path, content):
        raise OSError("no space left")

    async def story():
        settle(counters, "one", 10)
        with monkeypatch.context() as patch:
            patch.setattr(budget_file, "write_atomically", full)
            await book.flush()
            await book.flush()
        await book.flush()

    with caplog.at_level(logging.INFO):
        asyncio.run(story())
    assert [record.levelname for record in caplog.records] == ["ERROR", "INFO"]
    assert decode((tmp_path / "budgets.json").read_bytes())


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "budgets.json"
    budget_file.write_atomically(path, b"old")
    monkeypatch.setattr(os, "fsync", lambda _fd: (_ for _ in ()).throw(OSError("disk gone")))
    with pytest.raises(OSError, match="disk gone"):
        budget_file.write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["budgets.json"]


def test_the_task_writes_and_a_last_flush_follows_a_cancelled_one(tmp_path):
    counters = Counters()
    book = BudgetFile(tmp_path / "budgets.json", counters, interval=0.001)

    async def story():
        task = asyncio.create_task(book.run())
        for turn in range(20):
            settle(counters, str(turn), 5)
            await asyncio.sleep(0.002)
        settle(counters, "last", 5)
        await asyncio.sleep(0.0015)
        task.cancel()
        await asyncio.wait({task})
        await book.flush()

    asyncio.run(story())
    assert {tokens for *_, tokens in decode((tmp_path / "budgets.json").read_bytes())} == {105}


documents = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from([*GOOD, "month", "x"]), inner, max_size=5)
    ),
    max_leaves=8,
)


@given(st.binary(max_size=80) | documents.map(lambda made: json.dumps(made).encode()))
@example(b"[" * 100_000)
def test_any_bytes_are_budgets_or_an_error(content):
    for whole in (
        content,
        b'{"version": 1, "budgets": ' + content + b"}",
        b'{"version": 1, "budgets": [' + content + b"]}",
    ):
        try:
            entries = decode(whole)
        except ValueError:
            continue
        assert decode(encode(entries)) == sorted(entries, key=repr)
        counters = Counters()
        for client, deployment, of, tokens in entries:
            counters.restore(client, deployment, of, tokens)
