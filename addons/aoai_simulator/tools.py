"""The tools that a request offers, and which of them a sensible model would call now."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from aoai_simulator.conversation import Conversation
from aoai_simulator.filler_text import ECHO
from aoai_simulator.replies import InvalidError
from aoai_simulator.schema_rules import complaint

Kind = Literal["function", "custom", "hosted", "legacy"]
Mode = Literal["none", "auto", "required", "named"]

MAX_PARALLEL = 4

HOSTED: Mapping[str, str] = {
    "web_search": "search the web internet online latest news today",
    "web_search_preview": "search the web internet online latest news today",
    "web_search_preview_2025_03_11": "search the web internet online latest news today",
    "file_search": "search in files documents",
    "code_interpreter": "run code python compute calculate plot chart",
    "image_generation": "generate draw image picture illustration",
    "mcp": "",
    "computer": "click screen browser computer desktop",
    "computer_use_preview": "click screen browser computer desktop",
    "local_shell": "shell command terminal",
    "shell": "shell command terminal",
    "apply_patch": "patch edit file",
}
"""The built-in tools of the Responses API, with words that call for them."""

_NAMESPACE = "namespace"
_WAYS = ("tool_search", "programmatic_tool_calling")
"""Ways by which a model comes to the other tools. They are taken, and never called: all tools are at hand."""

_FINAL = re.compile(
    r"final|^(output|answer|respond|response|finish|submit|done|complete|return)(_|$)|structured_output",
    re.IGNORECASE,
)
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|[^\W\d_]+")
_GENERIC_WORDS = """
    get set list find fetch make create call run use the and for with this that from into what which
    will your you are tool function give given return returns result value name text string number
"""
_GENERIC = frozenset(_GENERIC_WORDS.split())


@dataclass(frozen=True, slots=True)
class Tool:
    """One tool; `type` is the built-in tool's, `definition` the object that describes it.

    `namespace`: the group that it is in, as Codex offers its sub-agents; empty outside of one.
    """

    kind: Kind
    name: str
    type: str
    definition: Mapping[str, Any]
    namespace: str = ""

    @property
    def parameters(self) -> Mapping[str, Any]:
        """The schema of its arguments."""
        found = self.definition.get("parameters")
        return found if isinstance(found, Mapping) else {"type": "object", "properties": {}}

    @property
    def final(self) -> bool:
        """Whether its name is one of a tool that takes the final answer."""
        return self.kind != "hosted" and _FINAL.search(self.name) is not None

    @property
    def key(self) -> str:
        """Its entry in `Conversation.called`."""
        return (
            {"mcp": "mcp_call"}.get(self.type, _call_type(self.type)) if self.kind == "hosted" else self.name
        )


def _call_type(kind: str) -> str:
    return {"web": "web_search_call", "computer": "computer_call"}.get(kind.split("_")[0], f"{kind}_call")


@dataclass(frozen=True, slots=True)
class Toolbox:
    """The tools that may be called, and how much the request insists on it."""

    tools: tuple[Tool, ...] = ()
    mode: Mode = "none"
    parallel: bool = True

    def choose(self, conversation: Conversation) -> tuple[Tool, ...]:
        """The tools to call now; none means that the model answers with text.

        Left free, it calls what the user's words call for, once, and answers when results have come.
        When it must call, it goes on with a tool not yet called since the user spoke, and at the end with
        the one that takes the final answer; so an agent comes to an end.
        """
        if not self.tools or self.mode == "none":
            return ()
        if self.mode == "named":
            return self.tools[:1]
        done = conversation.called
        if self.mode == "auto":
            if done or conversation.answered or conversation.last.startswith(ECHO):
                return ()
            return self._wanted(conversation.last)
        left = [tool for tool in self.tools if tool.key not in done]
        finals = [tool for tool in self.tools if tool.final]
        if done:
            return (next(iter([tool for tool in left if tool.final] or left or finals or self.tools[-1:])),)
        return self._wanted(conversation.last) or tuple(
            [tool for tool in self.tools if not tool.final][:1] or finals[:1]
        )

    def _wanted(self, text: str) -> tuple[Tool, ...]:
        """The tools that a message names, else the first whose description it speaks of."""
        said = _words(text)
        others = [tool for tool in self.tools if not tool.final]
        named = [tool for tool in others if tool.kind != "hosted" and _words(tool.name) & said]
        if named:
            return tuple(named[:MAX_PARALLEL] if self.parallel else named[:1])
        described = (tool for tool in others if _described(tool) & said)
        return tuple(tool for tool, _ in zip(described, range(1), strict=False))


def _described(tool: Tool) -> set[str]:
    if tool.kind == "hosted":
        label = f"{tool.definition.get('server_label', '')} {tool.definition.get('server_description', '')}"
        return _words(f"{HOSTED[tool.type]} {label if tool.type == 'mcp' else ''}")
    return {word for word in _words(str(tool.definition.get("description") or "")) if len(word) > 3}


def _words(text: str) -> set[str]:
    """Words in lower case and without a plural's s; those without a meaning are left out."""
    found = {word.lower() for word in _WORD.findall(text[:20_000])}
    return {word.removesuffix("s") for word in found if len(word) > 2 and word not in _GENERIC}


def read_toolbox(operation: str, body: Mapping[str, Any]) -> Toolbox:
    """Read `tools`, `tool_choice` and the older `functions`, `function_call`; raises InvalidError."""
    if operation not in ("chat/completions", "responses"):
        return Toolbox()
    chat = operation == "chat/completions"
    parallel = body.get("parallel_tool_calls") is not False
    offered = body.get("tools")
    if chat and body.get("functions") is not None and not offered:
        return _legacy(body)
    if offered is not None and not isinstance(offered, list):
        raise InvalidError("Invalid type for 'tools': expected an array.", param="tools", code="invalid_type")
    tools = tuple(_all(offered or (), chat=chat))
    choice = body.get("tool_choice")
    if not tools:
        if choice in (None, "none", "auto"):
            return Toolbox()
        message = "Invalid value for 'tool_choice': 'tool_choice' is only allowed when 'tools' are specified."
        raise InvalidError(message, param="tool_choice")
    if choice in (None, "auto", "none", "required"):
        return Toolbox(tools, choice or "auto", parallel)
    if not isinstance(choice, Mapping):
        message = f"Invalid value: {choice!r}. Supported values are: 'none', 'auto', and 'required'."
        raise InvalidError(message, param="tool_choice", code="invalid_value")
    if choice.get("type") == "allowed_tools":
        return _allowed(tools, choice, parallel)
    return Toolbox((_chosen(tools, choice, "tool_choice"),), "named", parallel)


def _legacy(body: Mapping[str, Any]) -> Toolbox:
    functions = body.get("functions")
    if not isinstance(functions, list) or not functions:
        raise InvalidError("Invalid 'functions': expected a non-empty array.", param="functions")
    tools = tuple(
        _function(function, f"functions[{index}]", "legacy") for index, function in enumerate(functions)
    )
    choice = body.get("function_call")
    if choice in (None, "auto", "none"):
        return Toolbox(tools, "none" if choice == "none" else "auto", parallel=False)
    if not isinstance(choice, Mapping):
        message = f"Invalid value: {choice!r}. Supported values are: 'none' and 'auto'."
        raise InvalidError(message, param="function_call", code="invalid_value")
    return Toolbox((_chosen(tools, choice, "function_call"),), "named", parallel=False)


def _all(offered: Sequence[Any], *, chat: bool) -> Iterator[Tool]:
    """All tools that may be called, those in namespaces too."""
    for index, tool in enumerate(offered):
        where = f"tools[{index}]"
        kind = tool.get("type") if isinstance(tool, Mapping) else None
        if not chat and kind == _NAMESPACE:
            yield from _grouped(tool, where)
        elif chat or kind not in _WAYS:
            yield _tool(tool, where, chat=chat)


def _grouped(group: Mapping[str, Any], where: str) -> Iterator[Tool]:
    """The functions and custom tools of a namespace."""
    name = _name(group, where)
    listed = group.get("tools")
    if not isinstance(listed, list) or not listed:
        param = f"{where}.tools"
        message = f"Invalid '{param}': expected a non-empty array."
        raise InvalidError(message, param=param, code="invalid_type")
    for index, tool in enumerate(listed):
        place = f"{where}.tools[{index}]"
        if isinstance(tool, Mapping) and tool.get("type") in HOSTED:
            raise _no_such_type(tool["type"], place, ("function", "custom"))
        yield replace(_tool(tool, place, chat=False), namespace=name)


def _tool(tool: Any, where: str, *, chat: bool) -> Tool:
    if not isinstance(tool, Mapping):
        raise InvalidError(
            f"Invalid type for '{where}': expected an object.", param=where, code="invalid_type"
        )
    kind = tool.get("type")
    if kind is None:
        kind = "function" if "function" in tool or "name" in tool else None
    if kind is None:
        param = f"{where}.type"
        message = f"Missing required parameter: '{param}'."
        raise InvalidError(message, param=param, code="missing_required_parameter")
    if kind == "function":
        definition = tool.get("function") if chat else tool
        return _function(definition, f"{where}.function" if chat else where, "function")
    if kind == "custom":
        definition = tool.get("custom") if chat else tool
        name = _name(definition, f"{where}.custom" if chat else where)
        assert isinstance(definition, Mapping)
        return Tool("custom", name, "custom", definition)
    if not chat and isinstance(kind, str) and kind in HOSTED:
        return Tool("hosted", kind, kind, tool)
    raise _no_such_type(kind, where, ("function", "custom", *(() if chat else (*HOSTED, _NAMESPACE, *_WAYS))))


def _no_such_type(kind: Any, where: str, supported: Sequence[str]) -> InvalidError:
    listed = ", ".join(f"'{name}'" for name in supported[:-1]) + f" and '{supported[-1]}'"
    message = f"Invalid value: {kind!r}. Supported values are: {listed}."
    return InvalidError(message, param=f"{where}.type", code="invalid_value")


def _function(definition: Any, where: str, kind: Kind) -> Tool:
    name = _name(definition, where)
    parameters = definition.get("parameters")
    if parameters is not None:
        problem = complaint(parameters, strict=definition.get("strict") is True)
        if problem is not None:
            message = f"Invalid schema for function '{name}': {problem}"
            raise InvalidError(message, param=f"{where}.parameters", code="invalid_function_parameters")
    return Tool(kind, name, "function", definition)


def _name(definition: Any, where: str) -> str:
    name = definition.get("name") if isinstance(definition, Mapping) else None
    if not isinstance(name, str) or not name:
        param = f"{where}.name"
        message = f"Missing required parameter: '{param}'."
        raise InvalidError(message, param=param, code="missing_required_parameter")
    return name


def _allowed(tools: Sequence[Tool], choice: Mapping[str, Any], parallel: bool) -> Toolbox:
    """`allowed_tools`: a part of the tools; chat nests it, responses has it on the choice."""
    inner = choice.get("allowed_tools", choice)
    listed = inner.get("tools") if isinstance(inner, Mapping) else None
    if not isinstance(listed, list) or not listed:
        message = "Missing required parameter: 'tool_choice.tools'."
        raise InvalidError(message, param="tool_choice.tools", code="missing_required_parameter")
    chosen = [_chosen(tools, one if isinstance(one, Mapping) else {}, "tool_choice") for one in listed]
    mode: Mode = "required" if inner.get("mode") == "required" else "auto"
    return Toolbox(tuple(chosen), mode, parallel)


def _chosen(tools: Sequence[Tool], choice: Mapping[str, Any], param: str) -> Tool:
    kind = choice.get("type")
    named = choice.get("function", choice.get("custom", choice))
    wanted = named.get("name") if isinstance(named, Mapping) else None
    for tool in tools:
        if tool.kind != "hosted" and tool.name == wanted and kind in (None, "function", "custom"):
            return tool
        if tool.kind == "hosted" and _same_hosted(tool, kind, choice):
            return tool
    if wanted is None:
        wanted = kind
    raise InvalidError(f"Tool choice '{wanted}' not found in 'tools' parameter.", param=param)


def _same_hosted(tool: Tool, kind: object, choice: Mapping[str, Any]) -> bool:
    if tool.type == "mcp" and kind == "mcp":
        return choice.get("server_label") in (None, tool.definition.get("server_label"))
    return isinstance(kind, str) and kind in HOSTED and _call_type(kind) == _call_type(tool.type)
