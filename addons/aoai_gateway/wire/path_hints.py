"""Hints for a path that is nearly one of Azure OpenAI's: the right path, and where an SDK gets it from.

A wrong path nearly always comes from an SDK's base address, to which the SDK has added the rest. So it is the
end of a path that counts, however it begins: without ``/openai`` or ``/v1``, with one of them twice, with
empty segments, in other letters. It only ever leads to a sentence: no such path is taken for the right one.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from difflib import get_close_matches
from urllib.parse import unquote

_DEPLOYMENT = re.compile(r"(?!\.+$)[A-Za-z0-9._-]{1,64}", re.ASCII)
_PLACEHOLDER = "{deployment}"
_LONGEST = 2_000
"""Characters of a path that are worth looking at."""

_LIKENESS = 0.85
"""The likeness of a segment to the right one, from which on it is a slip: ``embedings``, ``response``."""

_OF_ADDRESSES = frozenset({"openai", "v1", "deployments"})
"""Segments of base addresses; no operation has them."""

V1_BASE = "In the SDKs, base_url (baseURL) is this gateway's address and /openai/v1/ after it."
CLASSIC_BASE = "In the SDKs, azure_endpoint is this gateway's address and nothing after it."
IN_GENERAL = (
    "Paths begin with /openai/deployments/{deployment}/ or /openai/v1/, for Claude with /anthropic/v1/."
)


def is_slip(segments: Sequence[str], known: Collection[str]) -> bool:
    """Whether a path of these segments, which is none of the ``known``, is one of them written wrongly.

    ``known``: paths and all their beginnings, with ``{…}`` where ids stand.
    """
    low = [part.lower() for part in segments]
    if _OF_ADDRESSES.intersection(low) or "/".join(low) in known:
        return True
    if any("/".join(low[-count:]) in known for count in range(2, len(low) + 1)):
        return True
    alike = [path.split("/") for path in known if path.count("/") == len(low) - 1]
    # With a first segment of the table, the rest may be new; a first one that is nearly one is a slip.
    families = {path for path in known if "/" not in path}
    return any(_is_like(low, other) for other in alike) or (
        segments[0] not in families and bool(get_close_matches(low[0][:64], families, 1, _LIKENESS))
    )


def _is_like(segments: Sequence[str], other: Sequence[str]) -> bool:
    """Whether a path differs from another one in one segment, and there in a letter or two."""
    differing = [
        (mine, theirs)
        for mine, theirs in zip(segments, other, strict=True)
        if mine != theirs and not theirs.startswith("{")
    ]
    return len(differing) == 1 and bool(
        get_close_matches(differing[0][0][:64], [differing[0][1]], 1, _LIKENESS)
    )


def hint(path: str, in_deployments: Collection[str], elsewhere: Collection[str]) -> str:
    """Return a sentence that names the path which is probably meant by ``path``, an unknown one without a
    query.

    ``in_deployments``: the operations, such as ``chat/completions``, that a path names a deployment for in
    its classic form; ``elsewhere``: the others.
    """
    # Only what is between the slashes counts; "chat%2Fcompletions" and "Chat" are mistakes too.
    segments = [part for part in re.split(r"[/\\]+", unquote(path[:_LONGEST]).partition(";")[0]) if part]
    low = [part.lower() for part in segments]
    operation = _last_operation(low, (*in_deployments, *elsewhere))
    if operation is None:
        return _no_operation(low, in_deployments, elsewhere)
    before = low[: len(low) - operation.count("/") - 1]
    v1 = f"/openai/v1/{operation}"
    if "deployments" not in before:
        if low[:1] == ["openai"] and "v1" not in before and operation in in_deployments:
            classic = f"/openai/deployments/{_PLACEHOLDER}/{operation}"
            return f"Without /v1/, the deployment belongs in the path: {classic}. Or use {v1}."
        return f"The path is {v1}. {V1_BASE}"
    if operation in elsewhere:
        return f"This operation has no deployment in its path: it is {v1}."
    name = segments[before.index("deployments") + 1 : len(before)]
    named = name[0] if name and _DEPLOYMENT.fullmatch(name[0]) else _PLACEHOLDER
    return f"The path is /openai/deployments/{named}/{operation}. {CLASSIC_BASE}"


def hint_below(root: Sequence[str], base: str, path: str, operations: Collection[str]) -> str:
    """Return such a sentence for a path of a dialect that has but one form.

    ``root``: the segments that its paths begin with; ``base``: the end of an SDK's base address.
    """
    low = [part for part in re.split(r"[/\\]+", unquote(path[:_LONGEST]).lower()) if part]
    operation = _last_operation(low, [each for each in operations if "{" not in each])
    if operation is None:
        plain = ", ".join(operations)
        return f"Below /{'/'.join(root)}/ there are {plain}."
    return (
        f"The path is /{'/'.join((*root, operation))}. "
        f"In the SDKs, base_url (baseURL) is this gateway's address and {base} after it."
    )


def _last_operation(segments: list[str], operations: Collection[str]) -> str | None:
    """Find the longest operation that the path ends in: ``completions`` ends ``chat/completions``, too."""
    found = (op for op in operations if segments[-op.count("/") - 1 :] == op.split("/"))
    return max(found, key=len, default=None)


def _no_operation(low: list[str], in_deployments: Collection[str], elsewhere: Collection[str]) -> str:
    if low[:2] == ["openai", "deployments"] and len(low) > 2:
        return f"Below a deployment there are {', '.join(in_deployments)}."
    if low[:2] != ["openai", "v1"] or len(low) < 3:
        return IN_GENERAL
    every = (*in_deployments, *elsewhere)
    families = list(dict.fromkeys(operation.partition("/")[0] for operation in every))
    like = get_close_matches(low[2][:64], families, 1, _LIKENESS)
    if not like:
        return f"Below /openai/v1/ there are {', '.join(families)}."
    return f"Below /openai/v1/ there is {', '.join(op for op in every if op.partition('/')[0] == like[0])}."
