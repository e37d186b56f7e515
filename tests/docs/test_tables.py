"""The tables of the documentation are those of the code. Each test names the page that holds its table."""

from __future__ import annotations

import ast
import json
import re
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
from tests.docs.pages import first_cells, page, rows
from tests.e2e.processes import CHECKOUT

CONFIGURATION = page("docs/reference/configuration.md")
ERRORS = page("docs/reference/errors.md")
HEADERS = page("docs/reference/headers.md")
USAGE_RECORD = page("docs/reference/usage-record.md")
FLOW_METADATA = page("docs/reference/flow-metadata.md")
INSPECTOR_COMMANDS = page("docs/reference/inspector-commands.md")
PLUGINS = page("docs/howto/plugins.md")
COMMAND_LINE = page("docs/reference/cli.md")


def model_in(annotation: Any) -> tuple[type[BaseModel], str] | None:
    """Find the model in a field's type, and how the path of its keys goes on."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation, ""
    for part in get_args(annotation):
        found = model_in(part)
        if found is not None:
            model, path = found
            suffix = {tuple: "[]", Mapping: ".NAME"}.get(get_origin(annotation), "")
            return model, suffix + path
    return None


def keys_of(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Give the path of each key that is a value, and its default as the page writes it."""
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
    """Give the same as the page says it. A heading names the parts that its table is for."""
    for title, part in CONFIGURATION.sections():
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
    assert not missing, f"add to {CONFIGURATION.name} (key: default): {missing}"
    assert told == known


# --- tables ----------------------------------------------------------------------------------------------


def words_of(docstring: str | None) -> list[list[str]]:
    """Give the rows of a table in a docstring, as words."""
    ruler, rest = re.compile(r"^=+ .*=$", re.MULTILINE), docstring or ""
    return [line.split() for line in ruler.split(rest)[2].splitlines() if line and not line.startswith(" ")]


def test_the_errors_have_the_codes_and_statuses_of_the_code() -> None:
    statuses = {words[0]: words[1] for words in words_of(errors.__doc__)}
    told = {row[0].strip("`"): row[1] for row in rows(ERRORS.text)}
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
    told = {name for name in first_cells(HEADERS.text) if name.startswith("x-gateway-")}
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
    text = USAGE_RECORD.text
    told = set(first_cells(text))
    with_parts = ("`attempts`", "`skipped`", "`policy`", "`refused_by`")
    lists = [row[1] for row in rows(text) if row[0] in with_parts]
    told = told.union(*(re.findall(r"`(\w+)`", each) for each in lists))
    assert told - {"clamp", "degrade", "quota", "reject"} == known - {"quota"}


def test_the_metadata_are_those_of_the_code() -> None:
    told = set(first_cells(FLOW_METADATA.section("Metadata")))
    assert told == {words[0] for words in words_of(annotate.__doc__)}


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
