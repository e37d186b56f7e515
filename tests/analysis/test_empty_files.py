"""Files in which there is nothing for a command: each command says so in a line, and fails."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from aoai_gateway.analysis.backtest import main as backtest_main
from aoai_gateway.analysis.export import main as export_main
from aoai_gateway.analysis.foreign.forms import READ
from aoai_gateway.analysis.report_command import main as report_main
from aoai_gateway.benchmark.command import main as benchmark_main
from aoai_gateway.config.models import Config
from tests.engine_driver import config
from tests.usage.records import record

type Command = Callable[[list[str]], int]


def load_config(_: str) -> Config:
    return config("a")


def run_report(files: list[str]) -> int:
    return report_main(files, load_config)


def run_backtest(files: list[str]) -> int:
    return backtest_main([*files, "--config", "own.yaml"], load_config)


def run_export(files: list[str]) -> int:
    pytest.importorskip("duckdb")
    return export_main([*files, "-o", str(Path(files[0]).with_name("out.parquet"))])


def run_benchmark(files: list[str]) -> int:
    url = "http://127.0.0.1:1"
    return benchmark_main([url, "-e", "gpt", "--records", *files], {"OPENAI_API_KEY": "key"})


COMMANDS = (run_report, run_backtest, run_export, run_benchmark)

CONTENTS = {
    "empty": (b"", ": no usage records\n"),
    "blank": (b"\n \n", ": no usage records\n"),
    "comments": (b"# of yesterday\n", f" is a usage record. What is read: {READ}\n"),
    "another_program": (
        b'{"level": "info", "msg": "x"}\n',
        f" (no outcome); found: members level, msg. What is read: {READ}\n",
    ),
    "another_table": (
        b"Date,User,Amount\n2026-11-28,a,1\n",
        f" is a usage record; found: columns Date, User, Amount. What is read: {READ}\n",
    ),
    "another_array": (
        b'[{"a": 1}]',
        f", item 1 (no outcome); found: members a. What is read: {READ}\n",
    ),
    "no_array": (b'[{"a": 1}', f" (not JSON, or cut off). What is read: {READ}\n"),
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("content", CONTENTS)
def test_a_file_without_records_is_said_in_a_line(
    content: str, command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw, end = CONTENTS[content]
    path = tmp_path / f"{content}.jsonl"
    path.write_bytes(raw)
    assert command([str(path)]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith(f"aoai-gateway: {path}: no usage records")
    assert said.err.endswith(end)
    assert said.err.count("\n") == 1
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("command", COMMANDS)
def test_several_files_without_records_are_counted(
    command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a.jsonl", "b.jsonl"):
        (tmp_path / name).touch()
    with gzip.open(tmp_path / "c.jsonl.gz", "wb"):
        pass
    assert command([str(each) for each in sorted(tmp_path.iterdir())]) == 1
    assert capsys.readouterr().err == "aoai-gateway: 3 files: no usage records\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_a_folder_is_no_file_of_records(
    command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    assert command([str(folder)]) == 1
    wanted = f"aoai-gateway: {folder} is a folder; name the files in it, such as {folder}/*.jsonl\n"
    assert capsys.readouterr().err.replace("\\", "/") == wanted.replace("\\", "/")


def test_a_time_without_records_is_a_report_and_nothing_to_backtest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "usage.jsonl"
    path.write_text(json.dumps(record(time="2026-11-28T10:00:00.000Z")) + "\n")
    words = [str(path), "--since", "2026-11-29"]
    assert run_report(words) == 0
    assert capsys.readouterr().out == "No records; 1 is outside of what was asked for\n"
    assert run_backtest(words) == 1
    assert capsys.readouterr().err == "aoai-gateway: no records; 1 is outside of what was asked for\n"


def test_records_of_which_no_call_can_be_sent_again_are_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "usage.jsonl"
    path.write_text(2 * (json.dumps(record(operation="models.list")) + "\n"))
    assert run_backtest([str(path)]) == 1
    assert capsys.readouterr().err == "aoai-gateway: 2 records, but no call that can be sent again\n"
