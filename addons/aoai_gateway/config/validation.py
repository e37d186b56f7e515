"""From the document to the models, with every error in plain words and at its line.

pydantic makes nothing of a document with an error in it, but the checks between the parts need models. So
a document with errors is *mended* (a broken value is left out, a missing name made up) and validated
again: what can still be checked is, and all problems come at once.
"""

import re
from collections.abc import Iterator, Set
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from aoai_gateway.config import powerproxy
from aoai_gateway.config.document import Mapping, Node, Scalar, Sequence, find, plain
from aoai_gateway.config.figures import without_unit
from aoai_gateway.config.models import Config, Model
from aoai_gateway.config.problems import KeyPath, Problem, closest, did_you_mean, problem

_ROUNDS = 5
"""Mending one error can uncover another, a few times; then no more is said until these are corrected."""

_SHOWN = 20
"""A longer value is not repeated: it may be a key that slipped into the wrong line."""

NAMELESS = "unnamed"
"""What made-up names begin with."""

_VARIABLE = re.compile(r"\$\{\w+\}")

_EXPECTED = {
    "bool_parsing": "true or false is expected",
    "bool_type": "true or false is expected",
    "datetime_type": "a date is expected, such as 2030-12-31",
    "dict_type": "a mapping is expected (lines of key: value)",
    "finite_number": "a finite number is expected",
    "float_parsing": "a number is expected",
    "float_type": "a number is expected",
    "greater_than": "it must be greater than {gt:g}",
    "greater_than_equal": "it must be at least {ge:g}",
    "int_from_float": "a whole number is expected",
    "int_parsing": "a whole number is expected",
    "int_type": "a whole number is expected",
    "literal_error": "{expected} is expected",
    "less_than": "it must be less than {lt:g}",
    "less_than_equal": "it must be at most {le:g}",
    "list_type": 'a list is expected (lines that begin with "- ")',
    "mapping_type": "a mapping is expected (lines of key: value)",
    "model_attributes_type": "a mapping is expected (lines of key: value)",
    "model_type": "a mapping is expected (lines of key: value)",
    "path_type": "a path is expected",
    "pattern_type": "a single text is expected",
    "string_type": "a single text is expected",
    "tuple_type": 'a list is expected (lines that begin with "- ")',
}
"""The meaning of pydantic's error types for authors of YAML."""

_SYNONYMS = {
    "api_base": ("url",),
    "api_key": ("key",),
    "apikey": ("key",),
    "allowed_deployments": ("deployments_allowed",),
    "allowed_endpoints": ("endpoints_allowed",),
    "azure_ad_token": ("auth",),
    "azure_endpoint": ("url",),
    "base_url": ("url",),
    "break": ("breaks",),
    "budget": ("max_cost_per_month",),
    "content_policy": ("content_filter",),
    "content_policy_fallbacks": ("content_filter", "fallback"),
    "context_window": ("context_length",),
    "context_window_fallbacks": ("context_length", "fallback"),
    "cooldown_time": ("default_seconds", "breaks"),
    "default_fallbacks": ("missing_model", "fallback"),
    "fallbacks": ("fallback",),
    "db": ("database",),
    "key_alias": ("name",),
    "keys": ("key",),
    "master_name": ("master",),
    "model": ("name",),
    "max_seconds": ("ceiling_seconds",),
    "min_seconds": ("floor_seconds",),
    "max_budget": ("max_cost_per_month",),
    "max_requests": ("max_requests_per_minute",),
    "model_name": ("name",),
    "models": ("deployments_allowed",),
    "nodes": ("hosts", "cluster"),
    "num_retries": ("replay",),
    "redis": ("state",),
    "sentinels": ("hosts", "sentinel"),
    "service_name": ("master",),
    "socket_connect_timeout": ("answer_seconds",),
    "socket_timeout": ("answer_seconds",),
    "ssl": ("tls",),
    "startup_nodes": ("cluster",),
    "rpm": ("requests_per_minute", "max_requests_per_minute"),
    "rpm_limit": ("requests_per_minute", "max_requests_per_minute"),
    "team": ("group",),
    "team_alias": ("group",),
    "team_id": ("group",),
    "teams": ("groups",),
    "tier": ("group",),
    "timeout": ("answer_seconds",),
    "tpm": ("tokens_per_minute", "max_tokens_per_minute"),
    "tpm_limit": ("tokens_per_minute", "max_tokens_per_minute"),
    "user": ("username",),
}
"""What other gateways and SDKs call it."""

_LITELLM = {"environment_variables", "general_settings", "litellm_settings", "model_list", "router_settings"}
"""The keys at the top of LiteLLM's own file."""

_NEEDLESS = {
    "api_version": "leave it out: each request brings its own, which goes on to Azure",
    "budget_duration": "leave it out: max_cost_per_day and max_cost_per_month name theirs",
    "deployment_id": "leave it out: each request names its deployment",
}
"""What others want to know of a resource, and this gateway does not."""

_INSTEAD_OF_A_NUMBER = {"float_parsing", "int_parsing", "int_from_float"}


@dataclass(frozen=True, slots=True)
class Validated:
    """What came of a document."""

    config: Config | None
    """With mended values where there are problems: good for further checks only. None beyond mending."""
    problems: list[Problem]
    broken: frozenset[KeyPath]
    """The paths of the values that had problems."""


def validate(document: Mapping, *, folder: Path, whole: bool = True) -> Validated:
    """Build the models.

    :param folder: relative paths in the document count from here.
    :param whole: whether a part that is missing at the top is a problem.
    """
    data: Any = plain(document)
    broken = {_mend(data, path) for path in _unresolved(document)}
    if not whole and "aoai" not in data:
        broken.add(_mend(data, ("aoai",), "missing"))
    problems: list[Problem] = []
    for _ in range(_ROUNDS):
        try:
            config = Config.model_validate(data, context={"folder": folder})
        except ValidationError as error:
            details = [each for each in _details(error) if not _merely_follows(each, document)]
        else:
            return Validated(config, problems, frozenset(broken))
        problems += [_describe(document, each) for each in details if not _known(each, broken, document)]
        broken |= _mend_all(data, details)
    return Validated(None, problems, frozenset(broken))


def _details(error: ValidationError) -> list[ErrorDetails]:
    return error.errors(include_url=False, include_input=False)


def _known(detail: ErrorDetails, broken: Set[KeyPath], document: Mapping) -> bool:
    """Return whether an error comes from mending: its value, or a part of it, was left out."""
    loc, about_the_whole = detail["loc"], detail["type"] == "config"
    # Without the names that pydantic gives to the kinds of a value.
    whole, _, _ = find(document, loc)
    return any(
        loc[: len(each)] == each or (about_the_whole and each[: len(whole)] == whole) for each in broken
    )


def _merely_follows(detail: ErrorDetails, document: Mapping) -> bool:
    """A list is "too short" for pydantic when none of its items is valid: those have errors of their own."""
    _, node, _ = find(document, detail["loc"])
    return detail["type"] == "too_short" and not isinstance(node, Scalar) and plain(node) not in ([], {})


def _unresolved(node: Node, path: KeyPath = ()) -> Iterator[KeyPath]:
    if isinstance(node, Scalar):
        if node.unresolved:
            yield path
    elif isinstance(node, Sequence):
        for index, item in enumerate(node.items):
            yield from _unresolved(item, (*path, index))
    else:
        for key, entry in node.entries.items():
            yield from _unresolved(entry.node, (*path, key))


def _mend_all(data: Any, details: list[ErrorDetails]) -> set[KeyPath]:
    mended: set[KeyPath] = set()
    for detail in details:
        loc, kind = detail["loc"], detail["type"]
        if any(loc[: len(each)] == each for each in mended):
            continue  # it went with what was around it
        mended.add(_mend(data, loc, kind))
        if kind == "extra_forbidden":
            # It may be a misspelt key: then that one is not simply absent.
            mended |= _meant_instead(loc)
    return mended


def _mend(data: Any, loc: KeyPath, kind: str = "") -> KeyPath:
    """Leave the value at a path out, or the nearest thing around it that has a key; make up a name.

    An item of a list keeps its place, so that the paths of the others stay right. Returns the path of
    what was changed.
    """
    value, path = data, list[str | int]()
    target: tuple[dict[str, Any], str, KeyPath] | None = None
    for part in loc:
        if isinstance(value, dict) and (part in value or kind == "missing"):
            path.append(part)
            target = value, str(part), tuple(path)
            value = value.get(str(part))
        elif isinstance(value, list) and isinstance(part, int) and part < len(value):
            path.append(part)
            if kind.startswith("model_") and len(path) == len(loc):
                value[part] = {}
                return tuple(path)
            value = value[part]
    if target is None:
        return ()
    holder, key, place = target
    if key in ("name", "model") and (kind == "missing" or key == "name"):
        holder[key] = f"{NAMELESS}-" + "-".join(map(str, place))
    elif kind == "missing" and key in _MADE_UP:
        holder[key] = deepcopy(_MADE_UP[key])
    elif kind == "missing":
        return _mend(data, place[:-1])
    else:
        holder.pop(key, None)
    return place


_MADE_UP: dict[str, Any] = {
    "aoai": {"endpoints": [{"name": NAMELESS}]},
    "endpoints": [{"name": NAMELESS}],
    "standins": [{"name": NAMELESS}],
}
"""What stands for a part that is missing, where leaving out what is around it would lose too much."""


def _describe(document: Mapping, detail: ErrorDetails) -> Problem:
    kind, context = detail["type"], detail.get("ctx", {})
    path, node, place = find(document, detail["loc"])
    if kind == "missing":
        around, holder, _ = find(document, detail["loc"][:-1])
        entry = holder.entries.get(str(detail["loc"][-1])) if isinstance(holder, Mapping) else None
        if entry is not None:
            return problem(entry.key_place, (*around, detail["loc"][-1]), "has no value")
        return problem(place, around, f'"{detail["loc"][-1]}" is missing')
    if kind == "extra_forbidden":
        return problem(place, path, "unknown key", _what_was_meant(path))
    if not isinstance(node, Mapping):
        place = node.place
    if kind == "config":
        written = node.written if isinstance(node, Scalar) else None
        source = f" (the value of {written})" if written and _VARIABLE.fullmatch(written) else ""
        return problem(place, path, context["message"] + source, context["suggestion"])
    if kind == "too_short":
        return problem(place, path, "is empty: at least one entry is needed")
    expected = _EXPECTED.get(kind, "something else is expected").format(**context)
    shown = _show(node, path)
    return problem(
        place,
        path,
        f"is {shown}, but {expected}" if shown else expected,
        _right_kind(kind, node, path, shown),
    )


def _right_kind(kind: str, node: Node, path: KeyPath, shown: str | None) -> str | None:
    """Return what could stand in the place of a value of the wrong kind; None where that is not known."""
    if kind in _INSTEAD_OF_A_NUMBER and shown and isinstance(node, Scalar) and node.written is None:
        in_thousands = any(str(key).endswith("_in_k") for key in path)
        number = without_unit(node.text or "", whole=kind != "float_parsing", in_thousands=in_thousands)
        return f"write {number}" if number else None
    if path[0] == "clients" and path[-1] == "key" and isinstance(node, Mapping):
        # An endpoint's key may come from a file or a command.
        return "a client's key is a text, or ${NAME} of the environment, or a list of them"
    if "a mapping" in _EXPECTED.get(kind, "") and isinstance(path[-1], int):
        text = node.text if isinstance(node, Scalar) and node.written is None and shown else None
        return f'write "- name: {text}"' if text and "name" in _model_at(path).model_fields else None
    if "a mapping" in _EXPECTED.get(kind, "") and isinstance(path[-1], str):
        holder = _model_at(path[:-1])
        # A price, say, stands under a name that no model knows: the holder's model is its own.
        is_field = path[-1] in holder.model_fields
        model = _model_of_field(holder, path[-1]) if is_field else holder if len(path) > 1 else None
        if model is not None and not (is_field and _holds_many(holder, path[-1])):
            return "its keys: " + ", ".join(model.model_fields)
    return None


def _show(node: Node, path: KeyPath) -> str | None:
    """Quote a value, or name its kind; never a secret, and never what a variable held."""
    if isinstance(node, Mapping):
        return "a mapping"
    if isinstance(node, Sequence):
        return "a list"
    if "key" in path or "state" in path or node.text is None:
        return None
    text = node.written or node.text
    return f'"{text}"' if len(text) <= _SHOWN or _VARIABLE.fullmatch(text) else None


def _what_was_meant(path: KeyPath) -> str:
    model, word = _model_at(path[:-1]), str(path[-1])
    known = _known_keys(model, path)
    if len(path) == 1 and word in _LITELLM:
        return "it is LiteLLM's; docs/howto/litellm.md says what stands for its settings here"
    if word in _NEEDLESS:
        return _NEEDLESS[word]
    if synonym := _synonym(word, known):
        return f'did you mean "{synonym}"?'
    if outer := _belongs_under(model, word):
        return f'it belongs under "{outer}"'
    return did_you_mean(word, known) or "known here: " + ", ".join(known)


def _meant_instead(path: KeyPath) -> set[KeyPath]:
    """Return the paths of the keys that an unknown key may stand for."""
    model, word = _model_at(path[:-1]), str(path[-1])
    known = _known_keys(model, path)
    meant = _synonym(word, known) or _belongs_under(model, word) or closest(word, known)
    return {(*path[:-1], meant)} if meant else set()


def _known_keys(model: type[Model], path: KeyPath) -> list[str]:
    return [*model.model_fields, *(powerproxy.TOP_LEVEL if len(path) == 1 else ())]


def _synonym(word: str, known: list[str]) -> str | None:
    return next((each for each in _SYNONYMS.get(word.lower().replace("-", "_"), ()) if each in known), None)


def _belongs_under(model: type[Model], word: str) -> str | None:
    for name in model.model_fields:
        inner = _model_of_field(model, name)
        if inner and word in inner.model_fields and not _holds_many(model, name):
            return name
    return None


def _model_at(path: KeyPath) -> type[Model]:
    """Return the model that describes the mapping at a path."""
    model: type[Model] = Config
    for part in path:
        if isinstance(part, str) and part in model.model_fields:
            model = _model_of_field(model, part) or model
    return model


def _model_of_field(model: type[Model], field: str) -> type[Model] | None:
    pending: list[Any] = [model.model_fields[field].annotation]
    while pending:
        kind = pending.pop()
        if isinstance(kind, type) and issubclass(kind, Model):
            return kind
        pending.extend(get_args(kind))
    return None


def _holds_many(model: type[Model], field: str) -> bool:
    return "tuple" in str(model.model_fields[field].annotation)
