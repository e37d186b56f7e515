"""A request's body as it was read: its facts, and edits that leave all other bytes as they came."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import Any

from aoai_gateway.wire.batch_file import Lines
from aoai_gateway.wire.errors import invalid_body, missing_deployment
from aoai_gateway.wire.json_members import replaced
from aoai_gateway.wire.operation import Classic, Model, Operation
from aoai_gateway.wire.stored import InMemory, Pieces, Stored
from aoai_gateway.wire.targets import Target

Span = tuple[int, int]

_LONGEST_MODEL = 256


@dataclass(frozen=True, slots=True)
class EditPoints:
    """Where edits go, as offsets into the raw bytes."""

    brace: int = 0  # right after the document's opening brace
    has_members: bool = False
    model: Span | None = None
    file: Span | None = None  # a batch's input, of which the lines are yet to be read
    max_tokens: tuple[Span, ...] = ()
    max_tokens_key: str | None = None  # which key to add when there is none
    n: Span | None = None
    best_of: Span | None = None
    include_usage: Span | None = None
    stream_options_brace: int | None = None  # right after its opening brace
    stream_options_has_members: bool = False
    stream_options_null: Span | None = None


@dataclass(slots=True)
class RequestBody:
    """A request body and its facts. It is never changed; not frozen, since that trebles the time to make one.

    ``parsed`` is the decoded JSON object, not to be changed; where ``whole`` is False, only its short, flat
    members; of a form, its short fields that matter here. ``is_json``: whether it is JSON. ``text_size`` is
    the bytes of a JSON body less those of images, audio and files, ``prompts`` the number of prompts in a
    call for completions. ``max_tokens`` is the completion's bound as the client gave it (in chat the larger
    of ``max_completion_tokens`` and ``max_tokens``), ``include_usage`` the same member of
    ``stream_options``; None where the request has none. ``n`` and ``best_of`` are 1 where absent. The repr
    holds no content.
    """

    operation: Operation
    raw: bytes = field(repr=False)
    parsed: dict[str, Any] = field(repr=False)
    whole: bool = True
    is_json: bool = True
    text_size: int = 0
    prompts: int = 1
    model: str | None = None
    stream: bool = False
    max_tokens: int | None = None
    n: int = 1
    best_of: int = 1
    include_usage: bool | None = None
    background: bool = False
    store: bool | None = None
    previous_response_id: str | None = field(default=None, repr=False)
    conversation_id: str | None = field(default=None, repr=False)
    prompt_cache_key: str | None = field(default=None, repr=False)
    has_encrypted_reasoning: bool = False
    references: tuple[str, ...] = field(default=(), repr=False)
    """References that only one resource can resolve, the most telling first (`wire.references`)."""
    coded: bytes | None = field(default=None, repr=False)
    """The body as it came, where it came with a content coding; ``raw`` is its text then."""
    stored: Stored | None = field(default=None, repr=False)
    """The body where it is not in memory; ``raw`` is empty then."""
    lines: Lines | None = field(default=None, repr=False)
    """What a batch's input file names, where the body is a form that holds one, and it was read."""
    edits: EditPoints = field(default=EditPoints(), repr=False)

    def deployment(self, target: Target) -> str:
        """The deployment that is asked for: the path's wins, as on Azure, else ``model``.

        "" for an operation that can do without one. Raises `GatewayError` 400 when it cannot.
        """
        if self.operation.model is Model.NONE:
            return ""
        name = target.deployment or self.model
        if name is None and self.operation.model is Model.REQUIRED:
            raise missing_deployment(in_path=self.operation.classic is not Classic.BODY)
        return name or ""

    @property
    def size(self) -> int:
        """Bytes of the body."""
        return len(self.raw) if self.stored is None else len(self.stored)

    def ends(self, most: int) -> tuple[bytes, bytes]:
        """The first and the last bytes of the body."""
        if self.stored is None:
            return self.raw[:most], self.raw[-most:]
        return self.stored.read(0, most), self.stored.read(max(0, self.size - most), self.size)

    @property
    def max_tokens_key(self) -> str | None:
        """The member that gives ``max_tokens``, or that would give it; None where nothing can."""
        given = (
            key
            for key in self.operation.bounds
            if self.max_tokens is not None and self.parsed.get(key) == self.max_tokens
        )
        return next(given, self.edits.max_tokens_key)

    def without_raw(self) -> RequestBody:
        """The same facts, without the bytes: the caller of the parser has those."""
        return replace(self, raw=b"")

    def with_lines(self, lines: Lines) -> RequestBody:
        """Return the same body with the deployment that the lines of its batch file name."""
        return replace(self, lines=lines, model=lines.model)

    def sent(self, model: str | None, **edits: Any) -> bytes | Pieces:
        """The body as it goes out, with ``model`` and more set (`edited`); in pieces unless it is short."""
        if self.stored is not None or (self.lines is not None and model not in (None, self.model)):
            return self.edited_upload(model)
        return self.edited(model=model, **edits)

    def edited_upload(self, model: str | None) -> Pieces:
        """A stored body, or a batch's, with ``model`` set where it has one, all other bytes as they came."""
        stored, span = self.stored or InMemory(self.raw), self.edits.model
        if model is None or model == self.model:
            return Pieces(stored, [])
        if self.lines is not None:
            return self.lines.renamed(stored, model)
        return Pieces(stored, [(span, model.encode())] if span is not None else [])

    def edited(
        self,
        model: str | None = None,
        include_usage: bool = False,
        max_tokens: int | None = None,
        n: int | None = None,
        best_of: int | None = None,
        add_model: bool = False,
    ) -> bytes:
        """The body with some values set, and all other bytes as they came.

        ``model``: replaced where there is one, never added (a classic call may do without), unless
        ``add_model`` says so.
        ``include_usage``: ``stream_options.include_usage`` becomes true; only streaming calls may have it.
        ``max_tokens``: every bound that the body gives is set to it; without any, the operation's own is
        added (in chat ``max_completion_tokens`` where the api-version knows it).
        ``n``, ``best_of``: replaced where they are given, never added (absent, they are 1).
        """
        points = self.edits
        changes: list[tuple[Span, bytes]] = []
        added: list[bytes] = []
        if model is not None and model != self.model:
            written = json.dumps(model) if self.is_json else model
            if points.model is not None:
                changes.append((points.model, written.encode()))
            elif add_model and self.is_json:
                added.append(b'"model":' + written.encode())
        if include_usage and self.include_usage is not True:
            if points.include_usage is not None:
                changes.append((points.include_usage, b"true"))
            elif points.stream_options_brace is not None:
                comma = b"," if points.stream_options_has_members else b""
                place = points.stream_options_brace
                changes.append(((place, place), b'"include_usage":true' + comma))
            elif points.stream_options_null is not None:
                changes.append((points.stream_options_null, b'{"include_usage":true}'))
            else:
                added.append(b'"stream_options":{"include_usage":true}')
        if max_tokens is not None:
            changes += [(span, b"%d" % max_tokens) for span in points.max_tokens]
            if not points.max_tokens and points.max_tokens_key is not None:
                added.append(b'"%s":%d' % (points.max_tokens_key.encode(), max_tokens))
        for span, count in ((points.n, n), (points.best_of, best_of)):
            if span is not None and count is not None:
                changes.append((span, b"%d" % count))
        if added:
            comma = b"," if points.has_members else b""
            changes.append(((points.brace, points.brace), b",".join(added) + comma))
        if changes:
            return replaced(self.raw, sorted(changes))
        return self.raw if self.coded is None else self.coded


def checked_model(model: str | None) -> str | None:
    """Return a deployment's name as a body gives it, None for none. Raises `GatewayError` 400."""
    if not model:
        # Microsoft's samples for JavaScript write "" where the client has the deployment, and so the path.
        return None
    # Printable also rules out lone surrogates, which no log and no header could take.
    if len(model) > _LONGEST_MODEL or not model.isprintable():
        raise invalid_body("'model' must be the name of a deployment.", param="model")
    return model
