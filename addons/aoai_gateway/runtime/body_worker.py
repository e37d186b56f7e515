"""The worker process: takes jobs from its standard input until that ends, which is when the gateway ends."""

from __future__ import annotations

import gc
import pickle
import traceback
from typing import TYPE_CHECKING, Any, BinaryIO

from aoai_gateway import child_process
from aoai_gateway.runtime.body_jobs import FRAME, Bug, perform

if TYPE_CHECKING:
    from collections.abc import Callable

    type Do = Callable[[Any, bytes], object]


def main(do: Do | None = None) -> None:
    """Work until the input ends. ``do`` does a job with a body: by default, those of `body_jobs`."""
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


if __name__ == "__main__":
    main()
