"""The worker process: takes jobs from its standard input until that ends, which is when the gateway ends.

A request is a `FRAME` with two lengths, the pickled job, and the body. An answer is a `FRAME` with its length
and 0, and the pickled result. Both ends are this package, of the same installation.
"""

from __future__ import annotations

import gc
import pickle
import struct
import traceback
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

from aoai_gateway import child_process
from aoai_gateway.tokens.bodies import read_prompt
from aoai_gateway.tokens.models import family_of
from aoai_gateway.tokens.prompt import Prompt
from aoai_gateway.wire.batch_file import Lines, read_lines
from aoai_gateway.wire.bodies import parse_body
from aoai_gateway.wire.gateway_error import GatewayError
from aoai_gateway.wire.request_body import RequestBody
from aoai_gateway.wire.targets import Target

if TYPE_CHECKING:
    from collections.abc import Callable

    type Do = Callable[[Any, bytes], object]

FRAME = struct.Struct(">QQ")


@dataclass(frozen=True, slots=True)
class Parse:
    """Decode and check a body. Gives a `RequestBody` without ``raw`` and long members."""

    target: Target
    content_type: str | None


@dataclass(frozen=True, slots=True)
class ReadPrompt:
    """Find the prompt in a body; ``model`` is the base model, None if unknown. Gives a condensed `Prompt`."""

    target: Target
    model: str | None


@dataclass(frozen=True, slots=True)
class ReadLines:
    """Read whole lines of a batch's input file, see `read_lines`. Gives `Lines`."""

    at: int
    before: Lines


@dataclass(frozen=True, slots=True)
class Bug:
    """Something that should not have happened. ``where`` quotes nothing of the body."""

    where: str


type Job = Parse | ReadPrompt | ReadLines
type Found = RequestBody | Prompt | Lines | GatewayError | Bug


def perform(job: Job, raw: bytes) -> Found:
    """Do a job; a fault in the body is a result, too."""
    try:
        match job:
            case Parse():
                return parse_body(job.target, job.content_type, raw, short=True).without_raw()
            case ReadLines():
                return read_lines(raw, job.at, job.before)
            case ReadPrompt():
                body = parse_body(job.target, "application/json", raw)
                prompt = read_prompt(job.target.operation.prompt_form, body.parsed, family_of(job.model))
                prompt.condense()
                return prompt
    except GatewayError as error:
        return error


def main(do: Do | None = None) -> None:
    """Work until the input ends. ``do`` does a job with a body: by default, those above."""
    requests, answers = child_process.begin()
    # JSON has no cycles, so there is nothing to look for in a million objects while they are made.
    gc.freeze()
    gc.disable()
    serve(requests, answers, do)


def serve(requests: BinaryIO, answers: BinaryIO, do: Do | None = None) -> None:
    """Answer every request."""
    while len(head := requests.read(FRAME.size)) == FRAME.size:
        job_size, raw_size = FRAME.unpack(head)
        answer = _answer(do or perform, requests.read(job_size), requests.read(raw_size))
        answers.write(FRAME.pack(len(answer), 0))
        answers.write(answer)
        answers.flush()
        gc.collect()


def _answer(do: Do, packed: bytes, raw: bytes) -> bytes:
    try:
        job = pickle.loads(packed)  # noqa: S301 - written by the gateway itself
        return pickle.dumps(do(job, raw))
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        bug = Bug("; ".join([type(error).__name__, *(f"{f.filename}:{f.lineno}" for f in frames)]))
        return pickle.dumps(bug)
