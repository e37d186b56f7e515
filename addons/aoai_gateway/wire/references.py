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
"""The items of one call or answer that are remembered: the last ones of encrypted items, the first ones of
ids."""

SEARCHED = 256 * 1024
"""Bytes at either end of a body in which ids are looked for."""

LONGEST_ID = 2_048
"""Characters. Azure's have up to some 100; LiteLLM, as a backend, writes its route into them: some 450."""

DIGESTED = 16 * 1024
"""Bytes at either end of an encrypted item by which it is remembered, besides its length."""

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
    "rtc_",
    "run_",
    "task_",
    "thread_",
    "upload_",
    "video_",
    "vs_",
    "vsfb_",
)
# The rest is random: not a word, as in "file_search", and of 16 characters at least. With underscores, as
# base64 for URLs has them, it is longer than words that are joined by them.
_RANDOM = rf"(?=[a-z-]*[0-9A-Z])[A-Za-z0-9-]{{16,128}}|[A-Za-z0-9_-]{{129,{LONGEST_ID}}}={{0,2}}"
_ID = re.compile(rf"(?:{'|'.join(_KINDS)})(?:{_RANDOM})", re.ASCII)
# A look at the first letter spares most quotes the comparison with each kind.
_FIRST = "".join(sorted({kind[0] for kind in _KINDS}))
_QUOTED_ID = re.compile(rf'"(?=[{_FIRST}])({_ID.pattern})"'.encode())
_NAME = b'"encrypted_content"'
_VALUE = re.compile(rb'[ \t\r\n]{0,8}:[ \t\r\n]{0,8}"')


def is_id(text: str) -> bool:
    """Whether a text is an id of something that lives at one resource, as far as its form tells."""
    return _ID.fullmatch(text) is not None


def references_in(data: bytes) -> tuple[str, ...]:
    """The names of the encrypted items in a JSON text, the last one first, and then the ids in it.

    Takes some milliseconds at most, for any text of no more than some megabytes.
    """
    found, at = [], len(data)
    for _ in range(MOST_ITEMS):
        at = data.rfind(_NAME, 0, at)
        if at < 0:
            break
        value = _VALUE.match(data, at + len(_NAME))
        end = data.find(b'"', value.end()) if value is not None else -1
        if value is not None and end > value.end():
            found.append(f"encrypted {_digest(memoryview(data)[value.end() : end])}")
    return (*dict.fromkeys(found), *ids_in(data))


def _digest(item: memoryview) -> str:
    if len(item) <= 2 * DIGESTED:
        return blake2b(item, digest_size=16).hexdigest()
    digest = blake2b(item[:DIGESTED], digest_size=16)
    digest.update(item[-DIGESTED:])
    digest.update(len(item).to_bytes(8))
    return digest.hexdigest()


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
