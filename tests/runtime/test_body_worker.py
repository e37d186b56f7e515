"""The worker's side of the pipe."""

import io
import json
import pickle
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from aoai_gateway.runtime import body_worker as worker
from aoai_gateway.runtime.body_worker import FRAME, Bug, Job, Parse, ReadPrompt, perform, serve
from aoai_gateway.tokens import Counter
from aoai_gateway.tokens.models import family_of
from aoai_gateway.tokens.prompt import Prompt
from aoai_gateway.tokens.text import EXACT_CHARS, EXACT_TEXTS
from aoai_gateway.wire.bodies import parse_body
from aoai_gateway.wire.gateway_error import GatewayError
from aoai_gateway.wire.operations import OPERATIONS
from aoai_gateway.wire.request_body import RequestBody
from aoai_gateway.wire.targets import Target, parse_target
from tests.encodings import encodings
from tests.examples import examples

CHAT = parse_target("POST", "/openai/v1/chat/completions")


def request(job: object, raw: bytes) -> bytes:
    packed = pickle.dumps(job)
    return FRAME.pack(len(packed), len(raw)) + packed + raw


def answers(*requests: bytes) -> list[Any]:
    out = io.BytesIO()
    serve(io.BytesIO(b"".join(requests)), out)
    out.seek(0)
    read = []
    while head := out.read(FRAME.size):
        size, _ = FRAME.unpack(head)
        read.append(pickle.loads(out.read(size)))
    return read


def test_one_answer_for_each_body_in_order() -> None:
    models = ["a", "b", "東京"]
    found = answers(*(request(Parse(CHAT, None), json.dumps({"model": m}).encode()) for m in models))
    assert [body.model for body in found] == models


def test_a_request_that_breaks_off_is_the_end() -> None:
    whole = request(Parse(CHAT, None), b"{}")
    assert len(answers(whole, whole[:5])) == 1


def test_a_bug_is_told_without_the_body(monkeypatch: pytest.MonkeyPatch) -> None:
    def perform(job: Job, raw: bytes) -> None:
        raise ValueError(raw.decode())

    monkeypatch.setattr(worker, "perform", perform)
    bug, other = answers(*[request(Parse(CHAT, None), b'{"x":"secret"}')] * 2)
    assert isinstance(bug, Bug)
    assert "ValueError" in bug.where
    assert "test_body_worker.py" in bug.where
    assert "secret" not in bug.where
    assert other == bug


# --- bodies that are read there, against the same bodies read on the spot ----------------------------------

TARGETS = [
    parse_target("POST", path)
    for path in (
        "/openai/v1/chat/completions",
        "/openai/deployments/d/chat/completions?api-version=2024-06-01",
        "/openai/v1/completions",
        "/openai/v1/embeddings",
        "/openai/v1/responses",
    )
]
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-3, 2**31)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8)
    | st.sampled_from(["\ud800", "a\udfffb", "東京🎈", "x" * 5000])
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
PARTS = st.fixed_dictionaries({"type": st.sampled_from(["text", "input_text", "?"]), "text": SCALARS})
MESSAGES = st.lists(
    st.fixed_dictionaries({"role": st.just("user"), "content": SCALARS | st.lists(PARTS, max_size=4)})
    | st.fixed_dictionaries({"type": st.just("reasoning"), "encrypted_content": st.just("gAAA")}),
    max_size=4,
)
BODIES = st.fixed_dictionaries(
    {},
    optional={
        "model": st.sampled_from(["gpt-4o", "東京", None, "x" * 300, 1]),
        "messages": MESSAGES,
        "input": MESSAGES | SCALARS | st.lists(st.integers(0, 9)),
        "prompt": SCALARS | st.lists(st.text(max_size=5)) | st.lists(st.lists(st.integers(0, 9))),
        "stream": st.booleans() | st.none(),
        "stream_options": st.none() | st.fixed_dictionaries({}, optional={"include_usage": st.booleans()}),
        "max_tokens": st.none() | st.integers(-1, 2**31),
        "max_completion_tokens": st.none() | st.integers(0, 99),
        "max_output_tokens": st.integers(1, 99),
        "n": st.integers(0, 5) | st.none(),
        "best_of": st.integers(1, 5),
        "background": st.booleans(),
        "previous_response_id": st.text(max_size=5),
        "conversation": st.just({"id": "conv_1"}),
        "metadata": VALUES,
    },
)
RAW = (
    st.builds(lambda body, ascii_only: json.dumps(body, ensure_ascii=ascii_only), BODIES, st.booleans())
    .map(lambda text: text.encode("utf-8", "surrogatepass"))
    .flatmap(lambda raw: st.sampled_from([raw, raw, raw, raw[:-1], b" " + raw + b"\n", raw + b"x"]))
)


def elsewhere(job: Parse | ReadPrompt, raw: bytes) -> Any:
    """What comes back of a job, over both pipes."""
    return pickle.loads(pickle.dumps(perform(pickle.loads(pickle.dumps(job)), raw)))


def on_the_spot(target: Target, content_type: str | None, raw: bytes) -> RequestBody | GatewayError:
    try:
        return parse_body(target, content_type, raw)
    except GatewayError as error:
        return error


def facts(body: RequestBody) -> dict[str, Any]:
    names = [name for name in RequestBody.__slots__ if name not in ("raw", "parsed", "whole")]
    return {name: getattr(body, name) for name in names}


@settings(max_examples=examples(300), deadline=None)
@given(st.sampled_from(TARGETS), RAW, st.sampled_from([None, "application/json", "multipart/form-data"]))
@example(TARGETS[0], b'{"messages":[]}', None)
@example(TARGETS[0], b'{"n":1,"n":2}', None)
@example(TARGETS[0], b"[1]", None)
@example(TARGETS[0], b"\xff", None)
@example(TARGETS[0], b'{"metadata":' + b"[" * 900 + b"]" * 900 + b"}", None)
@example(TARGETS[0], b'{"metadata":' + b"[" * 100_000, None)
def test_the_same_as_on_the_spot(target: Target, raw: bytes, content_type: str | None) -> None:
    found = elsewhere(Parse(target, content_type), raw)
    here = on_the_spot(target, content_type, raw)
    if isinstance(here, GatewayError):
        assert isinstance(found, GatewayError)
        assert (found.status, found.body(), found.headers) == (here.status, here.body(), here.headers)
        return
    assert facts(found) == facts(here)
    assert found.operation is here.operation
    assert not found.raw
    assert not found.whole
    assert here.whole
    assert found.parsed.items() <= here.parsed.items()
    assert found.max_tokens_key == here.max_tokens_key
    there = RequestBody(**{**{n: getattr(found, n) for n in RequestBody.__slots__}, "raw": raw})
    for edits in ({"model": "other", "max_tokens": 3, "n": 2, "best_of": 2}, {"include_usage": True}):
        assert there.edited(**edits) == here.edited(**edits)  # type: ignore[arg-type]


@settings(max_examples=examples(200), deadline=None)
@given(st.sampled_from(TARGETS), RAW)
def test_its_prompt_counts_the_same(target: Target, raw: bytes) -> None:
    found = elsewhere(ReadPrompt(target, "gpt-4o"), raw)
    here = on_the_spot(target, None, raw)
    if isinstance(here, GatewayError):
        assert isinstance(found, GatewayError)
        return
    same_count(found, target, here, Counter())


def same_count(found: Prompt, target: Target, here: RequestBody, counter: Counter) -> None:
    found.family = family_of("gpt-4o")
    counted = counter.count_prompt(found)
    assert counted == counter.count_request(target.operation.name, here.parsed, "gpt-4o")


@pytest.mark.parametrize("texts", [["word " * EXACT_CHARS], ["a"] * (2 * EXACT_TEXTS), ["🎈\ud800"] * 20])
def test_of_a_long_prompt_a_sample_comes_back(texts: list[str]) -> None:
    target = TARGETS[0]
    raw = json.dumps({"messages": [{"role": "user", "content": text} for text in texts]}).encode()
    found = elsewhere(ReadPrompt(target, "gpt-4o"), raw)
    assert len(found.texts) <= EXACT_TEXTS
    assert sum(map(len, found.texts)) <= EXACT_CHARS + 2**16
    for counter in (Counter(), Counter(encodings())):
        same_count(found, target, parse_body(target, None, raw), counter)


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
def test_operations_stay_themselves(operation: object) -> None:
    assert pickle.loads(pickle.dumps(operation)) is operation
