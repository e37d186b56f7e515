"""The standin's name in answers, and everything else byte for byte."""

import json
import random
import time
from typing import Any

import pytest

from aoai_gateway.wire.model_names import MOST_TOKENS, ModelNames
from aoai_gateway.wire.stream import StreamReader

NAMES = ModelNames({"gpt-4o-ptu": "gpt-4o"})

CHUNK = (
    b'data: {"choices":[{"content_filter_results":{},"delta":{"content":"a {brace"},"index":0}],"created":1,'
    b'"id":"chatcmpl-1","model":"gpt-4o-ptu","object":"chat.completion.chunk","usage":null}\n\n'
)


def answer(text: str) -> str:
    return NAMES.in_answer(text.encode()).decode()


@pytest.mark.parametrize(
    "text",
    [
        '{"model":"%s"}',
        '{"id":"x","choices":[{"message":{"content":"}"}}],"model" : "%s"}',
        '{\n  "choices": [{}, {}],\n  "model"\t:\r\n "%s",\n  "usage": {"total_tokens": 7}\n}',
        '{"a":{"b":[{"c":"}{"}]},"model":"%s","usage":{"details":{"cached":1}}}',
        '  {"a":"\\"","model":"%s","z":{"model":"other"}}',
    ],
)
def test_the_answers_own_model_is_replaced(text: str):
    assert answer(text % "gpt-4o-ptu") == text % "gpt-4o"
    assert answer(text % "GPT-4o-PTU") == text % "gpt-4o"


@pytest.mark.parametrize(
    "text",
    [
        '{"model":"gpt-4o-2024-08-06"}',
        '{"model":"gpt-4o-ptu-2"}',
        '{"model":null}',
        '{"metadata":{"model":"gpt-4o-ptu"},"usage":{"a":{}}}',
        '{"tools":[{"type":"x","model":"gpt-4o-ptu"}],"usage":{"a":{}}}',
        '{"response":[{"model":"gpt-4o-ptu"}],"usage":{"a":{}}}',
        '{"a":"\\"model\\":\\"gpt-4o-ptu\\"","b":{}}',
        '{"a":["model","gpt-4o-ptu"]}',
        '{"data":[{"x":{"model":"gpt-4o-ptu"}},[{"model":"gpt-4o-ptu"}]],"object":"list","x":{}}',
        '{"tools":[{"model":"gpt-4o-ptu"}],"object":"response","x":{}}',
        '{"data":{"model":"gpt-4o-ptu"},"x":{}}',
        "not JSON at all",
        "",
    ],
)
def test_everything_else_stays(text: str):
    body = text.encode()
    assert NAMES.in_answer(body) is body


def test_entries_of_a_list_name_it_too():
    text = (
        '{"object":"list","data":[{"id":"a","model":"%s"},{"id":"b","model":"%s","x":{}}],"has_more":false}'
    )
    assert answer(text % ("gpt-4o-ptu", "gpt-4o-ptu")) == text % ("gpt-4o", "gpt-4o")
    single = '{"object":"list","data":[{"id":"a","model":"%s"}]}'
    assert answer(single % "gpt-4o-ptu") == single % "gpt-4o"


def test_one_that_looks_the_same_deeper_down_stays():
    inner = '{"metadata":{"model":"gpt-4o-ptu"},"x":{"y":{}},"model":"%s","tools":[{"model":"gpt-4o-ptu"}]}'
    assert answer(inner % "gpt-4o-ptu") == inner % "gpt-4o"


def test_a_name_is_written_as_json():
    names = ModelNames({"s": 'a"b\\c'})
    assert json.loads(names.in_answer(b'{"model":"s"}')) == {"model": 'a"b\\c'}


def test_an_event_names_it_in_its_response():
    event = (
        b'event: response.created\ndata: {"type":"response.created","response":{"metadata":'
        b'{"model":"gpt-4o-ptu"},'
        b'"model":"%s","tools":[{"model":"gpt-4o-ptu"}]},"sequence_number":0}\n\n'
    )
    assert NAMES.in_event(event % b"gpt-4o-ptu") == event % b"gpt-4o"
    nested = b'data: {"item":{"model":"gpt-4o-ptu"},"a":{}}\n\n'
    assert NAMES.in_event(nested) is nested
    comment = b': {"model":"gpt-4o-ptu"}\n\n'
    assert NAMES.in_event(comment) is comment


def stream(parts: list[bytes], operation: str = "chat.completions", **options: Any) -> bytes:
    reader = StreamReader(operation, names=NAMES, **options)
    return b"".join([*(reader.feed(part) for part in parts), reader.flush()])


@pytest.mark.parametrize("end", [b"\n\n", b"\r\n\r\n", b"\r\r"])
@pytest.mark.parametrize("seed", range(5))
def test_across_the_borders_of_chunks(end: bytes, seed: int):
    events = [
        CHUNK,
        b'data: {"choices":[],"model":""}\n\n',
        b'data:{"model":\t"gpt-4o-ptu","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n',
        b"data: [DONE]\n\n",
    ]
    whole = b"".join(event.replace(b"\n\n", end) for event in events)
    drawn = random.Random(seed)
    borders = sorted(drawn.sample(range(1, len(whole)), 12))
    parts = [whole[a:b] for a, b in zip([0, *borders], [*borders, len(whole)], strict=True)]
    expected = whole.replace(b'"gpt-4o-ptu"', b'"gpt-4o"')
    assert stream(parts) == expected
    assert stream([bytes([byte]) for byte in whole]) == expected


def test_json_over_several_lines_of_data():
    event = b'data: {"id": "x",\ndata:  "model": "%s",\ndata:  "usage": {"a": {}}}\n\n'
    assert NAMES.in_event(event % b"gpt-4o-ptu") == event % b"gpt-4o"


def test_the_record_keeps_the_truth():
    reader = StreamReader("chat.completions", names=NAMES)
    assert b'"model":"gpt-4o"' in reader.feed(CHUNK)
    assert reader.model == "gpt-4o-ptu"
    assert not reader.keeps_size()


def test_a_stream_of_a_known_length_that_names_nothing_at_first_keeps_it():
    reader = StreamReader("chat.completions", names=NAMES)
    first = b'data: {"choices":[{"index":0,"delta":{"content":"Hi"}}]}\n\n'
    assert reader.feed(first) == first
    assert reader.keeps_size()
    assert reader.feed(CHUNK) == CHUNK


def test_it_works_beside_the_removal_of_usage():
    assert stream([CHUNK], remove_usage=True) == CHUNK.replace(b"-ptu", b"").replace(b',"usage":null', b"")


def test_a_last_event_without_its_empty_line():
    assert stream([CHUNK.rstrip(b"\n")]) == CHUNK.rstrip(b"\n").replace(b"-ptu", b"")


def test_a_large_event_is_not_decoded():
    text = b"x" * 300_000
    event = b'data: {"type":"response.completed","response":{"instructions":"%s","model":"%s","a":{}}}\n\n'
    whole = event % (text, b"gpt-4o-ptu")
    assert stream([whole[:70_000], whole[70_000:]], "responses") == event % (text, b"gpt-4o")


@pytest.mark.parametrize(
    "body",
    [
        b"{" * 1_000_000 + b'"model":"gpt-4o-ptu"' + b"}" * 1_000_000,
        b'{"a":[' + b"{}," * 300_000 + b'{}],"model":"gpt-4o-ptu","b":[' + b"{}," * 300_000 + b"{}]}",
        b'{"a":{' + b'"model":"gpt-4o-ptu",' * 50_000 + b'"b":{}}}',
        b'{"a":{' + b'"model":"gpt-4o-ptu","x":{},' * 50_000 + b'"b":{}}}',
        b'{"a":"' + b"\\" * 1_000_000 + b'","model":"gpt-4o-ptu","b":{}}',
        b'"' * 1_000_001 + b'"model":"gpt-4o-ptu"{{}}',
    ],
)
def test_nothing_takes_long(body: bytes):
    begun = time.process_time()
    NAMES.in_answer(body)
    assert time.process_time() - begun < 1.0, "a bound, however slow the machine"


def test_what_is_beyond_the_bound_stays():
    body = b'{"a":[' + b"{}," * MOST_TOKENS + b'{}],"model":"gpt-4o-ptu","b":[' + b"{}," * 5_000 + b"{}]}"
    assert NAMES.in_answer(body) is body


def test_random_documents_read_as_json_reads_them():
    drawn = random.Random(7)

    def value(depth: int) -> Any:
        kind = drawn.random()
        if depth == 0 or kind < 0.5:
            return drawn.choice(
                ["gpt-4o-ptu", 'a"}{[', "\\", "model", '"model":"gpt-4o-ptu"', 7, None, "é", ""]
            )
        if kind < 0.6:
            return [value(depth - 1) for _ in range(drawn.randint(0, 3))]
        keys = ["model", "response", "x", 'odd"key{', "usage"]
        return {key: value(depth - 1) for key in drawn.sample(keys, drawn.randint(0, 5))}

    def renamed(document: Any, *places: str) -> Any:
        found = {place: renamed(document[place]) for place in places if isinstance(document.get(place), dict)}
        found = {**document, **found}
        return {**found, "model": "gpt-4o"} if found.get("model") == "gpt-4o-ptu" else found

    for _ in range(3_000):
        document = {"id": value(1), **{str(n): value(3) for n in range(drawn.randint(0, 3))}}
        document |= {key: value(3) for key in drawn.sample(["model", "response"], drawn.randint(0, 2))}
        space = drawn.choice([None, 2])
        text = json.dumps(document, indent=space, ensure_ascii=drawn.random() < 0.5)
        shown = answer(text)
        assert json.loads(shown) == renamed(document, "response"), text
        assert len(text) - len(shown) in (0, 4, 8)
