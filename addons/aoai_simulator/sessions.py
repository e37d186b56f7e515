"""Sessions (WebSockets) at one resource: their handshakes, and the short-lived secrets that open them.

What is said in a session of realtime is in `realtime`; a session of responses is here. No I/O.
"""

from __future__ import annotations

import json
import random
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from wsproto.utilities import generate_accept_token

from aoai_simulator.limits import Headers
from aoai_simulator.realtime import Session
from aoai_simulator.replies import Frames, Reply, Upgrade, Whole, compact, error, json_reply
from aoai_simulator.requests import Request, Sent, read_object, read_sent
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

    def asked(self, request: Request) -> str | None:
        """Return the deployment that a request names: that of a secret, or of a call."""
        sent = read_sent(request)
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

    def answer(self, parts: tuple[str, ...], request: Request, unix_time: int) -> Reply:
        """Answer a request that `knows` knows."""
        if parts[1] == "calls":
            return self._call(parts)
        sent = read_sent(request)
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
        return json_reply(whole)

    def _call(self, parts: tuple[str, ...]) -> Reply:
        if len(parts) == 4:
            return json_reply({})
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


def handshake(headers: Mapping[str, str]) -> Headers | None:
    """The fields that accept a handshake (RFC 6455 §4.2.2); None for a request that is no handshake."""
    key = headers.get("sec-websocket-key", "")
    if headers.get("upgrade", "").lower() != "websocket" or not key:
        return None
    fields = [
        ("upgrade", "websocket"),
        ("connection", "Upgrade"),
        ("sec-websocket-accept", generate_accept_token(key.encode()).decode()),
    ]
    offered = [each.strip() for each in headers.get("sec-websocket-protocol", "").split(",")]
    if "realtime" in offered:
        fields.append(("sec-websocket-protocol", "realtime"))
    return tuple(fields)


def no_handshake() -> Whole:
    """400 for a session that is asked for without a WebSocket's handshake."""
    return error(400, "BadRequest", "Expected a WebSocket handshake.")


type Event = dict[str, Any]


@dataclass(slots=True)
class Streamed:
    """The events of one response, as they go out."""

    deltas: list[Event]
    said: int = 0
    over: bool = False


class ResponseSession:
    """One session. ``ask`` answers the body of a request for a response, streamed."""

    def __init__(self) -> None:
        self.ask: Callable[[bytes], Reply] = lambda body: Whole(500, (), b"{}")
        self.book: Callable[[int], bool] = lambda tokens: True
        self.turn: Streamed | None = None

    def begin(self) -> list[Event]:
        """What is said once the session is open: nothing."""
        return []

    def receive(self, message: Any) -> list[Event]:
        """Answer a message. A response that it begins is then `turn`."""
        if not isinstance(message, dict) or message.get("type") != "response.create":
            return [
                _error(
                    400,
                    {"code": "invalid_event", "message": "Unknown event.", "type": "invalid_request_error"},
                )
            ]
        if self.turn is not None:
            return [_error(400, {"code": "response_in_progress", "message": "A response is in progress."})]
        body = {name: value for name, value in message.items() if name not in ("type", "background")}
        reply = self.ask(compact({**body, "stream": True}))
        if isinstance(reply, Frames):
            self.turn = Streamed(list(_events(reply)))
            return []
        assert isinstance(reply, Whole)
        return [_error(reply.status, json.loads(reply.body)["error"])]

    def finish(self, status: str = "completed") -> list[Event]:
        """End the response under way: its last event has been said."""
        self.turn = None
        return []


def _events(reply: Frames) -> list[Event]:
    lines = b"".join(reply.frames).decode().splitlines()
    data = [line.removeprefix("data: ") for line in lines if line.startswith("data: {")]
    return [json.loads(each) for each in data]


def _error(status: int, error: Event) -> Event:
    return {"type": "error", "status": status, "error": error}
