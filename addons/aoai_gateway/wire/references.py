"""References of a call that only one resource can resolve: ids of things there, and encrypted reasoning.

An id is known by its beginning: ``resp_…``, ``file-…``. Answers name ids of what was made or found, calls
name them in paths, queries and bodies, and lists of answers name many. An item with ``encrypted_content``
comes in an answer of the Responses API and goes back with the next call, as it is; it is remembered by its
digest, which holds nothing of the user's.

Both are JSON strings, and a quote within a JSON string is escaped, so they are found without decoding their
surroundings.
"""

from __future__ import annotations

import re
from hashlib import blake2b

MOST_ITEMS = 128
"""Of one call or answer that are remembered: the last ones of encrypted items, the first ones of ids."""

SEARCHED = 1024 * 1024
"""Bytes at either end of a body in which ids are looked for."""

# Azure OpenAI's REST reference and the SDKs' tests. ``assistant-`` is how Azure names files of assistants.
# Messages and steps are named within their thread. Items of a response come back whole: they may go anywhere.
_KINDS = (
    "asst_",
    "assistant-",
    "batch_",
    "cfile_",
    "chatcmpl-",
    "cntr_",
    "conv_",
    "eval_",
    "evalrun_",
    "file-",
    "file_",
    "ftckpt_",
    "ftjob-",
    "gen_",
    "outputitem_",
    "resp_",
    "run_",
    "task_",
    "thread_",
    "upload_",
    "video_",
    "vs_",
    "vsfb_",
)
# The rest is random: not a word, as in "file_search", and of 16 characters at least.
_ID = re.compile(rf"(?:{'|'.join(_KINDS)})(?=[a-z-]*[0-9A-Z])[A-Za-z0-9-]{{16,128}}", re.ASCII)
_QUOTED_ID = re.compile(rb'"(' + _ID.pattern.encode() + rb')"')
_KEY = re.compile(rb'"encrypted_content"[ \t\r\n]{0,8}:[ \t\r\n]{0,8}"')


def is_id(text: str) -> bool:
    """Whether a text is an id of something that lives at one resource, as far as its form tells."""
    return _ID.fullmatch(text) is not None


def references_in(data: bytes) -> tuple[str, ...]:
    """The names of the encrypted items in a JSON text, the last one first, and then the ids in it."""
    places = [match.end() for match in _KEY.finditer(data)][-MOST_ITEMS:]
    found = []
    for start in reversed(places):
        end = data.find(b'"', start)
        if end > start:
            digest = blake2b(memoryview(data)[start:end], digest_size=16).hexdigest()
            found.append(f"encrypted {digest}")
    return (*dict.fromkeys(found), *ids_in(data))


def ids_in(data: bytes) -> tuple[str, ...]:
    """The ids in a JSON text, in their order. A key that looks like an id counts as one, too."""
    if len(data) > 2 * SEARCHED:
        data = data[:SEARCHED] + data[-SEARCHED:]
    found: dict[str, None] = {}
    for match in _QUOTED_ID.finditer(data):
        found[match[1].decode()] = None
        if len(found) == MOST_ITEMS:
            break
    return tuple(found)
