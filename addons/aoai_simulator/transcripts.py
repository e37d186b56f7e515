"""Transcripts and translations of audio, in each form that can be asked for.

Source: the reference of the audio API. The newer models tell the tokens that they took; whisper tells none,
but has forms with times: ``verbose_json``, ``srt`` and ``vtt``.
"""

from __future__ import annotations

from typing import Any

from aoai_simulator.forms import Sent
from aoai_simulator.replies import JSON_TYPE, Reply, Whole, compact, named_events

TEXT = "This is a simulated transcript."
_BYTES_PER_SECOND = 32_000
"""Of speech as WAV, 16 bits at 16 kHz."""


def transcript(operation: str, sent: Sent, model: str) -> Reply:
    """Answer a call that has sent a file."""
    assert sent.file is not None
    taken = max(1, len(sent.file) // 1_000)
    cost = taken + 6
    usage = {} if model.startswith("whisper") else {"usage": _usage(taken)}
    form = sent.fields.get("response_format")
    seconds = round(max(0.1, len(sent.file) / _BYTES_PER_SECOND), 2)
    if form in ("text", "srt", "vtt"):
        return Whole(200, (("content-type", "text/plain; charset=utf-8"),), _text(form, seconds), cost)
    if sent.fields.get("stream") == "true" and operation.endswith("transcriptions"):
        delta = {"type": "transcript.text.delta", "delta": TEXT}
        return named_events([delta, {"type": "transcript.text.done", "text": TEXT, **usage}], cost)
    if form == "verbose_json":
        task = "translate" if operation.endswith("translations") else "transcribe"
        # Of a field that is sent twice, forms keep one value: a request for either kind gets the words, too.
        words = "timestamp_granularities[]" in sent.fields
        body = {"task": task, "language": "english", **_timed(seconds, words=words), **usage}
        return Whole(200, (JSON_TYPE,), compact(body), cost)
    return Whole(200, (JSON_TYPE,), compact({"text": TEXT, **usage}), cost)


def _usage(taken: int) -> dict[str, Any]:
    return {
        "type": "tokens",
        "input_tokens": taken,
        "input_token_details": {"audio_tokens": taken, "text_tokens": 0},
        "output_tokens": 6,
        "total_tokens": taken + 6,
    }


def _text(form: str, seconds: float) -> bytes:
    begin, end = (_clock(at, "," if form == "srt" else ".") for at in (0.0, seconds))
    if form == "srt":
        return f"1\n{begin} --> {end}\n{TEXT}\n\n".encode()
    if form == "vtt":
        return f"WEBVTT\n\n{begin} --> {end}\n{TEXT}\n\n".encode()
    return f"{TEXT}\n".encode()


def _clock(seconds: float, point: str) -> str:
    milliseconds = round(seconds * 1000)
    minutes, rest = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{rest // 1000:02}{point}{rest % 1000:03}"


def _timed(seconds: float, *, words: bool) -> dict[str, Any]:
    """The text with the times of its one segment, and those of its words if they are asked for."""
    end = {"avg_logprob": -0.2, "compression_ratio": 1.0, "no_speech_prob": 0.01, "temperature": 0.0}
    segment = {"id": 0, "seek": 0, "start": 0.0, "end": seconds, "text": TEXT, "tokens": [], **end}
    timed: dict[str, Any] = {"duration": seconds, "text": TEXT, "segments": [segment]}
    if words:
        spoken = TEXT.rstrip(".").split()
        each = seconds / len(spoken)
        timed["words"] = [
            {"word": word, "start": round(n * each, 2), "end": round((n + 1) * each, 2)}
            for n, word in enumerate(spoken)
        ]
    return timed
