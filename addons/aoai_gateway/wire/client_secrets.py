"""Short-lived secrets of realtime sessions: a browser shows one, and so never has a key.

They are made by one resource, for one session's settings, and are known only there (Azure OpenAI, realtime by
WebRTC). The gateway remembers whose they are and where they are from, and by their digest only.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import astuple, dataclass

_LONGEST = 1_024
_BEGIN = "ek_"
_MOST = 256 * 1024


@dataclass(frozen=True, slots=True)
class Grant:
    """What a secret is good for: sessions of a client, for a deployment ("" for none) at an endpoint."""

    endpoint: str
    client: str
    deployment: str

    def written(self) -> str:
        """The same as text."""
        return json.dumps(astuple(self))

    @classmethod
    def read(cls, text: str) -> Grant | None:
        """Read what `written` gives; None for anything else."""
        try:
            endpoint, client, deployment = json.loads(text)
        except (ValueError, TypeError):
            return None
        return cls(str(endpoint), str(client), str(deployment))


def looks_minted(shown: str) -> bool:
    """Whether a credential has the form of such a secret."""
    return shown.startswith(_BEGIN) and len(shown) <= _LONGEST


def digest_of(secret: str) -> str:
    """The name under which a secret is remembered; it says nothing of the secret."""
    return f"secret {hashlib.blake2b(secret.encode(errors='surrogatepass'), digest_size=16).hexdigest()}"


def minted_in(answer: bytes) -> str | None:
    """The secret that an answer (JSON) gives: ``value``, or that of ``client_secret`` in the previews."""
    if len(answer) > _MOST:
        return None
    try:
        told = json.loads(answer)
    except (ValueError, RecursionError):
        return None
    if not isinstance(told, dict):
        return None
    inner = told.get("client_secret")
    value = inner.get("value") if isinstance(inner, dict) else told.get("value")
    return value if isinstance(value, str) and 8 <= len(value) <= _LONGEST else None
