"""The tables of the documentation are those of the code. Each test names the page that holds its table."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from mitmproxy.utils import emoji

from aoai_gateway.admin import flow_commands as state_commands
from aoai_gateway.app import cli
from aoai_gateway.engine.call import Notice
from aoai_gateway.inspect import annotate, commands
from aoai_gateway.runtime.plugin_events import OUR_EVENTS
from aoai_gateway.usage import record
from tests.docs.generated import GENERATED, SEE, error_rows, keys, parts_of
from tests.docs.pages import first_cells, page, rows
from tests.e2e.processes import CHECKOUT
from tests.hostile.promises import PROMISES

CONFIGURATION = page("docs/reference/configuration.md")
ERRORS = page("docs/reference/errors.md")
HEADERS = page("docs/reference/headers.md")
USAGE_RECORD = page("docs/reference/usage-record.md")
FLOW_METADATA = page("docs/reference/flow-metadata.md")
INSPECTOR_COMMANDS = page("docs/reference/inspector-commands.md")
PLUGINS = page("docs/howto/plugins.md")
COMMAND_LINE = page("docs/reference/cli.md")


@pytest.mark.parametrize("name", GENERATED)
def test_a_generated_page_is_that_of_the_code(name: str) -> None:
    """Write it anew with ``python -m tests.docs.generated``."""
    assert page(name).text == GENERATED[name](), (
        "run `python -m tests.docs.generated` and look at the changes"
    )


def test_the_reference_has_every_key_of_the_configuration() -> None:
    told = {
        part + row[0].strip("`")
        for title, text in CONFIGURATION.sections()
        for row in rows(text)
        for part in parts_of(title)
    }
    assert told == {key.path for key in keys()}


def test_every_key_has_a_meaning() -> None:
    assert [key.path for key in keys() if not key.meaning] == []


def test_everything_that_is_linked_from_a_table_is_in_it() -> None:
    codes = {code.strip("`") for code, _, _ in error_rows()}
    assert set(SEE) <= codes | {key.path for key in keys()}


def test_each_hostile_test_keeps_one_promise() -> None:
    written = {
        f"{path.stem.removeprefix('test_')}.{node.name.removeprefix('test_')}"
        for path in (CHECKOUT / "tests" / "hostile").glob("test_*.py")
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }
    named = [test for each in PROMISES for test in each.tests]
    assert sorted(named) == sorted(written)


# --- tables ----------------------------------------------------------------------------------------------


def test_the_errors_are_those_of_the_code() -> None:
    source = "".join(path.read_text() for path in (CHECKOUT / "addons").rglob("*.py"))
    told = [row[0].strip("`") for row in rows(ERRORS.text)]
    assert len(told) == len(set(told)) > 25
    for code in told:
        assert f'"{code}"' in source, f"nothing answers {code}"


def codes_in_use() -> set[str]:
    """Return the codes of all errors that the gateway makes itself."""
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
    assert codes <= {row[0].strip("`") for row in rows(ERRORS.text)}


def test_the_answers_headers_are_those_of_the_code() -> None:
    told = {name for name in first_cells(HEADERS.text) if name.startswith("x-gateway-")}
    source = (CHECKOUT / "addons" / "aoai_gateway" / "proxy" / "downstream_response.py").read_text()
    written = set(re.findall(r'"(x-gateway-[a-z-]+)"', source))
    assert told == written | {f"x-gateway-{notice}" for notice in Notice}


def test_the_usage_record_has_the_fields_that_are_told() -> None:
    tree = ast.parse(Path(record.__file__).read_text())
    parts = {
        key.value
        for d in ast.walk(tree)
        if isinstance(d, ast.Dict)
        for key in d.keys
        if isinstance(key, ast.Constant)
    }
    known = parts.union(record.FIELDS)
    text = USAGE_RECORD.text
    told = set(first_cells(text))
    with_parts = ("`attempts`", "`skipped`", "`policy`", "`refused_by`", "`spillover`")
    lists = [row[1] for row in rows(text) if row[0] in with_parts]
    told = told.union(*(re.findall(r"`(\w+)`", each) for each in lists))
    assert told - {"clamp", "degrade", "quota", "reject"} == known - {"quota"}


def test_the_metadata_are_those_of_the_code() -> None:
    told = set(first_cells(FLOW_METADATA.section("Metadata")))
    modules = Path(annotate.__file__).parents[1].rglob("*.py")
    texts = {
        each.value
        for module in modules
        for each in ast.walk(ast.parse(module.read_text()))
        if isinstance(each, ast.Constant) and isinstance(each.value, str)
    }
    named = {text for text in texts if re.fullmatch(r"gateway_\w*[a-z0-9]", text)}
    of_plugins = {*OUR_EVENTS, "gateway_asks"}
    options = {"gateway_config", "gateway_keep_flows", "gateway_keep_messages"}
    assert told == named - of_plugins - options


def test_the_markers_are_those_of_the_code() -> None:
    (told,) = re.findall(r"^Markers: (.*?)\. ", FLOW_METADATA.text, re.MULTILINE | re.DOTALL)
    signs = {emoji.emoji[name] for name in annotate.MARKERS}
    assert {part.split()[0] for part in told.replace("\n", " ").split(", ")} == signs


def test_the_commands_are_those_of_the_code() -> None:
    told = {cell.split()[0] for cell in first_cells(INSPECTOR_COMMANDS.text) if "gateway." in cell}
    known = {
        function.command_name
        for addon in (commands.GatewayCommands, state_commands.GatewayStateCommands)
        for function in vars(addon).values()
        if hasattr(function, "command_name")
    }
    assert told == known


def test_the_events_are_those_of_the_code() -> None:
    assert tuple(first_cells(PLUGINS.text)) == OUR_EVENTS


# --- the command line ------------------------------------------------------------------------------------


def test_the_command_line_has_the_commands_of_the_code() -> None:
    table = COMMAND_LINE.text.partition("\n## ")[0]
    assert {cell.split()[0] for cell in first_cells(table)} == set(cli.COMMANDS)


def options_of(command: str, capsys: pytest.CaptureFixture[str]) -> set[str]:
    """Return the options that a command's help lists."""
    with pytest.raises(SystemExit):
        cli.main([*command.split(), "--help"])
    listed = re.findall(r"^  (-\S.*?)(?:  |$)", capsys.readouterr().out, re.MULTILINE)
    return {option for line in listed for option in re.findall(r"(?<![\w-])--?[a-z][a-z-]*", line)}


@pytest.mark.parametrize("title", [title for title, _ in COMMAND_LINE.sections()])
def test_a_command_has_the_options_of_the_code(title: str, capsys: pytest.CaptureFixture[str]) -> None:
    cells = first_cells(COMMAND_LINE.section(title))
    told = {cell.split()[0] for cell in cells if not cell.startswith("-- ")}
    for command in re.findall(r"`([^`]+)`", title):
        assert told == options_of(command, capsys) - {"-h", "--help"}


def test_every_command_with_options_has_its_table() -> None:
    told = {word for title, _ in COMMAND_LINE.sections() for word in re.findall(r"`(\S+?)[ `]", title)}
    assert told == set(cli.COMMANDS) - {"test"}
