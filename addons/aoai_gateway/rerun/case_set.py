"""Sets of cases, as files that people read and git keeps: YAML, or JSON Lines with a case a line.

    name: Support
    deployment: gpt-4o          # where cases go that name none; the workbench and --deployment override it
    judge: {deployment: gpt-4o} # what judges; a case's own judge comes first
    cases:
      - name: Late order
        operation: chat.completions
        body:
          messages:
            - role: user
              content: |
                Where is my order?
        variables: {customer: Ada}
        expect:
          - contains: Tuesday

In JSON Lines each line is such a case; before them may stand ``{"set": {…}}`` with the set's other members.
In YAML, a text of several lines is written as a block, so that a change of one line is one line of a diff.
"""

from __future__ import annotations

import json
import math
import os
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from aoai_gateway.rerun.expectations import ExpectationError, one
from aoai_gateway.wire.operations import CHAT_COMPLETIONS, COMPLETIONS, EMBEDDINGS, MESSAGES, RESPONSES

SUFFIXES = (".yaml", ".yml", ".jsonl")
LARGEST_FILE = 32 * 1024 * 1024
MOST_CASES = 2_000
PATHS = {each.name: each.address for each in (CHAT_COMPLETIONS, RESPONSES, COMPLETIONS, EMBEDDINGS, MESSAGES)}
"""What takes a prompt and answers with text or vectors, and where it is asked for."""

VARIABLE = re.compile(r"\{\{\s*([A-Za-z_][A-Za-z0-9_.-]{0,63})\s*\}\}")
"""``{{name}}`` in a text."""


class SetError(Exception):
    """A file holds no set; the text says where and why."""


@dataclass(frozen=True, slots=True)
class Case:
    """A prompt, and what is expected of its answer. ``body`` is a request's, with or without ``model``."""

    name: str
    operation: str
    body: Mapping[str, Any]
    expect: tuple[Mapping[str, Any], ...] = ()
    variables: Mapping[str, str] = field(default_factory=dict)

    def request(self) -> dict[str, Any]:
        """Return the body with its variables put in."""
        return {key: with_variables(value, self.variables) for key, value in self.body.items()}

    def document(self) -> dict[str, Any]:
        """Return it as it is written."""
        written: dict[str, Any] = {"name": self.name, "operation": self.operation, "body": dict(self.body)}
        if self.variables:
            written["variables"] = dict(self.variables)
        written["expect"] = [dict(each) for each in self.expect]
        return written


@dataclass(frozen=True, slots=True)
class CaseSet:
    """Cases that belong together."""

    name: str
    cases: tuple[Case, ...]
    deployment: str | None = None
    judge: Mapping[str, Any] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        """Return it as it is written."""
        written: dict[str, Any] = {"name": self.name}
        if self.deployment:
            written["deployment"] = self.deployment
        if self.judge:
            written["judge"] = dict(self.judge)
        return written | {"cases": [case.document() for case in self.cases]}


def with_variables(value: Any, variables: Mapping[str, str]) -> Any:
    """Put values in for ``{{name}}`` in all strings; a name without a value stays as it is."""
    if isinstance(value, str):
        return VARIABLE.sub(lambda m: variables.get(m[1], m[0]), value) if "{{" in value else value
    if isinstance(value, dict):
        return {key: with_variables(item, variables) for key, item in value.items()}
    if isinstance(value, list):
        return [with_variables(item, variables) for item in value]
    return value


def read_set(path: Path) -> CaseSet:
    """Read a file. Raises SetError."""
    return parse(read_file(path), path)


def read_file(path: Path) -> bytes:
    """Return a file's bytes. Raises SetError."""
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise SetError(f"{path} is larger than {LARGEST_FILE // 1024 // 1024} MB.")
        return path.read_bytes()
    except OSError as error:
        raise SetError(f"{path} cannot be read: {error.strerror}.") from None


def parse(data: bytes, path: Path) -> CaseSet:
    """Make a set of a file's bytes. A pure function; raises SetError."""
    try:
        text = data.decode()
        document = _lines(text) if path.suffix == ".jsonl" else yaml.load(text, _Loader)  # noqa: S506 - a SafeLoader
        return parse_set(document, path.stem)
    except UnicodeDecodeError:
        raise SetError(f"{path} is not UTF-8.") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise SetError(f"{path}{where}: {getattr(error, 'problem', None) or 'no YAML'}.") from None
    except RecursionError:
        raise SetError(f"{path} is nested too deeply.") from None
    except ValueError as error:
        raise SetError(f"{path}: {error}.") from None


def _lines(text: str) -> dict[str, Any]:
    """Read JSON Lines. Only a line feed ends a line: a text may hold what else Unicode takes for an end."""
    found: list[Any] = []
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                found.append(json.loads(line))
            except json.JSONDecodeError as error:
                raise ValueError(f"line {number}, column {error.colno}: {error.msg}") from None
    head: dict[str, Any] = {}
    if found and isinstance(found[0], dict) and found[0].keys() == {"set"}:
        head = found.pop(0)["set"]
        if not isinstance(head, dict):
            raise ValueError("line 1: set is a mapping")
        _only(head, ("name", "deployment", "judge"), "line 1: set")
    return {**head, "cases": found}


def parse_set(document: Any, name: str) -> CaseSet:
    """Make a set of a decoded document. Raises ValueError that says what is wrong."""
    if not isinstance(document, dict) or not isinstance(document.get("cases"), list):
        raise ValueError("a set is a mapping with a list of cases")
    _only(document, ("name", "deployment", "judge", "cases"), "a set")
    if len(document["cases"]) > MOST_CASES:
        raise ValueError(f"{MOST_CASES} cases are the most of one set")
    judge = document.get("judge") or {}
    if not isinstance(judge, dict):
        raise ValueError("judge is a mapping with a deployment")
    _check_json(judge, "judge")
    cases = tuple(parse_case(case, f"case {n}") for n, case in enumerate(document["cases"], 1))
    return CaseSet(str(document.get("name") or name), cases, _text(document.get("deployment")), judge)


def parse_case(document: Any, where: str = "the case") -> Case:
    """Make a case of a decoded document. Raises ValueError that says what is wrong."""
    if not isinstance(document, dict):
        raise ValueError(f"{where} is no mapping")
    where = f"{where} ({document['name']})" if document.get("name") else where
    _only(document, ("name", "operation", "body", "variables", "expect"), where)
    operation = document.get("operation", "chat.completions")
    if operation not in PATHS:
        raise ValueError(f"{where}: operation is one of {', '.join(PATHS)}")
    body, expect, variables = (document.get(key) for key in ("body", "expect", "variables"))
    if not isinstance(body, dict):
        raise ValueError(f"{where}: body is a request, a mapping")
    if not isinstance(expect or [], list) or not all(isinstance(each, dict) for each in expect or []):
        raise ValueError(f"{where}: expect is a list of mappings")
    if not isinstance(variables or {}, dict):
        raise ValueError(f"{where}: variables is a mapping")
    try:
        for each in expect or []:
            one(each)
    except ExpectationError as error:
        raise ValueError(f"{where}: {error}") from None
    for member, value in (("body", body), ("expect", expect)):
        _check_json(value, f"{where}: {member}")
    if any(isinstance(value, dict | list) for value in (variables or {}).values()):
        raise ValueError(f"{where}: variables is a mapping of texts")
    named = {str(key): str(value) for key, value in (variables or {}).items()}
    return Case(str(document.get("name") or where), operation, body, tuple(expect or ()), named)


def text_of(cases: CaseSet, path: Path) -> bytes:
    """Return what a set's file holds. A pure function."""
    document = cases.document()
    if path.suffix == ".jsonl":
        lines: list[Any] = document.pop("cases")
        if cases.name == path.stem:
            del document["name"]
        if document:
            lines = [{"set": document}, *lines]
        text = "".join(f"{json.dumps(line, ensure_ascii=False)}\n" for line in lines)
    else:
        text = yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)
    return text.encode(errors="backslashreplace")


def write_file(path: Path, data: bytes) -> None:
    """Write a file, all or nothing; one that is there keeps its mode. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with draft.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            draft.chmod(path.stat().st_mode)
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


class _Loader(yaml.SafeLoader):
    """Plain values only: a date stays the text that it is."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, expression) for tag, expression in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


class _Dumper(yaml.SafeDumper):
    """Writes texts of several lines as blocks."""

    def ignore_aliases(self, data: Any) -> bool:
        """Write what stands twice twice."""
        return True


_UNPRINTED = re.compile(
    "[^\t\n\x20-\x7e\xa0-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]"
)
"""Characters that YAML takes for the end of a line, or does not take as they are: they need escapes."""


def _write_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = '"' if _UNPRINTED.search(text) else "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _write_text)


def _only(document: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
    for key in document:
        if key not in known:
            raise ValueError(f"{where} has no member {key!r}: {', '.join(known)}")


def _check_json(value: Any, where: str) -> None:
    """Refuse what YAML has and JSON has not. Raises ValueError."""
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise ValueError(f"{where}: the name {key!r} is no text; put it in quotes")
            _check_json(item, where)
    elif isinstance(value, list):
        for item in value:
            _check_json(item, where)
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{where}: JSON has no number {value}")
    elif value is not None and not isinstance(value, str | int):
        raise ValueError(f"{where}: JSON has nothing like a YAML {type(value).__name__}")


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None
