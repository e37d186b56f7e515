"""The lines of a batch's input file: the deployment that they name, and its name replaced."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aoai_gateway.wire import batch_file as module
from aoai_gateway.wire import stored
from aoai_gateway.wire.batch_file import Lines, read_file, whole_lines
from aoai_gateway.wire.bodies import parse_body, parse_upload
from aoai_gateway.wire.gateway_error import GatewayError
from aoai_gateway.wire.stored import InMemory, Pieces
from aoai_gateway.wire.targets import parse_target

FILES = parse_target("POST", "/openai/v1/files")
FORM = "multipart/form-data; boundary=xyz"


class Kept(InMemory):
    """A body that counts how much of it is read, at a time and in all."""

    largest = total = 0

    def read(self, start: int, end: int) -> bytes:
        self.largest, self.total = max(self.largest, end - start), self.total + end - start
        return super().read(start, end)


def line(model: Any = "gpt-4o", **more: Any) -> bytes:
    return json.dumps(
        {"custom_id": "1", "url": "/v1/chat/completions", "body": {"model": model}, **more}
    ).encode()


def form(file: bytes, purpose: bytes = b"batch", *, first: bool = True) -> bytes:
    head = b'--xyz\r\ncontent-disposition: form-data; name="%s"%s\r\n\r\n%s\r\n'
    parts = [head % (b"purpose", b"", purpose), head % (b"file", b'; filename="b.jsonl"', file)]
    return b"".join(parts if first else parts[::-1]) + b"--xyz--\r\n"


def read(*lines: bytes, end: bytes = b"\n") -> Lines:
    data = b"\n".join(lines) + end
    return read_file(InMemory(data), 0, len(data))


def renamed(file: bytes, model: str) -> bytes:
    pieces = read_file(InMemory(file), 0, len(file)).renamed(InMemory(file), model)
    sent = b"".join(pieces.blocks())
    assert len(sent) == len(pieces)
    return sent


PLAIN = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
)
JSON = st.recursive(
    PLAIN,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text() | st.just("model"), inner, max_size=3)
    ),
    max_leaves=8,
)


@st.composite
def documents(draw: st.DrawFn) -> tuple[list[dict[str, Any]], bytes]:
    """Draw lines of a file, and their bytes, written in one of several ways."""
    rows, written = [], []
    for _ in range(draw(st.integers(1, 6))):
        members: dict[str, Any] = draw(st.dictionaries(st.text(), JSON, max_size=3))
        body: dict[str, Any] = draw(st.dictionaries(st.text(), JSON, max_size=3))
        members.pop("url", None)
        body["model"] = "gpt-4o"
        members["body"] = body
        for held in (members, body):
            order = draw(st.permutations(list(held)))
            values = dict(held)
            held.clear()
            held.update((key, values[key]) for key in order)
        rows.append(members)
        ascii_, spaced = (
            draw(st.booleans()),
            draw(st.sampled_from([(",", ":"), (", ", ": "), (" ,\t", " :\r")])),
        )
        try:
            text = json.dumps(members, ensure_ascii=ascii_, separators=spaced).encode()
        except UnicodeEncodeError:
            text = json.dumps(members).encode()
        written.append(
            text + draw(st.sampled_from([b"", b"\r", b"  "])) + draw(st.sampled_from([b"", b"\n", b"\n \t"]))
        )
    return rows, b"\n".join(written) + draw(st.sampled_from([b"", b"\n"]))


@settings(max_examples=150, deadline=None)
@given(documents(), st.text(min_size=1, max_size=20), st.integers(1, 60))
def test_the_lines_say_the_same_but_for_the_model(
    drawn: tuple[list[dict[str, Any]], bytes], name: str, block: int
) -> None:
    rows, file = drawn
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BLOCK", block)
        patch.setattr(stored, "BLOCK", block)
        sent = renamed(file, name)
    for row in rows:
        row["body"]["model"] = name
    found = [json.loads(each) for each in sent.split(b"\n") if each.strip()]
    assert found == rows
    assert renamed(file, "gpt-4o") == file, "with the same name, each byte is the same"


@pytest.mark.parametrize(
    ("lines", "code", "message"),
    [
        ([], "empty_file", "The batch's input file has no lines."),
        ([b" ", b"\r"], "empty_file", "The batch's input file has no lines."),
        ([line(), b"", line("other")], "model_mismatch", "Line 3 of .* another deployment than line 1; "),
        (
            [line(), b"{"],
            "invalid_json_line",
            r"Line 2 of .* is not a request in JSON: .*\(line 1, column 2\)",
        ),
        ([line() + b"\r" + line("other")], "invalid_json_line", "Line 1 of .* more follows"),
        ([b'"gpt-4o"'], "invalid_json_line", "not an object"),
        ([b"\xef\xbb\xbf" + line()], "invalid_json_line", "byte order mark"),
        ([b'{"body":{"model":"\xff"}}'], "invalid_json_line", "not UTF-8"),
        ([b'{"body":{"model":"a"},"body":{"model":"b"}}'], "invalid_json_line", "'body' stands in it more"),
        ([b'{"body":{"model":"a","mod\\u0065l":"b"}}'], "invalid_json_line", "'model' stands in it more"),
        ([b'{"body":["model"]}'], "invalid_json_line", "an object is expected"),
        ([b'{"model":"gpt-4o"}'], "missing_deployment", "Line 1 of .* names no deployment"),
        ([line(None)], "missing_deployment", "names no deployment"),
        ([line("")], "missing_deployment", "names no deployment"),
        ([line("x" * 300)], "missing_deployment", "names no deployment"),
        ([line(url="/openai/Deployments/b/chat/completions")], "invalid_url", "in its 'url'"),
    ],
)
def test_a_fault_names_its_line(lines: list[bytes], code: str, message: str) -> None:
    fault = read(*lines).fault
    assert fault is not None
    assert (fault.status, fault.code, fault.param) == (400, code, "file")
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(fault.message)


def test_blank_lines_and_letter_case_are_no_faults() -> None:
    found = read(b"", line("GPT-4o"), b"\r", line("gpt-4o"))
    assert (found.model, found.first, found.count, found.fault) == ("GPT-4o", 2, 4, None)


def test_lines_are_bounded_in_number_and_length(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_LINES", 3)
    assert read(line(), line(), line()).fault is None
    fault = read(line(), line(), line(), line()).fault
    assert fault is not None
    assert fault.code == "too_many_tasks"
    monkeypatch.setattr(module, "LONGEST_LINE", 1_000)
    monkeypatch.setattr(module, "BLOCK", 256)
    monkeypatch.setattr(stored, "BLOCK", 256)
    assert read(line(), line(text="x" * 800)).fault is None
    body = Kept(line() + b"\n" + line(text="x" * 50_000))
    fault = read_file(body, 0, len(body)).fault
    assert fault is not None
    assert fault.message.startswith("Line 2 of the batch's input file has more than")
    assert body.total < 8_000, "and no more of it is read"


@pytest.mark.parametrize("length", [1, 90, 300, 700, 5_000])
def test_each_byte_is_read_a_few_times_at_most(length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK", 256)
    monkeypatch.setattr(stored, "BLOCK", 256)
    drawn = random.Random(length)
    data = b"".join(b"x" * drawn.randint(0, 2 * length) + b"\n" for _ in range(40))
    body = Kept(data)
    parts = list(whole_lines(body, 0, len(data)))
    assert b"".join(part for _, part in parts) == data
    assert all(part.endswith(b"\n") and data.startswith(part, at) for at, part in parts)
    assert body.total <= 4 * len(data) + 256


@pytest.mark.parametrize("first", [True, False])
def test_a_form_for_a_batch_names_the_deployment(first: bool) -> None:
    data = form(line() + b"\n" + line(), first=first)
    body = parse_body(FILES, FORM, data)
    assert (body.model, body.deployment(FILES)) == ("gpt-4o", "gpt-4o")
    sent = body.sent("standin-ä")
    assert isinstance(sent, Pieces)
    assert b"".join(sent.blocks()) == data.replace(b'"gpt-4o"', json.dumps("standin-ä").encode())
    assert body.sent("gpt-4o") == body.sent(None) == data, "with nothing to replace, it is what came"
    left = parse_upload(FILES, FORM, InMemory(data))
    assert left.edits.file is not None
    assert left.lines is None
    body = left.with_lines(read_file(InMemory(data), *left.edits.file))
    again = body.sent("standin-ä")
    assert isinstance(again, Pieces)
    assert b"".join(again.blocks()) == b"".join(sent.blocks())
    assert len(again) == len(sent) == len(b"".join(sent.blocks()))


@pytest.mark.parametrize("purpose", [b" batch", b"BATCH", b"Batch\t"])
def test_no_spelling_of_its_purpose_hides_a_batch(purpose: bytes) -> None:
    body = parse_body(FILES, FORM, form(line() + b"\n", purpose))
    assert (body.model, body.deployment(FILES)) == ("gpt-4o", "gpt-4o")


@pytest.mark.parametrize("name", [b"Purpose", b"PURPOSE"])
def test_a_field_that_some_receivers_read_as_another_is_refused(name: bytes) -> None:
    data = form(b"{}\n").replace(b'"purpose"', b'"' + name + b'"')
    with pytest.raises(GatewayError) as caught:
        parse_body(FILES, FORM, data)
    assert "'purpose' must be written so" in caught.value.message


@pytest.mark.parametrize("purpose", [b"assistants", b"batch_output", b"fine-tune"])
def test_other_files_are_not_looked_at(purpose: bytes) -> None:
    data = form(b"\xff{", purpose)
    body = parse_body(FILES, FORM, data)
    assert (body.deployment(FILES), body.lines, body.sent(None)) == ("", None, data)
