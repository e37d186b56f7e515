"""The documentation's snippets work: programs run against a real gateway, configurations load."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import duckdb
import pytest

from aoai_gateway.app import cli, start_checks
from aoai_gateway.rerun.case_set import read_set
from tests.analysis.working_day import working_day
from tests.docs.pages import Block, all_pages, blocks, page
from tests.e2e import certificates
from tests.e2e.conftest import NODE_FOLDER, home, node
from tests.e2e.processes import CHECKOUT, READY_PATH, Process, request
from tests.ports import free_port
from tests.programs import require

__all__ = ["home", "node"]  # fixtures of the end-to-end tests that are used here

ADDRESS = "127.0.0.1:8080"
"""Where the documentation's gateway listens."""

PYTHON, JAVASCRIPT, SHELL, YAML = blocks("python"), blocks("js"), blocks("sh"), blocks("yaml")
SQL = blocks("sql")

NOT_RUN = {"nginx", "", "text"}
"""Languages of blocks that are not run here: settings of other programs, which ``tests/e2e/fronts`` runs, and
drawings."""


def name_of(block: Block) -> str:
    return (
        f"{Path(block.page).stem}-{[b for b in blocks(block.language) if b.page == block.page].index(block)}"
    )


def test_every_block_is_run_or_known_not_to_be() -> None:
    languages = {block.language for each in all_pages() for block in each.blocks()}
    assert languages - NOT_RUN == {"python", "js", "sh", "yaml", "sql"}
    assert all(ADDRESS in block.text for block in (*PYTHON, *JAVASCRIPT, *SHELL))
    assert {name_of(block) for block in SHELL} == set(SHELL_CHECKS) | {WITH_PLUGIN}


# --- what can be pasted --------------------------------------------------------------------------------


class Shown:
    """A gateway with the shipped configuration, on a port of its own."""

    def __init__(self, process: Process, port: int, folder: Path) -> None:
        self.process = process
        self._address = f"127.0.0.1:{port}"
        self.folder = folder

    def run(self, snippet: str, *command: str | Path) -> str:
        """Run a snippet; gives what it prints."""
        assert ADDRESS in snippet
        done = subprocess.run(
            [*command, snippet.replace(ADDRESS, self._address)],
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{self.process.log}"
        return done.stdout


def start(folder: Path, home: Path, *words: str | Path) -> Iterator[Shown]:
    port = free_port()
    command = [sys.executable, "-P", "-m", "aoai_gateway.app.cli", "--port", str(port), *words]
    process = Process("gateway", command, folder, env={"HOME": str(home)}, forked=True)

    def is_ready() -> bool:
        try:
            return request(f"http://127.0.0.1:{port}{READY_PATH}", seconds=5).status == 200
        except OSError:
            return False

    try:
        process.wait_until(is_ready, "ready")
        yield Shown(process, port, folder)
        assert process.stop() == 0, process.log
    finally:
        process.kill()


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, home: Path) -> Iterator[Shown]:
    yield from start(tmp_path_factory.mktemp("docs"), home)


@pytest.fixture(scope="module")
def gateway_with_plugin(tmp_path_factory: pytest.TempPathFactory, home: Path) -> Iterator[Shown]:
    yield from start(
        tmp_path_factory.mktemp("plugin"), home, "-s", CHECKOUT / "examples" / "header_policy.py"
    )


@pytest.fixture(scope="module")
def bash() -> list[str]:
    """The command that runs shell snippets."""
    require("curl")
    return ["bash", "-euc"]


@pytest.mark.e2e
@pytest.mark.parametrize("snippet", PYTHON, ids=name_of)
def test_a_python_snippet_prints_an_answer(gateway: Shown, snippet: Block) -> None:
    printed = gateway.run(snippet.text, sys.executable, "-c")
    assert len(printed.split()) > 5


@pytest.mark.e2e
@pytest.mark.node
@pytest.mark.parametrize("snippet", JAVASCRIPT, ids=name_of)
def test_a_javascript_snippet_prints_answers(gateway: Shown, node: list[str], snippet: Block) -> None:
    modules = gateway.folder / "node_modules"
    if not modules.exists():
        modules.symlink_to(NODE_FOLDER / "node_modules")
    printed = gateway.run(snippet.text, node[0], "--input-type=module", "--eval")
    assert len(printed.split()) > 10


def shows_where_the_answer_came_from(printed: str, text: str) -> None:
    assert "200 OK" in printed
    (backend,) = re.findall(r"x-gateway-backend: (\S+)", printed)
    assert f"`x-gateway-backend: {backend}`" in text or f"`{backend}`" in text
    assert "x-gateway-attempts: 1" in printed
    always = {"x-gateway-call", "x-gateway-backend", "x-gateway-attempts", "x-gateway-simulated"}
    assert set(re.findall(r"x-gateway-[a-z]+", printed)) == always


def ends_as_shown(printed: str, text: str) -> None:
    version = subprocess.run(["curl", "--version"], capture_output=True, text=True, check=True).stdout
    if tuple(map(int, version.split()[1].split(".")[:2])) < (7, 84):
        pytest.skip("this curl is older than the page asks for")
    line = r"(200|429) (gpt-4o-mini@(sweden|france)|), attempts:( [12])?"
    (shown,) = re.findall(r"((?:^    (?:200|429) .*\n)+)", text, re.MULTILINE)
    # On a busy machine the six are not all at once, and end in other ways than on an idle one.
    for lines in (shown.splitlines(), printed.splitlines()):
        assert len(lines) == 6
        assert all(re.fullmatch(line, each.strip()) for each in lines), lines
    assert "200 gpt-4o-mini@sweden, attempts: 1" in printed


def says_what_follows_say(printed: str, _text: str) -> None:
    events = [json.loads(line[6:]) for line in printed.splitlines() if line.startswith("data: {")]
    said = "".join(c["delta"].get("content") or "" for event in events for c in event["choices"])
    assert said == "Your order 4711 left our warehouse on Friday."


def is_a_message(printed: str, _page: str) -> None:
    assert json.loads(printed)["content"][0]["text"]


SHELL_CHECKS: dict[str, Callable[[str, str], None]] = {
    "claude-0": is_a_message,
    "README-0": shows_where_the_answer_came_from,
    "getting-started-0": shows_where_the_answer_came_from,
    "getting-started-1": ends_as_shown,
    "debug-a-prompt-0": says_what_follows_say,
}
"""Judges what a shell snippet prints, given the text of its page."""

WITH_PLUGIN = "plugins-0"


@pytest.mark.e2e
@pytest.mark.parametrize("snippet", [b for b in SHELL if name_of(b) != WITH_PLUGIN], ids=name_of)
def test_a_shell_snippet_prints_what_its_page_says(gateway: Shown, bash: list[str], snippet: Block) -> None:
    SHELL_CHECKS[name_of(snippet)](gateway.run(snippet.text, *bash), page(snippet.page).text)


@pytest.mark.e2e
def test_the_curl_line_for_the_plugin_is_answered(gateway_with_plugin: Shown, bash: list[str]) -> None:
    (snippet,) = (block for block in SHELL if name_of(block) == WITH_PLUGIN)
    answer = json.loads(gateway_with_plugin.run(snippet.text, *bash))
    assert answer["choices"][0]["message"]["content"]
    process = gateway_with_plugin.process
    process.wait_until(lambda: "4711: " in process.log, "done with the plugin's log line")


# --- configuration ---------------------------------------------------------------------------------------


SETS = [block for block in YAML if re.search(r"^cases:", block.text, re.MULTILINE)]


@pytest.mark.parametrize("block", SETS, ids=name_of)
def test_a_set_of_cases_is_one(block: Block, tmp_path: Path) -> None:
    path = tmp_path / "set.yaml"
    path.write_text(block.text)
    assert read_set(path).cases


@pytest.mark.parametrize("block", [block for block in YAML if block not in SETS], ids=name_of)
def test_a_configuration_snippet_loads(
    block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    snippet, main = block.text, tmp_path / "gateway.yaml"
    if re.search(r"^aoai:", snippet, re.MULTILINE):
        main.write_text(snippet)
    else:
        # It is a part: of the shipped configuration, for instance.
        shutil.copy(CHECKOUT / "gateway.yaml", main)
        (tmp_path / "policies").mkdir()
        (tmp_path / "policies" / "snippet.yaml").write_text(snippet)
        if "clients:" not in snippet:
            shutil.copy(CHECKOUT / "policies" / "clients.yaml", tmp_path / "policies")
    for name in re.findall(r"\$\{(\w+)\}", snippet):
        monkeypatch.setenv(name, f"secret-{name.lower()}")
    made = certificates.make(tmp_path)
    for path in re.findall(r"\S+\.pem", snippet):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        shutil.copy(made.private_key if "key" in path else made.certificate, tmp_path / path)
    # Another program may have the ports on this machine.
    monkeypatch.setattr(start_checks, "ports", lambda config: ([], []))
    code = cli.main(["check", str(main)])
    out, err = capsys.readouterr()
    assert code == 0, err
    assert "Warnings" not in out


# --- queries --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", SQL, ids=name_of)
def test_queries_run_on_exported_records(
    block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = tmp_path / "usage.jsonl"
    records.write_text("".join(json.dumps(each) + "\n" for each in working_day()))
    monkeypatch.chdir(tmp_path)
    assert cli.main(["export", str(records), "-o", "usage.parquet"]) == 0
    with duckdb.connect() as database:
        for query in filter(str.strip, block.text.split(";")):
            assert database.execute(query).description
