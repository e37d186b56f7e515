"""The JSON Schema that editors complete and check with (``yaml-language-server`` reads it).

It is looser than the loader on purpose: ``${ENV_VAR}`` may stand for every number and switch, and what
PowerProxy's files say is known too. ``python -m aoai_gateway.config.schema`` writes the shipped file anew.
"""

import json
from pathlib import Path
from typing import Any

from aoai_gateway.config import powerproxy
from aoai_gateway.config.models import Config

FILE = Path(__file__).with_name("gateway.schema.json")
"""The shipped schema; a test holds it to :func:`json_schema`."""

_VARIABLE = {"type": "string", "pattern": r"\$\{[A-Za-z_]"}
_NOT_USED = "PowerProxy's; accepted, without meaning here."
_DROPPED = ("title", "format", "writeOnly", "properties")
_YAML_WORDS = ("yes", "no", "on", "off")


def json_schema() -> dict[str, Any]:
    """Return the schema of the merged document and of every file that is a part of it."""
    schema = Config.model_json_schema(mode="validation")
    definitions = {name: _loosen(each) for name, each in schema.pop("$defs").items()}
    root = _loosen(schema)
    # clients may stand in one file and endpoints in another, so no file has to have both
    root.pop("required", None)
    definitions["Aoai"].pop("required", None)
    for key in powerproxy.WITHOUT_MEANING:
        root["properties"][key] = {"type": ["string", "null"], "description": _NOT_USED}
    root["properties"][powerproxy.IDENTITY] = {
        "type": ["string", "null"],
        "description": "PowerProxy's: the managed identity for endpoints without a key; see aoai.auth.",
    }
    root["properties"]["plugins"] = _plugins()
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "$comment": "Made by `python -m aoai_gateway.config.schema`; do not edit.",
        "title": "The gateway's configuration",
        **root,
        "patternProperties": {"^x-": {"description": "A place for YAML anchors."}},
        "definitions": definitions,
    }


def render() -> str:
    """Return the schema as the text of the shipped file."""
    return json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n"


def _loosen(node: Any) -> Any:
    """Accept what the loader accepts beyond pydantic's schema, and say references the draft-07 way."""
    if isinstance(node, list):
        return [_loosen(item) for item in node]
    if not isinstance(node, dict):
        return node
    loosened = {key: _loosen(value) for key, value in node.items() if key not in _DROPPED}
    if "properties" in node:  # its keys are names of the configuration, not words of the schema
        loosened["properties"] = {name: _loosen(each) for name, each in node["properties"].items()}
    if isinstance(reference := loosened.get("$ref"), str):
        reference = reference.replace("#/$defs/", "#/definitions/")
        rest = {key: value for key, value in loosened.items() if key != "$ref"}
        # draft-07 ignores what stands beside a reference
        return {**rest, "allOf": [{"$ref": reference}]} if rest else {"$ref": reference}
    description = {key: loosened.pop(key) for key in ("description", "default") if key in loosened}
    match loosened.get("type"):
        case "integer" | "number":
            return {**description, "anyOf": [loosened, _VARIABLE]}
        case "boolean":
            return {**description, "anyOf": [loosened, {"enum": [*_YAML_WORDS]}, _VARIABLE]}
        case "string":
            # an unquoted key or name may be all digits
            return {**description, **loosened, "type": ["string", "number"]}
    return {**description, **loosened}


def _plugins() -> dict[str, Any]:
    return {
        "type": ["array", "null"],
        "description": "PowerProxy's plugins: what they do is built in, or named as missing by `check`.",
        "items": {
            "anyOf": [
                {
                    "type": "object",
                    "properties": {"name": {"const": name}, **{each: {} for each in settings}},
                    "required": ["name"],
                    "additionalProperties": False,
                }
                for name, settings in powerproxy.PLUGINS.items()
            ]
        },
    }


if __name__ == "__main__":
    FILE.write_text(render(), encoding="utf-8")
