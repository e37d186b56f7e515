"""Error bodies, and what the gateway decided about them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aoai_gateway.inspect.views.answer import rule, verdict_lines, verdicts_of
from aoai_gateway.inspect.views.facts import Facts
from aoai_gateway.inspect.views.shapes import mapping, text, word

_OUTCOMES = {
    "rejected": "the gateway answered this itself; nothing was sent to a backend",
    "backends_out": "no backend could serve it",
    "truncated": "a backend broke off its stream",
    "client_gone": "the client hung up",
    "client_stalled": "the client did not read its answer, and was cut off",
    "error": "a bug of the gateway",
}


def summary(error: object) -> str:
    """An error object in one line, for an answer that had begun: code, type and message."""
    details = mapping(error)
    if not details:
        return word(error) or "an error that says nothing"
    code, kind = _code(details), word(details.get("type"))
    name = " ".join(filter(None, [code, f"({kind})" if kind and kind not in (code, "error") else ""]))
    return ": ".join(filter(None, [name, text(details.get("message"))])) or "an error that says nothing"


def show(body: Mapping[str, Any], facts: Facts) -> str:
    """Lay out an error's answer: its code, its message, when to come back, what the gateway did."""
    error = mapping(body.get("error"))
    code = _code(error)
    status = "" if facts.status is None else str(facts.status)
    words = [f"{status} {code if code != status else ''}".strip(), word(error.get("type")), _come_back(facts)]
    lines = [" · ".join(filter(None, words)) or "error"]
    inner = mapping(error.get("innererror"))
    lines += verdict_lines("the prompt", verdicts_of(inner) + verdicts_of(error))
    message = text(error.get("message")) or text(body.get("message")) or word(body.get("error"))
    if message:
        lines += ["", message]
    if param := word(error.get("param")) or word(mapping(error.get("details")).get("param")):
        lines += ["", f"It is about the parameter {param}."]
    if inner_code := word(inner.get("code")):
        lines += ["", f"In detail: {inner_code}."]
    lines += _decided(facts)
    return "\n".join(lines).strip("\n") + "\n"


def _code(error: Mapping[str, Any]) -> str:
    """Its code; in Anthropic's shape it stands among the details."""
    return word(error.get("code")) or word(mapping(error.get("details")).get("error_code"))


def _come_back(facts: Facts) -> str:
    """When the client was told to come back."""
    headers = facts.headers
    exact, whole = headers.get("retry-after-ms", ""), headers.get("retry-after", "")
    if exact.isdecimal():
        words = f"retry after {float(exact[:15]) / 1000:g} s"
    elif whole:
        words = f"retry after {whole[:40]}" + (" s" if whole.isdecimal() else "")
    else:
        words = ""
    if headers.get("x-should-retry") == "false":
        words = " · ".join(filter(None, [words, "SDKs are told not to retry"]))
    return words


def _decided(facts: Facts) -> list[str]:
    """What the gateway did, from the flow's metadata and comment."""
    lines = []
    if facts.name("gateway_reason"):
        lines.append(
            "The client did not get this answer: the call was sent to the next backend, if there was one."
        )
    elif said := _OUTCOMES.get(facts.name("gateway_outcome")):
        attempts = facts.number("gateway_attempts") or 0
        if facts.name("gateway_outcome") == "rejected" and attempts:
            said = "the answer of the last backend went to the client"
        lines.append(said[0].upper() + said[1:] + (f" ({attempts:.0f} attempts)." if attempts > 1 else "."))
    if facts.comment:
        lines.append(facts.comment)
    return ["", rule("what the gateway did"), *lines] if lines else []
