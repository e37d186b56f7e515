"""What a flow tells about a call beside the bytes of its bodies."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

_OPERATION = re.compile(
    r"(?:(?:^|/)openai/(?:v1/|deployments/(?P<deployment>[^/?]+)/)?"
    r"(?P<operation>chat/completions|completions|embeddings|responses|realtime)"
    r"|(?:(?:^|/)anthropic|^)/v1/(?P<claudes>messages(?:/count_tokens)?))(?=[/?]|$)"
)
_NAMES = {"chat/completions": "chat.completions", "messages/count_tokens": "messages.count_tokens"}

TITLES: Mapping[str, str] = {
    "chat.completions": "Chat completion",
    "completions": "Completion",
    "embeddings": "Embeddings",
    "responses": "Response",
    "realtime": "Realtime",
    "messages": "Message to Claude",
    "messages.count_tokens": "Token count for Claude",
}


@dataclass(frozen=True, slots=True)
class Facts:
    """One message's surroundings; everything may be missing.

    ``operation`` is the SDKs' name of it (``chat.completions``), "" if the path is not one of theirs;
    ``headers`` have lower-case names; ``metadata`` is the flow's, as in `aoai_gateway.inspect.annotate`.
    """

    operation: str = ""
    deployment: str = ""
    status: int | None = None
    content_type: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    metadata: Mapping[str, object] = field(default_factory=dict)
    comment: str = ""

    def number(self, key: str) -> float | None:
        """A number of the metadata, if it is a finite one: another addon may have written anything there."""
        value = self.metadata.get(key)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            return None
        return value

    def name(self, key: str) -> str:
        """A string of the metadata, or an empty one."""
        value = self.metadata.get(key)
        return value if isinstance(value, str) else ""


def operation_of(path: str) -> tuple[str, str]:
    """The operation and the deployment that a request's path names; both empty for any other path.

    What precedes ``/openai/`` does not matter: a failed attempt's flow shows the path as it was sent, with
    the prefix of its endpoint (Azure OpenAI behind API Management).
    """
    found = _OPERATION.search(path.partition("?")[0])
    if found is None:
        return "", ""
    operation = found["operation"] or found["claudes"]
    return _NAMES.get(operation, operation), found["deployment"] or ""
