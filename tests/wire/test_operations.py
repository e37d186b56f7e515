"""The table of operations, held against the official Python SDK: each method that Azure offers is in it."""

from __future__ import annotations

import ast
import pickle
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

import openai
import pytest

from aoai_gateway.wire.operation import Body, Classic, Model, Operation, State
from aoai_gateway.wire.operations import OPERATIONS, UNKNOWN
from aoai_gateway.wire.targets import parse_target
from tests import operations_page

RESOURCES = Path(openai.__file__).parent / "resources"
SENDERS = {"_get": "GET", "_post": "POST", "_put": "PUT", "_patch": "PATCH", "_delete": "DELETE"}

NOT_AZURES = (
    "agents",
    "audio/voice_consents",
    "audio/voices",
    "chatkit",
    "content_provenance_checks",
    "decisions",
    "fine_tuning/checkpoints",
    "images/variations",
    "moderations",
    "organization",
    "projects",
    "safety",
    "skills",
    "vaults",
    "videos/characters",
    "videos/edits",
    "videos/extensions",
    "webhook_endpoints",
    "webhook_event_types",
)
"""What OpenAI alone offers: beginnings of paths."""

ANSWERED_HERE = {("DELETE", "models/{}")}
"""A client's models are its virtual deployments, which it cannot delete."""


def path_of(node: ast.expr) -> str | None:
    """The path that is handed to a sender, with ``{}`` for ids."""
    if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "path_template":
        node = node.args[0]
    if not isinstance(node, ast.Constant) or not isinstance(node.value, str):
        return None
    segments = urlsplit(node.value).path.strip("/").split("/")
    return "/".join("{}" if segment.startswith("{") else segment for segment in segments)


def requests() -> Iterator[tuple[str, str | None, str]]:
    """Method, path and place of each request that the SDK's resources make."""
    for file in sorted(RESOURCES.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            sender = node.func.attr
            where = f"{file.relative_to(RESOURCES)}:{node.lineno}"
            if sender == "_get_api_list":
                said = [k.value.value for k in node.keywords if k.arg == "method"]  # type: ignore[attr-defined]
                yield said[0].upper() if said else "GET", path_of(node.args[0]), where
            elif sender in SENDERS and node.args:
                yield SENDERS[sender], path_of(node.args[0]), where


@cache
def asked() -> dict[tuple[str, str | None], str]:
    """The same, with one place of each. The walk takes a second, which no collection of tests waits for."""
    return {(method, path): where for method, path, where in requests()}


def offered() -> list[tuple[str, str]]:
    """What Azure offers, too, and the gateway passes on."""
    left_out = tuple(f"{each}/" for each in NOT_AZURES)
    return sorted(
        (method, path)
        for method, path in asked()
        if path is not None and not f"{path}/".startswith(left_out) and (method, path) not in ANSWERED_HERE
    )


def test_the_walk_understands_each_request_of_the_sdk() -> None:
    assert [where for (_, path), where in asked().items() if path is None] == []
    assert len(offered()) > 90


@pytest.mark.parametrize("beginning", NOT_AZURES)
def test_what_is_left_out_is_in_the_sdk(beginning: str) -> None:
    assert any(f"{path}/".startswith(f"{beginning}/") for _, path in asked())


def filled(path: str) -> str:
    return path.replace("{}", "some-id_1")


def test_each_request_of_the_sdk_is_in_the_table() -> None:
    for method, path in offered():
        operation = parse_target(method, f"/openai/v1/{filled(path)}").operation
        assert operation.name != "unknown", f"add a row to wire/operations.py for {method} {path}"
        in_path = operation.classic is Classic.PATH
        classic = f"/openai/deployments/gpt-4o/{path}" if in_path else f"/openai/{filled(path)}"
        target = parse_target(method, f"{classic}?api-version=2025-04-01-preview")
        assert target.operation is operation, (method, path)


def template(operation: Operation) -> str:
    segments = operation.path.split("/")
    return "/".join("{}" if segment.startswith("{") else segment for segment in segments)


AZURES_OWN = {
    "evals.runs.update",
    "files.import",
    "fine_tuning.jobs.checkpoints.copy",
    "fine_tuning.jobs.delete",
    "live.connect",
    "realtime",
    "responses.connect",
}
"""Rows from Azure's REST reference that the SDK lacks, or does not ask for by HTTP, beside the family
``video`` of a preview."""


def test_no_row_is_made_up() -> None:
    known = asked().keys()
    rows = {operation.name for operation in OPERATIONS if operation.family != "video"}
    assert {o.name for o in OPERATIONS if (o.method, template(o)) not in known} & rows == AZURES_OWN


@pytest.mark.parametrize("operation", [*OPERATIONS, *UNKNOWN.values()], ids=lambda o: f"{o.method} {o.path}")
def test_a_row_makes_sense(operation: Operation) -> None:
    assert pickle.loads(pickle.dumps(operation)) is operation
    if operation.classic is not Classic.BODY:
        assert operation.model is Model.REQUIRED
    if operation.model is not Model.NONE:
        named = operation.body is not Body.NONE or bool(operation.in_query)
        assert named or operation.name == "unknown"
    if operation.method in ("GET", "DELETE"):
        # Of a session, it is the first message.
        assert operation.body is Body.NONE or operation.opened_by
        assert not operation.creates, "it can be asked again"
    if "{" in operation.path and operation.family != "models":
        assert operation.state is State.ALWAYS
    if operation.takes_stream_options:
        assert operation.streams


def test_names_are_unique() -> None:
    names = [operation.name for operation in OPERATIONS]
    assert len(names) == len(set(names))


def test_the_page_of_the_documentation_is_made_of_the_table() -> None:
    written = operations_page.PAGE.read_text(encoding="utf-8")
    assert written == operations_page.written(), "run: python -m tests.operations_page"
