"""Request bodies: the facts, the refusals, and edits that touch nothing else."""

import base64
import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aoai_gateway.wire.bodies import parse_body
from aoai_gateway.wire.gateway_error import GatewayError
from aoai_gateway.wire.json_members import read_document
from aoai_gateway.wire.request_body import RequestBody
from aoai_gateway.wire.targets import Target, parse_target

CHAT = parse_target("POST", "/openai/deployments/path-dep/chat/completions?api-version=2024-10-21")
OLD_CHAT = parse_target("POST", "/openai/deployments/path-dep/chat/completions?api-version=2024-06-01")
CHAT_V1 = parse_target("POST", "/openai/v1/chat/completions")
COMPLETIONS = parse_target("POST", "/openai/v1/completions")
EMBEDDINGS = parse_target("POST", "/openai/v1/embeddings")
RESPONSES = parse_target("POST", "/openai/v1/responses")


def parse(document: dict[str, Any] | bytes, target: Target = CHAT_V1) -> RequestBody:
    raw = document if isinstance(document, bytes) else json.dumps(document).encode()
    return parse_body(target, "application/json", raw)


def refusal(document: dict[str, Any] | bytes, target: Target = CHAT_V1) -> GatewayError:
    with pytest.raises(GatewayError) as caught:
        parse(document, target)
    assert caught.value.status == 400
    return caught.value


# --- facts -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [("a", 1), (["a", "b", "c"], 3), ([1, 2, 3], 1), ([[1, 2], [3]], 2), ([], 1), (None, 1)],
)
def test_a_call_for_completions_can_have_several_prompts(prompt: object, prompts: int) -> None:
    assert parse({"prompt": prompt}, COMPLETIONS).prompts == prompts
    assert parse({"prompt": prompt}).prompts == 1


def test_facts_of_a_chat_call() -> None:
    body = parse(
        {
            "model": "gpt-4o",
            "stream": True,
            "max_tokens": 5,
            "max_completion_tokens": 7,
            "n": 2,
            "stream_options": {"include_usage": False},
            "prompt_cache_key": "k",
            "store": False,
        }
    )
    assert (body.model, body.stream, body.max_tokens, body.n) == ("gpt-4o", True, 7, 2)
    assert (body.include_usage, body.prompt_cache_key, body.store) == (False, "k", False)


def test_what_is_absent_or_null_is_the_default() -> None:
    nothing = dict.fromkeys(
        ("model", "stream", "max_tokens", "n", "stream_options", "store", "prompt_cache_key")
    )
    for document in ({}, nothing):
        body = parse(document)
        assert (body.model, body.stream, body.max_tokens, body.n, body.best_of) == (None, False, None, 1, 1)
        assert (body.include_usage, body.store, body.prompt_cache_key) == (None, None, None)


def test_facts_of_a_response() -> None:
    body = parse(
        {
            "model": "m",
            "input": [{"role": "user", "content": "x"}, {"type": "reasoning", "encrypted_content": "gAAA"}],
            "previous_response_id": "resp_1",
            "conversation": {"id": "conv_1"},
            "background": True,
            "max_output_tokens": 9,
            "n": "not a parameter of this operation",
        },
        RESPONSES,
    )
    assert (body.previous_response_id, body.conversation_id) == ("resp_1", "conv_1")
    assert (body.background, body.has_encrypted_reasoning) == (True, True)
    assert (body.max_tokens, body.n) == (9, 1)
    assert (
        parse({"model": "m", "input": "x", "conversation": "conv_2"}, RESPONSES).conversation_id == "conv_2"
    )
    assert not parse(
        {"model": "m", "input": [{"encrypted_content": None}, 1]}, RESPONSES
    ).has_encrypted_reasoning


def test_facts_of_a_completion_and_of_embeddings() -> None:
    assert parse({"best_of": 3, "n": 2, "max_tokens": 0}, COMPLETIONS).best_of == 3
    body = parse({"model": "ada", "input": ["x"], "stream": True, "max_tokens": "no parameter"}, EMBEDDINGS)
    assert (body.stream, body.max_tokens) == (False, None)


def test_the_paths_deployment_wins() -> None:
    assert parse({"model": "other"}, CHAT).deployment(CHAT) == "path-dep"
    assert parse({"model": "other"}, CHAT_V1).deployment(CHAT_V1) == "other"
    with pytest.raises(GatewayError) as caught:
        parse({}, CHAT_V1).deployment(CHAT_V1)
    assert (caught.value.status, caught.value.code) == (400, "missing_deployment")


def test_the_repr_holds_no_content() -> None:
    body = parse({"model": "m", "messages": [{"content": "hunter2"}], "prompt_cache_key": "hunter2"})
    assert "hunter2" not in repr(body)


# --- refusals ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"", "empty"),
        (b"hunter2", "line 1, column 1"),
        (b'{"a":hunter2}', "line 1, column 6"),
        (b"[1, 2]", "not an object"),
        (b"\xef\xbb\xbf{}", "byte order mark"),
        (b'{"a":"hunter2\xff"}', "not UTF-8 (at byte 13)"),
        (b'{"a":"\xed\xa0\x80"}', "not UTF-8"),
        ('{"model":"x"}'.encode("utf-16"), "not UTF-8"),
        (b'{"a":NaN}', "NaN"),
        (b'{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}", "nested too deeply"),
    ],
)
def test_what_is_not_a_json_object(raw: bytes, says: str) -> None:
    message = refusal(raw).message
    assert says in message
    assert "hunter2" not in message


@pytest.mark.parametrize(
    "raw",
    [
        b'{"model":"a","model":"a"}',
        b'{"model":"a","mod\\u0065l":"b"}',
        b'{"\\u006dodel":"a","messages":[],"model":null}',
    ],
)
def test_model_twice(raw: bytes) -> None:
    error = refusal(raw)
    assert error.param == "model"
    assert "more than once" in error.message


def test_other_keys_twice_are_refused_too_without_echoing_odd_ones() -> None:
    assert refusal(b'{"max_tokens":1,"max_tokens":99}').param == "max_tokens"
    error = refusal(b'{"hunter2 !":1,"hunter2 !":2}')
    assert "hunter2" not in error.message


def test_a_nested_model_is_not_a_second_one() -> None:
    assert parse(b'{"tools":[{"model":"x","model":"y"}],"model":"a"}').model == "a"


@pytest.mark.parametrize(
    ("document", "param"),
    [
        ({"model": 1}, "model"),
        ({"model": ["x"]}, "model"),
        ({"model": "x" * 257}, "model"),
        ({"model": "a\r\nb"}, "model"),
        ({"model": "\ud800"}, "model"),
        ({"stream": 1}, "stream"),
        ({"stream": "true"}, "stream"),
        ({"max_tokens": "5"}, "max_tokens"),
        ({"max_tokens": 5.0}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_completion_tokens": 2**31}, "max_completion_tokens"),
        ({"max_tokens": 10**400}, "max_tokens"),
        ({"n": 0}, "n"),
        ({"stream_options": []}, "stream_options"),
        ({"stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
        ({"store": "no"}, "store"),
        ({"prompt_cache_key": 1}, "prompt_cache_key"),
    ],
)
def test_wrong_types_are_named(document: dict[str, Any], param: str) -> None:
    assert refusal(document).param == param


def test_wrong_types_of_other_operations() -> None:
    assert refusal({"best_of": 0}, COMPLETIONS).param == "best_of"
    assert refusal({"previous_response_id": 1}, RESPONSES).param == "previous_response_id"
    assert refusal({"background": "yes"}, RESPONSES).param == "background"
    assert refusal({"max_output_tokens": None, "stream": 0}, RESPONSES).param == "stream"


def test_stream_options_must_be_unambiguous() -> None:
    raw = b'{"stream_options":{"include_usage":false,"include_usage":true}}'
    assert refusal(raw).param == "stream_options"


@pytest.mark.parametrize(
    "content_type", ["multipart/form-data; boundary=x", " Application/X-WWW-Form-URLencoded"]
)
def test_forms_are_refused(content_type: str) -> None:
    with pytest.raises(GatewayError) as caught:
        parse_body(CHAT, content_type, b"{}")
    assert caught.value.code == "unsupported_media_type"


@pytest.mark.parametrize(
    "content_type",
    [None, "", "application/json; charset=utf-8", "text/plain", "application/json,application/json"],
)
def test_other_content_types_pass(content_type: str | None) -> None:
    assert parse_body(CHAT, content_type, b'{"model":"m"}').model == "m"


# --- edits -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["", None])
def test_an_empty_model_is_none_where_the_path_names_the_deployment(model: str | None) -> None:
    body = parse({"model": model, "messages": []}, CHAT)
    assert body.model is None
    assert body.deployment(CHAT) == "path-dep"
    with pytest.raises(GatewayError) as caught:
        parse({"model": model, "messages": []}).deployment(CHAT_V1)
    assert caught.value.code == "missing_deployment"
    once = json.loads(body.edited(model="x", add_model=True), object_pairs_hook=list)
    assert once == [("model", "x"), ("messages", [])]


def test_an_edit_of_the_model_touches_nothing_else() -> None:
    raw = '{ "tools":[{"model":"x"}],\t"mod\\u0065l" : "ö\\"\\u00e9" ,"\u2028":1e0, "n":1 }'.encode()
    body = parse(raw)
    assert body.model == 'ö"é'
    assert body.edited("new") == raw.replace('"ö\\"\\u00e9"'.encode(), b'"new"')
    assert body.edited() is raw


def test_without_a_model_none_is_added() -> None:
    assert parse(b'{"n":1}', CHAT).edited("x") == b'{"n":1}'


@pytest.mark.parametrize(
    ("raw", "edited"),
    [
        (b"{}", b'{"stream_options":{"include_usage":true}}'),
        (b'{ "a":1}', b'{"stream_options":{"include_usage":true}, "a":1}'),
        (b'{"stream_options":null}', b'{"stream_options":{"include_usage":true}}'),
        (b'{"stream_options": { }}', b'{"stream_options": {"include_usage":true }}'),
        (
            b'{"stream_options":{"include_obfuscation":false}}',
            b'{"stream_options":{"include_usage":true,"include_obfuscation":false}}',
        ),
        (b'{"stream_options":{"include_usage": false }}', b'{"stream_options":{"include_usage": true }}'),
        (b'{"stream_options":{"include_usage":null}}', b'{"stream_options":{"include_usage":true}}'),
        (b'{"stream_options":{"include_usage":true}}', b'{"stream_options":{"include_usage":true}}'),
        (
            b'\n{"stream_options":{"x":{"include_usage":0}}}',
            b'\n{"stream_options":{"include_usage":true,"x":{"include_usage":0}}}',
        ),
    ],
)
def test_usage_is_asked_for(raw: bytes, edited: bytes) -> None:
    assert parse(raw).edited(include_usage=True) == edited


@pytest.mark.parametrize(
    ("target", "raw", "edited"),
    [
        (CHAT_V1, b'{"max_tokens":9}', b'{"max_tokens":5}'),
        (
            CHAT_V1,
            b'{"max_completion_tokens":9,"max_tokens":8}',
            b'{"max_completion_tokens":5,"max_tokens":5}',
        ),
        (
            CHAT_V1,
            b'{"max_completion_tokens":9,"max_tokens":null}',
            b'{"max_completion_tokens":5,"max_tokens":null}',
        ),
        (CHAT_V1, b'{"max_tokens":null}', b'{"max_tokens":5}'),
        (CHAT_V1, b'{"a":1}', b'{"max_completion_tokens":5,"a":1}'),
        (OLD_CHAT, b'{"a":1}', b'{"max_tokens":5,"a":1}'),
        (COMPLETIONS, b"{}", b'{"max_tokens":5}'),
        (RESPONSES, b'{"max_output_tokens":99}', b'{"max_output_tokens":5}'),
        (RESPONSES, b"{ }", b'{"max_output_tokens":5 }'),
        (EMBEDDINGS, b'{"a":1}', b'{"a":1}'),
    ],
)
def test_max_tokens_is_set(target: Target, raw: bytes, edited: bytes) -> None:
    assert parse(raw, target).edited(max_tokens=5) == edited


def test_edits_go_together() -> None:
    raw = b'{"messages":[],"max_tokens":9,"stream":true,"model":"a"}'
    assert parse(raw).edited(model="b", include_usage=True, max_tokens=5) == (
        b'{"stream_options":{"include_usage":true},"messages":[],"max_tokens":5,"stream":true,"model":"b"}'
    )
    assert parse(b'{"stream":true}').edited(model="b", include_usage=True, max_tokens=5) == (
        b'{"stream_options":{"include_usage":true},"max_completion_tokens":5,"stream":true}'
    )


@pytest.mark.parametrize(
    ("raw", "target", "edited"),
    [
        (b'{"n" : 5,"best_of":7 }', COMPLETIONS, b'{"n" : 2,"best_of":3 }'),
        (b'{"best_of":7,"prompt":"\xc3\xa9","n":5}', COMPLETIONS, b'{"best_of":3,"prompt":"\xc3\xa9","n":2}'),
        (b'{"n":null}', COMPLETIONS, b'{"n":2}'),
        (b'{"n":5,"best_of":7}', CHAT_V1, b'{"n":2,"best_of":7}'),  # chat does not know best_of
        (b'{"n":5,"best_of":7}', RESPONSES, b'{"n":5,"best_of":7}'),
        (b'{"metadata":{"n":5}}', CHAT_V1, b'{"metadata":{"n":5}}'),
        (b'{"n":5,"best_of":7}', EMBEDDINGS, b'{"n":5,"best_of":7}'),
        (b"{}", COMPLETIONS, b"{}"),
    ],
)
def test_counts_are_replaced_where_they_are_given(raw: bytes, target: Target, edited: bytes) -> None:
    assert parse(raw, target).edited(n=2, best_of=3) == edited


@pytest.mark.parametrize(
    ("document", "target", "key"),
    [
        ({}, CHAT_V1, "max_completion_tokens"),
        ({}, OLD_CHAT, "max_tokens"),
        ({"max_tokens": 5}, CHAT_V1, "max_tokens"),
        ({"max_tokens": 5, "max_completion_tokens": 4}, CHAT_V1, "max_tokens"),
        ({"max_tokens": 4, "max_completion_tokens": 5}, CHAT_V1, "max_completion_tokens"),
        ({"max_tokens": None}, CHAT_V1, "max_completion_tokens"),
        ({"max_completion_tokens": 5}, OLD_CHAT, "max_completion_tokens"),
        ({"max_tokens": 5}, RESPONSES, "max_output_tokens"),
        ({"max_output_tokens": 0}, RESPONSES, "max_output_tokens"),
        ({}, COMPLETIONS, "max_tokens"),
        ({"max_tokens": 5}, EMBEDDINGS, None),
    ],
)
def test_which_key_bounds_the_completion(document: dict[str, Any], target: Target, key: str | None) -> None:
    assert parse(document, target).max_tokens_key == key


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**6), 10**6) | st.text(max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["model", "stream_options", "max_tokens", "é", '"']), inner, max_size=3
        )
    ),
    max_leaves=8,
)
BODIES = st.fixed_dictionaries(
    {},
    optional={
        "model": st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=9),
        "messages": JSON_VALUES,
        "tools": JSON_VALUES,
        "ünïcode\n": JSON_VALUES,
        "max_tokens": st.none() | st.integers(0, 1000),
        "stream": st.booleans(),
        "stream_options": st.none()
        | st.fixed_dictionaries(
            {}, optional={"include_usage": st.none() | st.booleans(), "include_obfuscation": JSON_VALUES}
        ),
    },
).flatmap(lambda document: st.permutations(list(document.items())).map(dict))


@given(
    BODIES,
    st.booleans(),
    st.sampled_from([(None, (",", ":")), (None, (", ", ": ")), (1, (" ,", " : "))]),
    st.none() | st.text(min_size=1, max_size=9),
    st.booleans(),
    st.none() | st.integers(0, 99),
)
def test_an_edited_body_is_the_old_one_with_the_edits(
    document: dict[str, Any],
    ascii_only: bool,
    layout: tuple[int | None, tuple[str, str]],
    model: str | None,
    include_usage: bool,
    max_tokens: int | None,
) -> None:
    raw = json.dumps(document, ensure_ascii=ascii_only, indent=layout[0], separators=layout[1]).encode()
    edited = parse(raw).edited(model, include_usage, max_tokens)
    expected = dict(document)
    if model is not None and "model" in document:
        expected["model"] = model
    if include_usage:
        expected["stream_options"] = {**(document.get("stream_options") or {}), "include_usage": True}
    if max_tokens is not None:
        expected["max_tokens" if "max_tokens" in document else "max_completion_tokens"] = max_tokens
    assert json.loads(edited) == expected
    # Whatever was not edited stands in it in the same bytes and in the same order.
    position = 0
    for key, value in document.items():
        if expected[key] == value:
            piece = _member(raw, key)
            position = edited.index(piece, position) + len(piece)


def _member(raw: bytes, key: str) -> bytes:
    text = raw.decode()
    member = next(member for member in read_document(text) if member.key == key)
    return text[member.start : member.end].encode()


def test_a_large_body_costs_little_more_than_decoding_it() -> None:
    image = base64.b64encode(bytes(range(256)) * 30_000).decode()
    raw = json.dumps({"messages": [{"content": [{"image_url": {"url": image}}]}], "model": "m"}).encode()
    assert len(raw) > 10_000_000

    def best(action: Any) -> float:
        times = []
        for _ in range(5):
            start = time.perf_counter()
            action()
            times.append(time.perf_counter() - start)
        return min(times)

    plain = best(lambda: json.loads(raw))
    ours = best(lambda: parse(raw).edited(model="other", include_usage=True))
    # A loop in Python over ten million bytes would be far outside of this.
    assert ours < 10 * plain + 0.05
