"""What the README says is true: its snippets run against a real gateway, its tables are those of the code."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args, get_origin

import pytest
from mitmproxy.utils import emoji
from pydantic import BaseModel, SecretStr

from aoai_gateway.admin import flow_commands as state_commands
from aoai_gateway.app import cli
from aoai_gateway.config.models import Config
from aoai_gateway.inspect import annotate, commands
from aoai_gateway.runtime.gateway import OUR_EVENTS
from aoai_gateway.usage import record
from aoai_gateway.wire import errors
from tests.e2e import certificates
from tests.e2e.conftest import NODE_FOLDER, home, node
from tests.e2e.processes import CHECKOUT, READY_PATH, Process, request
from tests.ports import free_port
from tests.programs import require

__all__ = ["home", "node"]  # fixtures of the end-to-end tests that are used here

README = (CHECKOUT / "README.md").read_text(encoding="utf-8")
ADDRESS = "127.0.0.1:8080"
"""Where the README's gateway listens."""


def blocks(language: str) -> list[str]:
    """Give the fenced code blocks of a language, in their order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def section(title: str) -> str:
    """Give what stands under a heading of the second level."""
    (text,) = re.findall(rf"^## {re.escape(title)}$(.*?)(?=^## |\Z)", README, re.MULTILINE | re.DOTALL)
    return str(text)


def rows(text: str) -> list[list[str]]:
    """Give the cells of all tables' rows, without heads and rulers."""
    table = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in row] for row in table]
    heads = {i - 1 for i, row in enumerate(cells) if set("".join(row)) == {"-"}}
    return [row for i, row in enumerate(cells) if i not in heads and i - 1 not in heads]


def first_cells(text: str) -> list[str]:
    """Give the words in code type of all first cells."""
    return [word for row in rows(text) for word in re.findall(r"`([^`]+)`", row[0])]


PYTHON, JAVASCRIPT, SHELL, YAML = blocks("python"), blocks("js"), blocks("sh"), blocks("yaml")


def test_there_is_something_to_run() -> None:
    assert (len(PYTHON), len(JAVASCRIPT), len(SHELL), len(YAML)) == (2, 1, 4, 9)
    assert all(ADDRESS in block for block in (*PYTHON, *JAVASCRIPT, *SHELL))


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
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{self.process.log}"
        return done.stdout


def start(folder: Path, home: Path, *words: str | Path) -> Iterator[Shown]:
    port = free_port()
    command = [sys.executable, "-P", "-m", "aoai_gateway.app.cli", "--port", str(port), *words]
    process = Process("gateway", command, folder, env={"HOME": str(home)})

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
    yield from start(tmp_path_factory.mktemp("readme"), home)


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
@pytest.mark.parametrize("snippet", PYTHON, ids=["AzureOpenAI", "OpenAI"])
def test_a_python_snippet_prints_an_answer(gateway: Shown, snippet: str) -> None:
    printed = gateway.run(snippet, sys.executable, "-c")
    assert len(printed.split()) > 5


@pytest.mark.e2e
@pytest.mark.node
def test_the_javascript_snippet_prints_answers(gateway: Shown, node: list[str]) -> None:
    (gateway.folder / "node_modules").symlink_to(NODE_FOLDER / "node_modules")
    printed = gateway.run(JAVASCRIPT[0], node[0], "--input-type=module", "--eval")
    assert len(printed.split()) > 10


@pytest.mark.e2e
def test_the_first_curl_line_shows_where_the_answer_came_from(gateway: Shown, bash: list[str]) -> None:
    printed = gateway.run(SHELL[0], *bash)
    assert "200 OK" in printed
    (backend,) = re.findall(r"x-gateway-backend: (\S+)", printed)
    assert f"`x-gateway-backend: {backend}`" in README or f"`{backend}`" in README
    assert "x-gateway-attempts: 1" in printed
    always = {"x-gateway-call", "x-gateway-backend", "x-gateway-attempts", "x-gateway-simulated"}
    assert set(re.findall(r"x-gateway-[a-z]+", printed)) == always


@pytest.mark.e2e
def test_six_large_calls_end_as_shown(gateway: Shown, bash: list[str]) -> None:
    version = subprocess.run(["curl", "--version"], capture_output=True, text=True, check=True).stdout
    if tuple(map(int, version.split()[1].split(".")[:2])) < (7, 84):
        pytest.skip("this curl is older than the README asks for")
    line = r"(200|429) (gpt-4o-mini@(sweden|france)|), attempts:( [12])?"
    (shown,) = re.findall(r"((?:^    (?:200|429) .*\n)+)", README, re.MULTILINE)
    printed = gateway.run(SHELL[1], *bash)
    # On a busy machine the six are not all at once, and end in other ways than on an idle one.
    for lines in (shown.splitlines(), printed.splitlines()):
        assert len(lines) == 6
        assert all(re.fullmatch(line, each.strip()) for each in lines), lines
    assert "200 gpt-4o-mini@sweden, attempts: 1" in printed


@pytest.mark.e2e
def test_the_call_to_debug_is_answered_with_what_it_says(gateway: Shown, bash: list[str]) -> None:
    printed = gateway.run(SHELL[2], *bash)
    events = [json.loads(line[6:]) for line in printed.splitlines() if line.startswith("data: {")]
    said = "".join(c["delta"].get("content") or "" for event in events for c in event["choices"])
    assert said == "Your order 4711 left our warehouse on Friday."


@pytest.mark.e2e
def test_the_curl_line_for_the_plugin_is_answered(gateway_with_plugin: Shown, bash: list[str]) -> None:
    answer = json.loads(gateway_with_plugin.run(SHELL[3], *bash))
    assert answer["choices"][0]["message"]["content"]
    process = gateway_with_plugin.process
    process.wait_until(lambda: "4711: " in process.log, "done with the plugin's log line")


# --- configuration ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("snippet", YAML)
def test_a_configuration_snippet_loads(
    snippet: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    main = tmp_path / "gateway.yaml"
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
    code = cli.main(["check", str(main)])
    out, err = capsys.readouterr()
    assert code == 0, err
    assert "Warnings" not in out


def model_in(annotation: Any) -> tuple[type[BaseModel], str] | None:
    """Find the model in a field's type, and how the path of its keys goes on."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation, ""
    for part in get_args(annotation):
        found = model_in(part)
        if found is not None:
            model, path = found
            suffix = {tuple: "[]", Mapping: ".<name>"}.get(get_origin(annotation), "")
            return model, suffix + path
    return None


def keys_of(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Give the path of each key that is a value, and its default as the README writes it."""
    for name, field in model.model_fields.items():
        found = model_in(field.annotation)
        if found is not None:
            yield from keys_of(found[0], f"{prefix}{name}{found[1]}.")
            continue
        value = field.default
        if isinstance(value, SecretStr):
            value = value.get_secret_value()
        default = f"`{json.dumps(value) if isinstance(value, bool) else value}`"
        if field.is_required():
            default = "required"
        elif value is None or value in ((), ""):
            default = "–"
        yield prefix + name, default


def keys_told() -> Iterator[tuple[str, str]]:
    """Give the same as the README says it. A heading names the parts that its table is for."""
    for part in re.split(r"^#### ", section("Configuration reference"), flags=re.MULTILINE)[1:]:
        title = part.splitlines()[0]
        named = re.findall(r"`([^`]+)`", title)
        parts = [f"{name}." for name in named if not name.startswith(".")] or [""]
        parts += [whole + within[1:] + "." for within in named if within.startswith(".") for whole in parts]
        for key, default, meaning in rows(part):
            assert meaning
            for prefix in parts:
                yield prefix + key.strip("`"), default


def test_the_reference_names_every_key_and_its_default() -> None:
    told, known = dict(keys_told()), dict(keys_of(Config))
    missing = {key: default for key, default in known.items() if key not in told}
    assert not missing, f"add to the README's configuration reference (key: default): {missing}"
    assert told == known


# --- tables ----------------------------------------------------------------------------------------------


def words_of(docstring: str | None) -> list[list[str]]:
    """Give the rows of a table in a docstring, as words."""
    ruler, rest = re.compile(r"^=+ .*=$", re.MULTILINE), docstring or ""
    return [line.split() for line in ruler.split(rest)[2].splitlines() if line and not line.startswith(" ")]


def test_the_errors_have_the_codes_and_statuses_of_the_code() -> None:
    statuses = {words[0]: words[1] for words in words_of(errors.__doc__)}
    told = {row[0].strip("`"): row[1] for row in rows(section("Errors"))}
    source = "".join(path.read_text() for path in (CHECKOUT / "addons").rglob("*.py"))
    for code, status in told.items():
        assert f'"{code}"' in source, f"nothing answers {code}"
        assert status == statuses.get(code, status)
    # The gateway itself answers neither of the two: plugins may.
    assert set(statuses) - set(told) <= {"forbidden", "upstream_unreachable"}


def codes_in_use() -> set[str]:
    """Give the codes of all errors that the gateway makes itself."""
    codes: set[str] = set()
    for path in (CHECKOUT / "addons" / "aoai_gateway").rglob("*.py"):
        # The simulator's errors are Azure's.
        if "simulator" not in path.relative_to(CHECKOUT).parts:
            source = path.read_text()
            codes |= set(re.findall(r'\bcode="(\w+)"', source))
            codes |= set(re.findall(r'\bGatewayError\(\s*\d+,\s*"(\w+)"', source))
    return codes


def test_no_code_in_use_is_left_out_of_the_table_of_the_code() -> None:
    codes = codes_in_use()
    assert {"EndpointNotAllowed", "larger_than_limits", "unavailable"} <= codes
    assert codes <= {words[0] for words in words_of(errors.__doc__)}


def test_the_answers_headers_are_those_of_the_code() -> None:
    told = {name for name in first_cells(section("Point your SDK at it")) if name.startswith("x-gateway-")}
    folder = CHECKOUT / "addons" / "aoai_gateway" / "proxy"
    source = "".join(
        path.read_text()
        for path in (folder / "downstream_response.py", folder.parent / "engine" / "admission.py")
    )
    assert told == set(re.findall(r'"(x-gateway-[a-z-]+)"', source))


def test_the_usage_record_has_the_fields_that_are_told() -> None:
    tree = ast.parse(Path(record.__file__).read_text())
    known = {
        key.value
        for d in ast.walk(tree)
        if isinstance(d, ast.Dict)
        for key in d.keys
        if isinstance(key, ast.Constant)
    }
    text = section("Usage records")
    told = set(first_cells(text))
    lists = [row[1] for row in rows(text) if row[0] in ("`attempts`", "`skipped`")]
    assert told.union(*(re.findall(r"`(\w+)`", each) for each in lists)) == known


def test_the_metadata_are_those_of_the_code() -> None:
    told = {
        cell for cell in first_cells(section("Debug a prompt in five minutes")) if cell.startswith("gateway_")
    }
    assert told == {words[0] for words in words_of(annotate.__doc__)}


def test_the_markers_are_those_of_the_code() -> None:
    (told,) = re.findall(
        r"^Markers: (.*?)\. ", section("Debug a prompt in five minutes"), re.MULTILINE | re.DOTALL
    )
    signs = {emoji.emoji[name] for name in annotate.MARKERS}
    assert {part.split()[0] for part in told.replace("\n", " ").split(", ")} == signs


def test_the_commands_are_those_of_the_code() -> None:
    told = {
        cell.split()[0]
        for cell in first_cells(section("Debug a prompt in five minutes"))
        if "gateway." in cell
    }
    known = {
        function.command_name
        for addon in (commands.GatewayCommands, state_commands.GatewayStateCommands)
        for function in vars(addon).values()
        if hasattr(function, "command_name")
    }
    assert told == known


def test_the_events_are_those_of_the_code() -> None:
    assert tuple(first_cells(section("Writing a plugin"))) == OUR_EVENTS


def test_every_link_within_leads_to_a_heading() -> None:
    titles = re.findall(r"^#+ (.+)$", README, re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}
    links = re.findall(r"\]\(#([^)]+)\)", README)
    assert links
    assert set(links) <= anchors


def test_every_picture_is_there_and_taken_by_the_tests() -> None:
    shown = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", README)
    assert len(shown) == len(set(shown)) > 5
    source = (CHECKOUT / "tests" / "browser" / "test_mitmweb.py").read_text(encoding="utf-8")
    for name in shown:
        picture = CHECKOUT / name
        assert picture.read_bytes().startswith(b"\x89PNG"), name
        assert picture.stat().st_size < 150_000, name
        assert f'take_picture(page.page, "{picture.stem}"' in source.replace("desk.page.page", "page.page")
    assert {f"docs/images/{path.name}" for path in (CHECKOUT / "docs" / "images").iterdir()} == set(shown)


def test_every_command_is_one() -> None:
    said = re.findall(r"\./run\.sh(?: ([^\s`]+))?", README)
    assert len(said) > 10
    for word in said:
        assert not word or word.startswith(("-", "[", "#", "(")) or word in cli.COMMANDS | cli.RENAMED, word


def test_every_file_that_is_named_exists() -> None:
    named = set(re.findall(r"(?:addons|examples|tests|policies|\.ci)/[\w./-]*\w", README))
    assert len(named) > 8
    assert [path for path in sorted(named) if not (CHECKOUT / path).exists()] == []
