"""Realtime at one resource: which sessions may be opened, and the short-lived secrets that open them."""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs

from aoai_simulator.forms import Sent, read_sent
from aoai_simulator.limits import Headers
from aoai_simulator.realtime import Session
from aoai_simulator.replies import JSON_TYPE, Reply, Upgrade, Whole, compact, error
from aoai_simulator.requests import read_object
from aoai_simulator.tokenizer import Tokenizer

MAX_SECRETS = 1_000
"""How many a resource keeps; the oldest goes first."""

SECRET_SECONDS = 60
"""For how long one is valid, unless it is asked for another time."""

MINTS = ("client_secrets", "sessions", "transcription_sessions")
"""Paths below ``realtime/`` at which secrets are made: the last two are those of previews."""

ANSWER_SDP = "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\n"


@dataclass(frozen=True, slots=True)
class Secret:
    """What a secret is good for."""

    expires: float
    deployment: str | None
    settings: Mapping[str, Any] = field(default_factory=dict)


class Sessions:
    """The sessions and secrets of one resource."""

    def __init__(self, randomness: random.Random, seed: int, tokenizer: Tokenizer) -> None:
        self._randomness = randomness
        self._seed = seed
        self._tokenizer = tokenizer
        self._secrets: OrderedDict[str, Secret] = OrderedDict()
        self._calls: OrderedDict[str, None] = OrderedDict()

    def clear(self) -> None:
        """Forget all secrets."""
        self._secrets.clear()
        self._calls.clear()

    def secret(self, headers: Mapping[str, str], unix_time: float) -> Secret | None:
        """The secret that a request shows, if it is one that is valid."""
        scheme, _, shown = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            shown = headers.get("api-key", "")
        found = self._secrets.get(shown.strip())
        return found if found is not None and found.expires > unix_time else None

    def knows(self, method: str, parts: tuple[str, ...]) -> bool:
        """Whether a path below ``realtime`` is one of those that are answered here."""
        if method != "POST" or parts[:1] != ("realtime",):
            return False
        if len(parts) == 4 and parts[1] == "calls":
            return parts[2] in self._calls
        return parts[1:] in (("calls",), *((each,) for each in MINTS))

    def asked(self, content_type: str, body: bytes) -> str | None:
        """Return the deployment that a request names: that of a secret, or of a call."""
        sent = read_sent(content_type, body)
        if not isinstance(sent, Sent):
            return None
        session = sent.fields.get("session")
        if isinstance(session, str):
            # In a form it is JSON in a field.
            read = read_object(session.encode())
            session = read if isinstance(read, dict) else None
        holder = session if isinstance(session, dict) else sent.fields
        name = holder.get("model")
        return name if isinstance(name, str) else None

    def answer(self, parts: tuple[str, ...], content_type: str, body: bytes, unix_time: int) -> Reply:
        """Answer a request that `knows` knows."""
        if parts[1] == "calls":
            return self._call(parts)
        sent = read_sent(content_type, body)
        if not isinstance(sent, Sent):
            return sent
        session = sent.fields.get("session")
        settings = dict(session) if isinstance(session, dict) else dict(sent.fields)
        after = sent.fields.get("expires_after")
        seconds = after.get("seconds", SECRET_SECONDS) if isinstance(after, dict) else SECRET_SECONDS
        value = f"ek_{self._randomness.getrandbits(128):032x}"
        model = settings.get("model")
        kept = {name: value for name, value in settings.items() if name not in ("model", "expires_after")}
        self._secrets[value] = Secret(unix_time + seconds, model if isinstance(model, str) else None, kept)
        if len(self._secrets) > MAX_SECRETS:
            self._secrets.popitem(last=False)
        ident = f"sess_{self._randomness.getrandbits(80):020x}"
        told = {**settings, "id": ident, "object": "realtime.session"}
        minted: dict[str, Any] = {"value": value, "expires_at": unix_time + seconds}
        whole = (
            {**minted, "session": told} if parts[1] == "client_secrets" else told | {"client_secret": minted}
        )
        return Whole(200, (JSON_TYPE,), compact(whole))

    def _call(self, parts: tuple[str, ...]) -> Reply:
        if len(parts) == 4:
            return Whole(200, (JSON_TYPE,), b"{}")
        ident = f"rtc_{self._randomness.getrandbits(128):032x}"
        self._calls[ident] = None
        headers: Headers = (
            ("content-type", "application/sdp"),
            ("location", f"/openai/v1/realtime/calls/{ident}"),
        )
        return Whole(201, headers, ANSWER_SDP.encode())

    def open(
        self, accepted: Headers, model: str, api_version: str, secret: Secret | None, length: int | None
    ) -> Upgrade:
        """Open a session."""
        session = Session(
            model,
            preview=api_version != "v1",
            seed=self._seed,
            tokenizer=self._tokenizer,
            ident=lambda: f"{self._randomness.getrandbits(160):040x}",
            settings=secret.settings if secret is not None else None,
            length=length,
        )
        return Upgrade(accepted, session)


def key_in_query(target: str) -> str | None:
    """The key in a request's query, as browsers send it."""
    named = parse_qs(target.partition("?")[2])
    keys = named.get("api-key")
    return keys[0] if keys else None


def no_handshake() -> Whole:
    """400 for a session that is asked for without a WebSocket's handshake."""
    return error(400, "BadRequest", "Expected a WebSocket handshake.")
