"""A request's body -> the Prompt view, and an edited view -> the body.

The view is YAML: a line that sums it up, the parameters, the messages, and then what is long and rarely
looked at, such as tools. Comments say what the YAML cannot: which message it is and how many tokens it has.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aoai_gateway.inspect.views.attachments import describe
from aoai_gateway.inspect.views.edits import apply_edit, same
from aoai_gateway.inspect.views.facts import TITLES, Facts
from aoai_gateway.inspect.views.shapes import Unreadable, decode, items, mapping, mappings, word
from aoai_gateway.inspect.views.yaml_reader import EditError, read_yaml
from aoai_gateway.inspect.views.yaml_writer import MAX_ELEMENTS, YamlWriter
from aoai_gateway.tokens import Counter
from aoai_gateway.tokens.bodies import is_countable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aoai_gateway.tokens import Count

MAX_BODY_BYTES = 64 * 1024 * 1024
"""A larger body is not decoded."""

EXACT_CHARACTERS = 32 * 1024
"""Tokens of so much text are counted (some milliseconds), those of more are estimated by a sample of it."""

_MESSAGES = {
    "chat.completions": "messages",
    "responses": "input",
    "completions": "prompt",
    "embeddings": "input",
    "messages": "messages",
    "messages.count_tokens": "messages",
}
_LEADING = ("model", "system", "instructions", "messages", "input", "prompt", "suffix")
_RULE = 72


def show(data: bytes, facts: Facts, counter: Counter | None = None, model: str | None = None) -> str:
    """Lay out a request's body; never raises for what is in it.

    Args:
        data: the body.
        facts: the flow's.
        counter: counts tokens; without one they are estimated.
        model: the base model behind the deployment, if known.

    """
    try:
        body = _decoded(data)
    except Unreadable as error:
        return f"# Not a prompt in JSON: {error}. This is the body as it came.\n" + data.decode(
            errors="replace"
        )
    writer = YamlWriter()
    try:
        _Layout(writer, body, facts, counter or Counter(), model).write()
    except RecursionError:
        return "# It is nested too deeply to be shown.\n" + data.decode(errors="replace")
    return writer.text()


def reencode(edited: str, data: bytes, facts: Facts) -> bytes:
    """Return ``data``, a request's body, the edits that were made to what `show` made of it.

    What was not edited stays as it is, to the byte.

    Raises:
        EditError: the edit cannot be understood, or the body could not be shown in the first place.

    """
    try:
        body = _decoded(data)
    except Unreadable as error:
        raise EditError(f"the body is not JSON ({error}); edit it as it is, as request-body") from None
    writer = YamlWriter()
    # Comments do not count, so neither does what they say of tokens.
    _Layout(writer, body, facts, None, None).write()
    base = read_yaml(writer.text(), writer.kept)
    changed = read_yaml(edited, writer.kept)
    if same(base, changed):
        return data
    if not isinstance(body, dict):
        raise EditError("the body is no object; edit it as it is, as request-body")
    if changed is None:
        raise EditError("the document is empty")
    if not isinstance(changed, dict):
        raise EditError("the document must stay what it was: members like 'model: …' and 'messages: …'")
    return apply_edit(data.decode(), base or {}, changed).encode()


def _decoded(data: bytes) -> Any:
    if len(data) > MAX_BODY_BYTES:
        raise Unreadable(f"{len(data):,} bytes are too many to be looked at")
    return decode(data)


class _Layout:
    """One body, on its way into a writer. Without a counter, no tokens are told."""

    def __init__(
        self,
        writer: YamlWriter,
        body: Any,
        facts: Facts,
        counter: Counter | None,
        model: str | None,
    ) -> None:
        self._writer = writer
        self._body = body
        self._facts = facts
        self._model = model or word(mapping(body).get("model")) or facts.deployment or None
        has_encodings = counter is not None and bool(counter.encodings.by_name)
        self._exact = has_encodings and _is_short(body) and is_countable(facts.operation, self._model)
        sampled = not (has_encodings and _is_short(body))
        self._counter = self._sampling(counter) if sampled and counter is not None else counter
        self._counts = self._count_messages()

    def write(self) -> None:
        body, writer = self._body, self._writer
        if not isinstance(body, dict):
            writer.comment("Not an object, as a prompt would be.")
            writer.member("body", body)
            return
        messages_key = _MESSAGES.get(self._facts.operation, "")
        writer.comment(self._summary(messages_key))
        writer.blank()
        short = [
            key for key, value in body.items() if key not in _LEADING[1:] and writer.is_short(value, key)
        ]
        leading = [key for key in _LEADING if key in body and key not in short]
        for key in sorted(short, key=lambda key: key != "model"):
            writer.member(key, body[key])
        for key in leading:
            self._part(key, messages_key)
        for key in body:
            if key not in short and key not in leading:
                self._part(key, messages_key)

    def _part(self, key: str, messages_key: str) -> None:
        value, writer = self._body[key], self._writer
        writer.blank()
        if key == messages_key and mappings(value):
            self._messages(key, value)
        elif key in ("tools", "functions") and mappings(value):
            writer.member_head(key)
            for tool in value:
                writer.comment(_signature(tool))
                writer.item(tool, key=key)
        else:
            writer.member(key, value)

    def _messages(self, key: str, messages: list[Any]) -> None:
        counts = self._counts
        if len(messages) > MAX_ELEMENTS:
            self._writer.member(key, messages)
            return
        self._writer.member_head(key)
        for number, message in enumerate(messages, 1):
            self._writer.blank()
            words = [str(number), _who(message)]
            if number <= len(counts):
                words.append(self._told(counts[number - 1].tokens))
            rule = f"── {' · '.join(filter(None, words))} "
            self._writer.comment(rule.ljust(_RULE, "─"))
            self._writer.item(message, key=key)

    # --- words -----------------------------------------------------------------------------------------

    def _summary(self, messages_key: str) -> str:
        body, facts = self._body, self._facts
        title = TITLES.get(facts.operation) or word(body.get("type")) or "Request"
        words = [title]
        deployment = facts.deployment or word(body.get("model")) or facts.name("gateway_deployment")
        if deployment:
            words[0] += f" with {deployment}"
        if body.get("stream") is True:
            words.append("streamed")
        given = body.get(messages_key)
        if facts.operation == "embeddings":
            several = isinstance(given, list) and not _is_tokens(given)
            words.append(_how_many(len(given) if several else 1, "text"))
        elif isinstance(given, list):
            words.append(_how_many(len(given), "message" if messages_key == "messages" else "item"))
        if tools := len(items(body.get("tools"))) + len(items(body.get("functions"))):
            words.append(_how_many(tools, "tool"))
        words += self._total()
        return " · ".join(words)

    def _total(self) -> list[str]:
        if self._counter is None or not self._facts.operation or self._facts.operation == "realtime":
            return []
        body, key = self._body, _MESSAGES.get(self._facts.operation, "")
        if self._counts and len(self._counts) == len(body[key]):
            # All but the messages: each text is to be counted once.
            body = {**body, key: []}
        try:
            count = self._counter.count_request(self._facts.operation, body, self._model)
        except RecursionError:
            return []
        tokens = count.tokens + sum(one.tokens for one in self._counts if body is not self._body)
        total = self._told(tokens, "prompt token")
        if count.partial or any(one.partial for one in self._counts):
            total += " and what the service has kept"
        real = self._facts.number("gateway_tokens_in")
        if real is not None and real != tokens:
            total += f" ({real:,.0f} by the backend's count)"
        return [total]

    def _told(self, tokens: int, unit: str = "token") -> str:
        return ("" if self._exact else "about ") + _how_many(tokens, unit)

    def _sampling(self, counter: Counter) -> Counter:
        """Return what estimates texts by a sample of all of them."""
        if not isinstance(self._body, dict):
            return Counter()
        try:
            scale = counter.scale(self._facts.operation, self._body, self._model, chars=EXACT_CHARACTERS)
        except RecursionError:
            return Counter()
        return Counter(scale=scale)

    def _count_messages(self) -> list[Count]:
        if self._counter is None or not isinstance(self._body, dict):
            return []
        try:
            return self._counter.count_messages(
                self._facts.operation, self._body, self._model, at_most=MAX_ELEMENTS
            )
        except RecursionError:
            return []


def _is_short(body: object) -> bool:
    """Whether a body holds no more text than is counted exactly; images and the like are no text."""
    room = EXACT_CHARACTERS
    pending = [("", body)]
    while pending and room >= 0:
        key, value = pending.pop()
        if describe(value, key) is not None:
            continue
        if isinstance(value, dict):
            pending.extend(value.items())
        elif isinstance(value, list):
            pending.extend((key, element) for element in value)
        room -= len(value) if isinstance(value, str) else 1
    return room >= 0


def _who(message: object) -> str:
    """Whose message an element is, or what kind of item."""
    parts = mapping(message)
    role, kind = word(parts.get("role")), word(parts.get("type"))
    name = word(parts.get("name"))
    who = role or kind
    if name:
        who = f"{who} {name}".strip()
    calls = [word(mapping(call.get("function")).get("name")) for call in mappings(parts.get("tool_calls"))]
    if calls:
        who += f" calls {', '.join(name or '?' for name in calls[:8])}"
    if role in ("tool", "function") and (ident := word(parts.get("tool_call_id"))):
        who += f" answers {ident}"
    return who + _tools_in(mappings(parts.get("content")))


def _tools_in(blocks: list[Mapping[str, Any]]) -> str:
    """The tools that a message of Claude's calls, or whose results it has, as they stand in its content."""
    calls = [word(block.get("name")) or "?" for block in blocks if block.get("type") == "tool_use"]
    results = [word(block.get("tool_use_id")) for block in blocks if block.get("type") == "tool_result"]
    said = f" calls {', '.join(calls[:8])}" if calls else ""
    return said + (f" answers {', '.join(filter(None, results[:8]))}" if results else "")


def _signature(tool: object) -> str:
    """A function tool as ``name(argument: type, …)``; an optional argument has a question mark."""
    definition = mapping(mapping(tool).get("function")) or mapping(tool)
    name = word(definition.get("name")) or word(definition.get("type")) or "tool"
    schema = mapping(definition.get("parameters")) or mapping(definition.get("input_schema"))
    required = [one for one in items(schema.get("required")) if isinstance(one, str)]
    arguments = []
    for key, value in list(mapping(schema.get("properties")).items())[:12]:
        types = mapping(value).get("enum") or mapping(value).get("type")
        named = "|".join(filter(None, map(word, types[:8] if isinstance(types, list) else [types])))
        arguments.append(f"{word(key)}{'' if key in required else '?'}" + (f": {named}" if named else ""))
    line = f"{name}({', '.join(arguments)})" if schema else name
    return line if len(line) <= 160 else line[:159] + "…"


def _how_many(count: int, unit: str) -> str:
    return f"{count:,} {unit}{'' if count == 1 else 's'}"


def _is_tokens(value: object) -> bool:
    return isinstance(value, list) and bool(value) and type(value[0]) is int


__all__ = ["EditError", "reencode", "show"]
