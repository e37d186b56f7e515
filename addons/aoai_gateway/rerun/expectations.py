"""What a case expects of its answer, and whether an answer keeps to it. Pure functions.

An expectation is a mapping of one member:

==========================  ===============================================================================
``contains: text``          the answer has this text in it; ``ignoring_case: text`` in any case of letters
``not_contains: text``      it has not
``equals: text``            it is this text, but for white space at its ends
``regex: expression``       the expression of Python's :mod:`re` is found in it
``json_schema: schema``     it is JSON, and valid (JSON Schema 2020-12, or as its ``$schema`` says)
``json_equals: value``      it is JSON of this value; the order of members does not matter
``finish_reason: word``     it ended so
``max_output_tokens: n``    it has at most so many tokens; ``max_input_tokens`` the same for the prompt
``max_latency_ms: n``       it was complete within so many milliseconds
``max_first_token_ms: n``   its first token came within so many; a call that is not streamed has none
``judge: {…}``              a deployment says that it keeps to a ``rubric`` (see :mod:`.judge`)
==========================  ===============================================================================

Expressions and schemas may take for ever. Where others wait, they are checked in a process of their own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

LONGEST_DETAIL = 300
LONGEST_EXPRESSION = 10_000
LARGEST_BOUND = 10**12


type Check = Callable[[Any, Mapping[str, Any]], str | None]
"""Says what is wrong with an answer, by an expectation's value; None if it is right."""


class ExpectationError(ValueError):
    """An expectation is none; the text says why."""


def check(expectations: Sequence[Mapping[str, Any]], answer: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Check an answer by the expectations of a case.

    ``answer``: ``text``, ``error``, ``finish_reason``, ``input_tokens``, ``output_tokens``, ``total_ms`` and
    ``first_ms``; what is not known is None or absent. Returns for each expectation: ``expect`` (its name),
    ``passed``, and ``detail``. Of a judge's ``passed`` is None. An answer that is an error keeps to nothing.
    """
    return [_check_one(*one(expectation), answer) for expectation in expectations]


def one(expectation: Mapping[str, Any]) -> tuple[str, Any]:
    """Return an expectation's name and value. Raises ExpectationError where it is none."""
    if len(expectation) != 1:
        raise ExpectationError(f"an expectation has one member, not {len(expectation)}")
    name, value = next(iter(expectation.items()))
    if name != "judge" and name not in CHECKS:
        raise ExpectationError(f"there is no expectation {name!r}: {', '.join([*CHECKS, 'judge'])}")
    kinds: tuple[type, ...] = _KINDS.get(name, (str,))
    if not isinstance(value, kinds) or (isinstance(value, bool) and name != "json_equals"):
        raise ExpectationError(f"{name}: {' or '.join(_NAMES[kind] for kind in kinds)} is needed")
    if name == "regex":
        _compile(str(value))
    if name.startswith("max_") and not _is_bound(value):
        raise ExpectationError(f"{name}: a number from 0 to {LARGEST_BOUND:,} is needed")
    if name == "judge" and not (isinstance(value, dict) and isinstance(value.get("rubric"), str)):
        raise ExpectationError("judge: a rubric is needed")
    return name, value


def _is_bound(value: Any) -> bool:
    return bool(0 <= value <= LARGEST_BOUND)


def _compile(expression: str) -> re.Pattern[str]:
    if len(expression) > LONGEST_EXPRESSION:
        raise ExpectationError(f"regex: {LONGEST_EXPRESSION:,} characters are the most")
    try:
        return re.compile(expression)
    except RecursionError:
        raise ExpectationError("regex: it is nested too deeply") from None
    except (re.error, OverflowError) as error:
        raise ExpectationError(f"regex: {error}") from None


def needs_time(expectations: Sequence[Mapping[str, Any]]) -> bool:
    """Whether there is one that may take for ever."""
    return any(name in expectation for expectation in expectations for name in ("regex", "json_schema"))


def _check_one(name: str, value: Any, answer: Mapping[str, Any]) -> dict[str, Any]:
    if answer.get("error"):
        return {"expect": name, "passed": False, "detail": _cut(str(answer["error"]))}
    if name == "judge":
        return {"expect": name, "passed": None, "detail": ""}
    problem = CHECKS[name](value, answer)
    return {"expect": name, "passed": problem is None, "detail": _cut(problem or "")}


def _text(answer: Mapping[str, Any]) -> str:
    return str(answer.get("text") or "")


def _says(is_right: Callable[[str, str], bool], wrong: str) -> Check:
    """Return the check of an answer's text. In ``wrong``, ``{}`` stands for the expected value."""

    def problem(value: str, answer: Mapping[str, Any]) -> str | None:
        return None if is_right(value, _text(answer)) else wrong.format(repr(value))

    return problem


def _json_equals(value: Any, answer: Mapping[str, Any]) -> str | None:
    try:
        decoded = json.loads(_text(answer))
    except (ValueError, RecursionError) as error:
        return f"the answer is not JSON: {error}"
    return None if decoded == value else "the answer is another value"


def _json_schema(value: Any, answer: Mapping[str, Any]) -> str | None:
    # Imported here: it takes a while, and few sets have schemas.
    import jsonschema
    from referencing.exceptions import Unresolvable
    from referencing.jsonschema import EMPTY_REGISTRY

    try:
        decoded = json.loads(_text(answer))
    except (ValueError, RecursionError) as error:
        return f"the answer is not JSON: {error}"
    try:
        kind = jsonschema.validators.validator_for(value, jsonschema.Draft202012Validator)
        kind.check_schema(value)
        # The registry retrieves nothing: neither files nor addresses.
        validator = kind(value, registry=EMPTY_REGISTRY)
        found = jsonschema.exceptions.best_match(validator.iter_errors(decoded))
    except jsonschema.SchemaError as error:
        return f"the schema is none: {error.message}"
    except Unresolvable as error:
        return f"the schema refers to {error.ref!r}, which is not in it"
    except Exception as error:  # a schema may be anything, and the library looks at little of it before
        return f"the schema cannot be used: {type(error).__name__}"
    if found is None:
        return None
    return f"{found.json_path}: {found.message}"


def _finish_reason(value: str, answer: Mapping[str, Any]) -> str | None:
    reason = answer.get("finish_reason") or "nothing"
    return None if reason == value else f"it ended with {reason}"


def _at_most(field: str, unit: str) -> Check:
    def problem(value: float, answer: Mapping[str, Any]) -> str | None:
        measured = answer.get(field)
        if not isinstance(measured, int | float):
            return f"{field} is not known"
        return None if measured <= value else f"{measured:,.0f}{unit}, more than {value:,.0f}"

    return problem


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST_DETAIL else f"{text[: LONGEST_DETAIL - 1]}…"


CHECKS: Mapping[str, Check] = {
    "contains": _says(lambda value, text: value in text, "{} is not in the answer"),
    "ignoring_case": _says(
        lambda value, text: value.casefold() in text.casefold(), "{} is not in the answer"
    ),
    "not_contains": _says(lambda value, text: value not in text, "{} is in the answer"),
    "equals": _says(lambda value, text: value.strip() == text.strip(), "the answer is another text"),
    "regex": _says(lambda value, text: bool(_compile(value).search(text)), "{} is not found in the answer"),
    "json_schema": _json_schema,
    "json_equals": _json_equals,
    "finish_reason": _finish_reason,
    "max_output_tokens": _at_most("output_tokens", " tokens"),
    "max_input_tokens": _at_most("input_tokens", " tokens"),
    "max_latency_ms": _at_most("total_ms", " ms"),
    "max_first_token_ms": _at_most("first_ms", " ms"),
}
"""The checks by name."""

_KINDS: Mapping[str, tuple[type, ...]] = {
    "json_schema": (dict,),
    "json_equals": (dict, list, str, int, float, bool),
    "judge": (dict,),
    **{name: (int, float) for name in CHECKS if name.startswith("max_")},
}
_NAMES: Mapping[type, str] = {
    str: "a text",
    dict: "a mapping",
    list: "a list",
    int: "a number",
    float: "a fraction",
    bool: "true",
}
