"""Output items of the Responses API's built-in tools, as if the tool had run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aoai_simulator.tools import Tool

_PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
"""A PNG of one pixel."""

STEPS: Mapping[str, tuple[str, ...]] = {
    "web_search_call": ("in_progress", "searching", "completed"),
    "file_search_call": ("in_progress", "searching", "completed"),
    "code_interpreter_call": ("in_progress", "interpreting", "completed"),
    "image_generation_call": ("in_progress", "generating", "completed"),
    "mcp_list_tools": ("in_progress", "completed"),
    "mcp_call": ("in_progress", "completed"),
}
"""The events between an item's start and its end, by the item's type."""


def items(tool: Tool, ident: str, query: str, *, approved: bool) -> list[dict[str, Any]]:
    """The finished items for one use of a tool; `query` is what the user asked.

    `approved`: the user has let an MCP tool be called.
    """
    suffix = f"{tool.type[:2]}{ident}"
    action: dict[str, Any]
    call = {"id": f"call_{suffix}", "call_id": f"call_{ident[:24]}", "status": "completed"}
    query = " ".join(query.split())[:200]
    definition = tool.definition
    match tool.type.split("_")[0]:
        case "web":
            action = {"type": "search", "query": query, "sources": []}
            return [_ran("web_search_call", f"ws_{ident}", action=action)]
        case "file":
            return [_ran("file_search_call", f"fs_{ident}", queries=[query], results=None)]
        case "code":
            outputs = [{"type": "logs", "logs": "42\n"}]
            held = {"container_id": _container(definition, ident), "outputs": outputs}
            return [_ran("code_interpreter_call", f"ci_{ident}", code="print(42)", **held)]
        case "image":
            shown = {"output_format": "png", "revised_prompt": query, "result": _PIXEL}
            return [_ran("image_generation_call", f"ig_{ident}", **shown)]
        case "mcp":
            return _mcp(definition, ident, approved=approved)
        case "computer":
            action = {"type": "screenshot"}
            return [{**call, "type": "computer_call", "action": action, "pending_safety_checks": []}]
        case "local":
            action = {"type": "exec", "command": ["pwd"], "env": {}}
            return [{**call, "type": "local_shell_call", "action": action}]
        case "shell":
            action = {"commands": ["pwd"], "timeout_ms": None, "max_output_length": None}
            return [{**call, "type": "shell_call", "action": action}]
        case _:
            operation = {"type": "create_file", "path": "notes.txt", "diff": "+notes"}
            return [{**call, "type": "apply_patch_call", "operation": operation}]


def _ran(kind: str, ident: str, **members: Any) -> dict[str, Any]:
    """An item that the service itself has run."""
    return {"id": ident, "type": kind, "status": "completed", **members}


def ends_answer(item: Mapping[str, Any]) -> bool:
    """Whether the client has to act before the model goes on."""
    return item["type"] in (
        "computer_call",
        "local_shell_call",
        "shell_call",
        "apply_patch_call",
        "mcp_approval_request",
    )


def _container(definition: Mapping[str, Any], ident: str) -> str:
    container = definition.get("container")
    return container if isinstance(container, str) else f"cntr_{ident}"


def _mcp(definition: Mapping[str, Any], ident: str, *, approved: bool) -> list[dict[str, Any]]:
    label = str(definition.get("server_label", "server"))
    allowed = definition.get("allowed_tools")
    if isinstance(allowed, Mapping):
        allowed = allowed.get("tool_names")
    names = [name for name in allowed if isinstance(name, str)] if isinstance(allowed, list) else []
    names = names or ["search"]
    listed = {
        "id": f"mcpl_{ident}",
        "type": "mcp_list_tools",
        "server_label": label,
        "tools": [
            {
                "name": name,
                "description": None,
                "annotations": None,
                "input_schema": {"type": "object", "properties": {}, "additionalProperties": False},
            }
            for name in names
        ],
    }
    call = {"name": names[0], "server_label": label, "arguments": "{}"}
    if definition.get("require_approval") != "never" and not approved:
        return [listed, {"id": f"mcpr_{ident}", "type": "mcp_approval_request", **call}]
    done = {"status": "completed", "error": None, "output": "[]", "approval_request_id": None}
    return [listed, {"id": f"mcp_{ident}", "type": "mcp_call", **call, **done}]
