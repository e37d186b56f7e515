"""The tables of docs/reference that are made from the code.

    python -m tests.docs.generated

writes them anew. Headings, their order, and the text around the tables are written by hand: a heading of
configuration.md names the parts of the configuration whose keys its table lists.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, get_args, get_origin

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from aoai_gateway.config.models import Config
from aoai_gateway.wire import credential_errors, errors, session_messages
from tests.docs.pages import Page, page
from tests.e2e import fault_matrix
from tests.e2e.processes import CHECKOUT
from tests.hostile import promises

CONFIGURATION = "docs/reference/configuration.md"
ERRORS = "docs/reference/errors.md"
FAULTS = "docs/reference/faults.md"
SECURITY = "docs/reference/security.md"

SEE = {
    "aoai.endpoints[].virtual_deployments[].model": "../concepts/quotas-and-tokens.md#how-tokens-are-counted",
    "aoai.endpoints[].virtual_deployments[].strategy": "../howto/priorities.md#which-backend-first",
    "groups[].weight": "../concepts/priorities-and-queue.md#the-queue",
    "state": "../howto/redis.md",
    "waiting_line_timeout": "../concepts/priorities-and-queue.md#the-queue",
}
"""Where more is said about a key or a code."""


class Key(NamedTuple):
    """A key of the configuration that is a value."""

    path: str
    default: str
    """As the page writes it."""
    meaning: str


def model_in(annotation: Any) -> tuple[type[BaseModel], str] | None:
    """Return the model in a field's type, and how the path of its keys goes on; None if there is no model."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation, ""
    for part in get_args(annotation):
        found = model_in(part)
        if found is not None:
            model, path = found
            suffix = {tuple: "[]", Mapping: ".NAME"}.get(get_origin(annotation), "")
            return model, suffix + path
    return None


def keys(model: type[BaseModel] = Config, prefix: str = "") -> Iterator[Key]:
    """Yield all keys of the configuration, in the order of the code."""
    for name, field in model.model_fields.items():
        found = model_in(field.annotation)
        # It may be the value itself, or say where it comes from.
        if found is None or "SecretStr" in str(field.annotation):
            yield Key(prefix + name, default_of(field), " ".join((field.description or "").split()))
        if found is not None:
            yield from keys(found[0], f"{prefix}{name}{found[1]}.")


def default_of(field: FieldInfo) -> str:
    """Return the default of a key as the page writes it."""
    value = field.default
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    if field.is_required():
        return "required"
    if value is None or value in ((), ""):
        return "–"
    return f"`{json.dumps(value) if isinstance(value, bool) else value}`"


def same(one: Key | None, other: Key) -> bool:
    """Return whether two keys at different places can share a row."""
    return one is not None and one[1:] == other[1:]


def parts_of(title: str) -> list[str]:
    """Return the prefixes of the keys that a heading's table lists; "" for the top level."""
    named = re.findall(r"`([^`]+)`", title)
    parts = [f"{name}." for name in named if not name.startswith(".")] or [""]
    return parts + [whole + end[1:] + "." for end in named if end.startswith(".") for whole in parts]


def keys_by_title(titles: list[str], known: list[Key]) -> dict[str, list[Key]]:
    """Return the keys of each heading, named from its parts on.

    A key belongs to the heading with the longest of its prefixes. Of several with the same one, it belongs to
    that whose other parts have the same key.
    """
    by_path = {key.path: key for key in known}
    of: dict[str, list[Key]] = {title: [] for title in titles}
    for key in known:
        fitting = [
            (len(part), len(parts), title, key.path.removeprefix(part))
            for title in titles
            for parts in [parts_of(title)]
            for part in parts
            if key.path.startswith(part)
            and all(same(by_path.get(other + key.path.removeprefix(part)), key) for other in parts)
            and (part or "." not in key.path)
        ]
        if not fitting:
            raise LookupError(f"{CONFIGURATION} needs a heading for {key.path}")
        _, _, title, name = max(fitting)
        if name not in [each.path for each in of[title]]:
            more = f" [More]({SEE[key.path]})" if key.path in SEE else ""
            of[title].append(Key(name, key.default, key.meaning + more))
    return of


def configuration() -> str:
    """Return the text of configuration.md, its tables made from the models."""
    old = page(CONFIGURATION)
    parts = keys_by_title([title for title, _ in old.sections()], list(keys()))
    return with_tables(
        old,
        {
            title: table(("key", "default", "meaning"), [(f"`{key}`", *rest) for key, *rest in found])
            for title, found in parts.items()
        },
    )


def error_rows() -> Iterator[tuple[str, str, str]]:
    """Yield code, status and meaning from the tables in the docstrings of the modules that make errors.

    A line that begins with a space goes on with the meaning of the one before.
    """
    ruler = re.compile(r"^=+ .*=$", re.MULTILINE)
    modules = (credential_errors, errors, session_messages)
    tables = (ruler.split(module.__doc__ or "")[2] for module in modules)
    for line in re.sub(r"\n +", " ", "".join(tables)).splitlines():
        if line:
            code, status, meaning = line.split(maxsplit=2)
            more = f" ([more]({SEE[code]}))" if code in SEE else ""
            yield f"`{code}`", status, meaning.replace("``", "`") + more


def error_codes() -> str:
    """Return the text of errors.md, its table made from the docstring."""
    return with_tables(page(ERRORS), {"": table(("code", "status", "when"), list(error_rows()))})


def faults() -> str:
    """Return the text of faults.md, its table made from what the matrix expects."""
    head = (
        "fault",
        "not streaming",
        "not streaming, no other backend",
        "streaming",
        "streaming, no other backend",
    )
    written = [(row.about, *map(_outcome, (*row.whole, *row.stream))) for row in fault_matrix.EXPECTED]
    return with_tables(page(FAULTS), {"": table(head, written)})


def _outcome(outcome: str) -> str:
    """Write an outcome, its status and code as code."""
    return re.sub(r"(\d{3} \w+|(?<=error )\w+)", r"`\1`", outcome)


def security() -> str:
    """Return the text of security.md, its table made from the promises that tests keep."""
    tried = table(("promise", "attempts", "bound"), promises.rows())
    return with_tables(page(SECURITY), {promises.SECTION: tried})


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """Write a table."""
    lines = [head, ("---",) * len(head), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines).replace(" --- ", "---")


def with_tables(old: Page, tables: Mapping[str, str]) -> str:
    """Return a page's text with the first table under each of the headings replaced ("": of the page)."""
    text = old.text
    for title, new in tables.items():
        begin = text.index(f"\n## {title}\n") if title else 0
        replaced, count = re.subn(r"(?m)(?:^\|.*\n)+", lambda _, new=new: new, text[begin:], count=1)
        assert count, f"{old.name}: no table under {title!r}"
        text = text[:begin] + replaced
    return text


GENERATED = {CONFIGURATION: configuration, ERRORS: error_codes, FAULTS: faults, SECURITY: security}

if __name__ == "__main__":
    for name, make in GENERATED.items():
        (CHECKOUT / name).write_text(make(), encoding="utf-8")
