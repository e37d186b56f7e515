"""A realtime session: what its server says to each message of the client's. No I/O, no clock.

Text is answered by text, and where audio is wanted by audio too: silence, as long as the words would take.
Speech is never understood; it is a second of audio that ends a turn where the session listens for turns
(`turn_detection`). Usage counts a token for each hundred milliseconds of audio, in and out, and text as
everywhere; all that an earlier response has read is cached.
"""

from __future__ import annotations

import base64
import binascii
import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from aoai_simulator import filler_text as words
from aoai_simulator.tokenizer import Tokenizer

type Event = dict[str, Any]

BYTES_PER_TOKEN = 4_800
"""A hundred milliseconds of PCM16 at 24 kHz."""

SPEECH_BYTES = 48_000
"""After so much, a session that listens for turns takes a turn to be over."""

UNBOUNDED = 4_096
"""Tokens of a response without a bound."""

ASSUMED = 16
"""Tokens of such a response that the limiter reserves."""

TRANSCRIPT = "This is a simulated transcript."


@dataclass(slots=True)
class Counted:
    """Tokens of a conversation, by kind."""

    text: int = 0
    audio: int = 0

    @property
    def total(self) -> int:
        """Both together."""
        return self.text + self.audio


@dataclass(slots=True)
class Turn:
    """One response under way: what begins it, its deltas, and what ends it."""

    ident: str
    begin: list[Event]
    deltas: list[Event]
    end: list[Event]
    text_tokens: int
    audio_tokens: int
    taken: Counted
    cached: Counted
    item: dict[str, Any] = field(default_factory=dict)
    said: int = 0
    """Deltas that have gone out."""
    over: bool = False

    def usage(self) -> Mapping[str, Any]:
        """What it takes if it ends now."""
        share = self.said / len(self.deltas) if self.deltas else 1.0
        text, audio = round(self.text_tokens * share), round(self.audio_tokens * share)
        return {
            "total_tokens": self.taken.total + text + audio,
            "input_tokens": self.taken.total,
            "output_tokens": text + audio,
            "input_token_details": {
                "text_tokens": self.taken.text,
                "audio_tokens": self.taken.audio,
                "image_tokens": 0,
                "cached_tokens": self.cached.total,
                "cached_tokens_details": {
                    "text_tokens": self.cached.text,
                    "audio_tokens": self.cached.audio,
                },
            },
            "output_token_details": {"text_tokens": text, "audio_tokens": audio},
        }


class Session:
    """One session. Its ``book`` asks the deployment's limiter for tokens, and says whether it has them.

    ``preview``: whether it speaks as the API's previews did; ``ident`` draws the rest of an id.
    """

    def __init__(
        self,
        model: str,
        *,
        preview: bool,
        seed: int,
        tokenizer: Tokenizer,
        ident: Callable[[], str],
        settings: Mapping[str, Any] | None = None,
        length: int | None = None,
    ) -> None:
        self._model = model
        self._preview = preview
        self._seed = seed
        self._tokenizer = tokenizer
        self._ident = ident
        self.book: Callable[[int], bool] = lambda tokens: True
        self._length = length
        self._audio = bytearray()
        self._heard = Counted()
        self._read = Counted()
        self._text = ""
        self._names = 0
        self.turn: Turn | None = None
        kinds = "modalities" if preview else "output_modalities"
        self.settings: dict[str, Any] = {
            "id": f"sess_{ident()[:20]}",
            "object": "realtime.session",
            **({} if preview else {"type": "realtime"}),
            kinds: ["audio", "text"] if preview else ["audio"],
            **(settings or {}),
            "model": model,
        }

    def begin(self) -> list[Event]:
        """What is said once the session is open."""
        return [self._event("session.created", session=copy.deepcopy(self.settings))]

    def receive(self, message: Any) -> list[Event]:
        """Answer a message. A response that it begins is then `turn`."""
        if not isinstance(message, dict) or not isinstance(message.get("type"), str):
            return [self._error("The message is not an event.", "invalid_event", None)]
        step = _STEPS.get(message["type"])
        if step is None:
            return [self._error(f"Unknown event: {message['type']}", "unknown_event", message)]
        return list(step(self, message))

    def finish(self, status: str = "completed") -> list[Event]:
        """End the response under way."""
        turn, self.turn = self.turn, None
        assert turn is not None
        turn.over = True
        usage = turn.usage()
        details = usage["output_token_details"]
        self._heard.text += details["text_tokens"]
        self._heard.audio += details["audio_tokens"]
        told = {**self._response(turn.ident, status), "output": [turn.item], "usage": usage}
        end = turn.end if status == "completed" else []
        return [*end, self._event("response.done", response=told)]

    # --- the steps -------------------------------------------------------------------------------------

    def _update(self, message: Event) -> Iterator[Event]:
        asked = message.get("session")
        if not isinstance(asked, dict):
            yield self._error("Missing required parameter: 'session'.", "missing_required_parameter", message)
            return
        self.settings |= {name: value for name, value in asked.items() if name not in ("id", "model")}
        kind = "transcription_session.updated" if "transcription" in message["type"] else "session.updated"
        yield self._event(kind, session=copy.deepcopy(self.settings))

    def _create_item(self, message: Event) -> Iterator[Event]:
        item = message.get("item")
        if not isinstance(item, dict):
            yield self._error("Missing required parameter: 'item'.", "missing_required_parameter", message)
            return
        for part in item.get("content") or ():
            if isinstance(part, dict) and isinstance(part.get("text"), str):
                self._text = part["text"]
                self._heard.text += len(self._tokenizer.split(part["text"], self._model))
            elif isinstance(part, dict) and isinstance(part.get("audio"), str):
                self._heard.audio += _tokens_of(_decoded(part["audio"]) or b"")
        yield from self._added({"id": f"item_{self._ident()[:20]}", "object": "realtime.item", **item})

    def _append(self, message: Event) -> Iterator[Event]:
        piece = _decoded(message.get("audio"))
        if piece is None:
            yield self._error("Invalid 'audio'. Expected base64.", "invalid_value", message)
            return
        self._audio += piece
        if not self._listens or len(self._audio) < SPEECH_BYTES:
            return
        item = f"item_{self._ident()[:20]}"
        yield self._event("input_audio_buffer.speech_started", audio_start_ms=0, item_id=item)
        yield self._event(
            "input_audio_buffer.speech_stopped", audio_end_ms=len(self._audio) // 48, item_id=item
        )
        yield from self._committed(item)
        if self.turn is None:
            yield from self._respond({})

    def _commit(self, message: Event) -> Iterator[Event]:
        if len(self._audio) < BYTES_PER_TOKEN:
            yield self._error(
                "Error committing input audio buffer: buffer too small.",
                "input_audio_buffer_commit_empty",
                message,
            )
            return
        yield from self._committed(f"item_{self._ident()[:20]}")

    def _committed(self, item: str) -> Iterator[Event]:
        tokens = _tokens_of(bytes(self._audio))
        self._audio.clear()
        self._heard.audio += tokens
        yield self._event("input_audio_buffer.committed", item_id=item, previous_item_id=None)
        content = [{"type": "input_audio", "transcript": None}]
        made = {"id": item, "object": "realtime.item", "type": "message", "role": "user", "content": content}
        yield from self._added(made)
        if self._transcribes:
            usage = {"type": "tokens", "input_tokens": tokens, "output_tokens": 6, "total_tokens": tokens + 6}
            yield self._event(
                "conversation.item.input_audio_transcription.completed",
                item_id=item,
                content_index=0,
                transcript=TRANSCRIPT,
                usage={**usage, "input_token_details": {"text_tokens": 0, "audio_tokens": tokens}},
            )

    def _clear(self, _: Event) -> Iterator[Event]:
        self._audio.clear()
        yield self._event("input_audio_buffer.cleared")

    def _create(self, message: Event) -> Iterator[Event]:
        if self.turn is not None:
            text = "Conversation already has an active response in progress."
            yield self._error(text, "conversation_already_has_active_response", message)
            return
        asked = message.get("response")
        yield from self._respond(asked if isinstance(asked, dict) else {})

    def _cancel(self, message: Event) -> Iterator[Event]:
        if self.turn is None:
            text = "Cancellation failed: no active response found."
            yield self._error(text, "response_cancel_not_active", message)
            return
        yield from self.finish("cancelled")

    # --- responses -------------------------------------------------------------------------------------

    def _respond(self, asked: Mapping[str, Any]) -> Iterator[Event]:
        ident = f"resp_{self._ident()[:20]}"
        yield self._event("response.created", response=self._response(ident, "in_progress"))
        bound = self._wanted(asked, ("max_output_tokens", "max_response_output_tokens"), int, UNBOUNDED)
        if not self.book(self._heard.total + (bound if bound < UNBOUNDED else ASSUMED)):
            error = {"type": "tokens", "code": "rate_limit_exceeded", "message": "Rate limit reached."}
            failed = {
                **self._response(ident, "failed"),
                "status_details": {"type": "failed", "error": error},
            }
            yield self._event("response.done", response={**failed, "output": [], "usage": None})
            return
        self.turn = self._made(ident, asked, bound)
        yield from self.turn.begin

    def _wanted[T](self, asked: Mapping[str, Any], names: tuple[str, ...], kind: type[T], default: T) -> T:
        """Find a value under one of its names: in what is asked for, else in the session's settings."""
        values = (holder.get(name) for holder in (asked, self.settings) for name in names)
        return next((value for value in values if isinstance(value, kind)), default)

    def _made(self, ident: str, asked: Mapping[str, Any], bound: int) -> Turn:
        audible = "audio" in self._wanted(asked, ("output_modalities", "modalities"), list, ["audio"])
        pieces = self._pieces()[:bound]
        taken, cached = copy.copy(self._heard), copy.copy(self._read)
        self._read = copy.copy(taken)
        item: Event = {"id": f"item_{self._ident()[:20]}", "object": "realtime.item", "type": "message"}
        content_type = ("audio" if self._preview else "output_audio") if audible else "output_text"
        if self._preview and not audible:
            content_type = "text"
        where: Event = {"response_id": ident, "item_id": item["id"], "output_index": 0, "content_index": 0}
        begun = {**item, "role": "assistant", "status": "in_progress", "content": []}
        part = {"type": content_type, "transcript" if audible else "text": ""}
        text = "".join(pieces)
        said = {"type": content_type, "transcript" if audible else "text": text}
        done = {**begun, "status": "completed", "content": [said]}
        return Turn(
            ident,
            [
                self._event("response.output_item.added", response_id=ident, output_index=0, item=begun),
                *self._added(begun),
                self._event("response.content_part.added", **where, part=part),
            ],
            list(self._deltas(pieces, where, audible=audible)),
            [
                *self._dones(text, where, audible=audible),
                self._event("response.content_part.done", **where, part=said),
                self._event("response.output_item.done", response_id=ident, output_index=0, item=done),
            ],
            text_tokens=len(pieces),
            audio_tokens=2 * len(pieces) if audible else 0,
            taken=taken,
            cached=cached,
            item=done,
        )

    def _pieces(self) -> tuple[str, ...]:
        if self._text.startswith(words.ECHO):
            return self._tokenizer.split(self._text.removeprefix(words.ECHO).strip(), self._model)
        source = words.digest(self._seed, self._text)
        return words.prose(source, self._length or words.natural_length(source))

    def _deltas(self, pieces: tuple[str, ...], where: Event, *, audible: bool) -> Iterator[Event]:
        silence = base64.b64encode(bytes(2 * BYTES_PER_TOKEN)).decode()
        for piece in pieces:
            if audible:
                yield self._event(self._kind("audio_transcript.delta"), **where, delta=piece)
                yield self._event(self._kind("audio.delta"), **where, delta=silence)
            else:
                yield self._event(self._kind("text.delta"), **where, delta=piece)

    def _dones(self, text: str, where: Event, *, audible: bool) -> Iterator[Event]:
        if audible:
            yield self._event(self._kind("audio_transcript.done"), **where, transcript=text)
            yield self._event(self._kind("audio.done"), **where)
        else:
            yield self._event(self._kind("text.done"), **where, text=text)

    # --- words -----------------------------------------------------------------------------------------

    @property
    def _listens(self) -> bool:
        own = self.settings.get("turn_detection") or self._audio_input.get("turn_detection")
        return isinstance(own, dict)

    @property
    def _transcribes(self) -> bool:
        own = self.settings.get("input_audio_transcription") or self._audio_input.get("transcription")
        return isinstance(own, dict)

    @property
    def _audio_input(self) -> Mapping[str, Any]:
        audio = self.settings.get("audio")
        found = audio.get("input") if isinstance(audio, dict) else None
        return found if isinstance(found, dict) else {}

    def _kind(self, kind: str) -> str:
        return f"response.{kind}" if self._preview else f"response.output_{kind}"

    def _added(self, item: Event) -> Iterator[Event]:
        kinds = ("created",) if self._preview else ("added", "done")
        for kind in kinds:
            yield self._event(f"conversation.item.{kind}", previous_item_id=None, item=item)

    def _response(self, ident: str, status: str) -> Event:
        told = {"id": ident, "object": "realtime.response", "status": status, "status_details": None}
        return {**told, "output": [], "usage": None}

    def _error(self, message: str, code: str, about: Event | None) -> Event:
        error = {"type": "invalid_request_error", "code": code, "message": message, "param": None}
        return self._event("error", error={**error, "event_id": (about or {}).get("event_id")})

    def _event(self, kind: str, **members: Any) -> Event:
        self._names += 1
        return {"type": kind, "event_id": f"event_{self._names}", **members}


_STEPS: Mapping[str, Callable[[Session, Event], Iterator[Event]]] = {
    "session.update": Session._update,
    "transcription_session.update": Session._update,
    "conversation.item.create": Session._create_item,
    "input_audio_buffer.append": Session._append,
    "input_audio_buffer.commit": Session._commit,
    "input_audio_buffer.clear": Session._clear,
    "response.create": Session._create,
    "response.cancel": Session._cancel,
}


def _decoded(audio: object) -> bytes | None:
    try:
        return base64.b64decode(audio, validate=True) if isinstance(audio, str) else None
    except (ValueError, binascii.Error):
        return None


def _tokens_of(audio: bytes) -> int:
    return -(-len(audio) // BYTES_PER_TOKEN)
