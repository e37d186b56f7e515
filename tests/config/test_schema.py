"""The schema for editors: up to date, and neither stricter nor much looser than the loader."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from aoai_gateway.config import schema
from tests.config.all_models import all_models

ROOT = Path(__file__).parents[2]
SHIPPED = [
    "gateway.yaml",
    "policies/clients.yaml",
    "policies/priorities.yaml",
    "examples/azure.yaml",
    "examples/identities.yaml",
    "examples/powerproxy.yaml",
    "examples/teams.yaml",
]
SCHEMA = schema.json_schema()
KNOWN = {
    *("$comment", "$ref", "$schema", "additionalProperties", "allOf", "anyOf", "const", "default"),
    *("definitions", "description", "enum", "exclusiveMaximum", "exclusiveMinimum", "items", "maximum"),
    "minItems",
    *("minProperties", "minimum", "not", "oneOf", "pattern", "patternProperties", "properties"),
    *("required", "title", "type"),
}


def complaints(value: Any, rule: Any = SCHEMA, path: str = "") -> list[str]:
    """Check a value as an editor does: the part of JSON Schema (draft 7) that our schema uses."""
    assert set(rule) <= KNOWN, f"this checker does not know {set(rule) - KNOWN}"
    if "$ref" in rule:
        name = rule["$ref"].removeprefix("#/definitions/")
        return complaints(value, SCHEMA["definitions"][name], path)
    found = [f"{path}: not {rule['type']}"] if not has_type(value, rule.get("type", [])) else []
    if "enum" in rule and value not in rule["enum"]:
        found.append(f"{path}: not one of {rule['enum']}")
    if "const" in rule and value != rule["const"]:
        found.append(f"{path}: not {rule['const']}")
    if "not" in rule and not complaints(value, rule["not"], path):
        found.append(f"{path}: not allowed")
    for each in rule.get("allOf", []):
        found += complaints(value, each, path)
    for word in ("anyOf", "oneOf"):
        if word in rule:
            outcomes = [complaints(value, each, path) for each in rule[word]]
            fitting = outcomes.count([])
            if fitting == 0 or (word == "oneOf" and fitting > 1):
                found.append(f"{path}: fits {fitting} of {word}")
    if isinstance(value, str) and "pattern" in rule and not re.search(rule["pattern"], value):
        found.append(f"{path}: no match for {rule['pattern']}")
    if isinstance(value, int | float) and not isinstance(value, bool):
        if not rule.get("minimum", value) <= value <= rule.get("maximum", value):
            found.append(f"{path}: out of range")
        if value <= rule.get("exclusiveMinimum", value - 1):
            found.append(f"{path}: out of range")
        if value >= rule.get("exclusiveMaximum", value + 1):
            found.append(f"{path}: out of range")
    if isinstance(value, list):
        if len(value) < rule.get("minItems", 0):
            found.append(f"{path}: too few")
        for index, item in enumerate(value):
            found += complaints(item, rule.get("items", {}), f"{path}[{index}]")
    if isinstance(value, dict):
        found += object_complaints(value, rule, path)
    return found


def object_complaints(value: dict[str, Any], rule: Any, path: str) -> list[str]:
    found = [f"{path}: {name} is missing" for name in rule.get("required", []) if name not in value]
    if len(value) < rule.get("minProperties", 0):
        found.append(f"{path}: too few")
    for name, each in value.items():
        patterns = [p for p in rule.get("patternProperties", {}) if re.search(p, name)]
        if name in rule.get("properties", {}):
            found += complaints(each, rule["properties"][name], f"{path}.{name}")
        elif not patterns:
            additional = rule.get("additionalProperties", {})
            if additional is False:
                found.append(f"{path}: {name} is unknown")
            else:
                found += complaints(each, additional, f"{path}.{name}")
    return found


def has_type(value: Any, types: str | list[str]) -> bool:
    kinds = {
        "string": str,
        "integer": int,
        "number": (int, float),
        "boolean": bool,
        "array": list,
        "object": dict,
    }
    wanted = [types] if isinstance(types, str) else types
    return not wanted or any(
        value is None if each == "null" else isinstance(value, kinds[each])  # type: ignore[arg-type]
        and not (isinstance(value, bool) and each in ("integer", "number"))
        for each in wanted
    )  # fmt: skip


def test_the_shipped_file_is_up_to_date():
    assert schema.FILE.read_text(encoding="utf-8") == schema.render(), (
        "run: python -m aoai_gateway.config.schema"
    )


@pytest.mark.parametrize("name", SHIPPED)
def test_editors_find_it_and_accept_what_is_shipped(name: str):
    file = ROOT / name
    first, _, _ = file.read_text(encoding="utf-8").partition("\n")
    reference = first.removeprefix("# yaml-language-server: $schema=")
    assert (file.parent / reference).resolve() == schema.FILE.resolve()
    assert complaints(yaml.safe_load(file.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    "text",
    [
        "listen: {port: '${PORT}'}",
        "breaks: {default_seconds: '${SECONDS:-5}'}",
        "clients: [{name: a, key: '${A}', enabled: '${ON}'}]",
        "clients: [{name: a, key: ['${A}', b], uses_entra_id_auth: yes}]",
        "clients: [{name: a, key: 123456}]",
        "clients: [{name: a, deployments_allowed: 'a, b'}]",
        "clients: [{name: a, deployments_allowed: [a, b]}]",
        "clients: [{name: a, deployments_allowed: }]",
        "clients: [{name: a, max_tokens_per_minute_in_k: 5}]",
        "clients: [{name: a, max_tokens_per_minute_in_k: '${K}'}]",
        "clients: [{name: a, max_tokens_per_minute_in_k: {gpt-4o: 0.5, b: '${K}'}}]",
        "groups: [{name: a, deployments_allowed: 'gpt-4o*', endpoints_allowed: [a, 'b*'], dry_run: yes}]",
        "groups: [{name: a, max_tokens_per_day: {gpt-4o: 5, total: '${T}'}, max_tokens_per_month: 5}]",
        "groups: [{name: a, request_limits: {max_tokens: 5, action: clamp, deployments: {'*': {n: 5}}}}]",
        "clients: [{name: a, request_limits: {max_tokens: {ceiling: 5, default: 1}}, group: b}]",
        "clients: [{name: a, when_exceeded: reject}]",
        "clients: [{name: a, when_exceeded: {action: wait, seconds: 20}}]",
        "clients: [{name: a, when_exceeded: {action: degrade, deployment: b, max_tokens: 5, priority: c}}]",
        "state: '${REDIS_URL}'\nstate_prefix: a\nbudget_file: b",
        "priorities: [{name: a, breaks: {multiplier: '${M}'}, wait: {seconds: 5}, may_use: {spill: no}}]",
        "plugins: [{name: LimitUsage, redis: {redis_host: a, redis_password: b}}, {name: AllowDeployments}]",
        "azure_subscription_id: a\nregion: b\nresource_group:",
        "aoai: {endpoints: [{name: a, connections: {limits: {max_connections: 5}, timeouts: {read: 1.5}}}]}",
        "x-anchors: {anything: [1]}",
        "{}",
    ],
)
def test_what_the_loader_accepts_an_editor_does_too(text: str):
    assert complaints(yaml.safe_load(text)) == []


@pytest.mark.parametrize(
    "text",
    [
        "lissten: {}",
        "listen: {port: eighty}",
        "listen: {port: 70000}",
        "clients: [{key: a}]",
        "clients: {name: a}",
        "aoai: {endpoints: []}",
        "aoai: {endpoints: [{name: a, auth: kerberos}]}",
        "aoai: {endpoints: [{name: a, non_streaming_fraction: 1.5}]}",
        "breaks: {default_seconds: 0}",
        "plugins: [{name: Unknown}]",
        "groups: [{deployments_allowed: a}]",
        "groups: [{name: a, key: b}]",
        "priorities: [{name: a, leave_free: 1}]",
        "clients: [{name: a, when_exceeded: wait}]",
        "clients: [{name: a, when_exceeded: {action: drop}}]",
        "clients: [{name: a, request_limits: {max_tokns: 5}}]",
        "clients: [{name: a, request_limits: {action: drop}}]",
        "clients: [{name: a, max_tokens_per_minute: many}]",
    ],
)
def test_what_the_loader_refuses_an_editor_marks(text: str):
    assert complaints(yaml.safe_load(text)) != []


def test_every_field_is_explained():
    silent = [
        f"{model.__name__}.{name}"
        for model in all_models()
        for name, field in model.model_fields.items()
        if not field.description
    ]
    assert silent == []


def test_it_is_plain_json_of_draft_7():
    text = schema.render()
    assert "$defs" not in text
    assert json.loads(text)["$schema"] == "http://json-schema.org/draft-07/schema#"
