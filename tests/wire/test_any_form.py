"""Any bytes are a form or none; what is read of a form is what others read of it, and is edited in place."""

from __future__ import annotations

from email.parser import BytesParser
from email.policy import HTTP

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from aoai_gateway.wire.bodies import parse_body
from aoai_gateway.wire.forms import NotAFormError, read_form
from aoai_gateway.wire.gateway_error import GatewayError
from aoai_gateway.wire.targets import parse_target

BOUNDARY = b"a-boundary.7"
TYPE = f"multipart/form-data; boundary={BOUNDARY.decode()}"

TARGET = parse_target("POST", "/openai/v1/audio/transcriptions")

names = st.sampled_from(["model", "file", "stream", "prompt", "temperature"])
values = st.binary(max_size=40) | st.sampled_from(
    [b"whisper-1", b"true", b"--", b"\r\n", b"--a-boundary.", b"\r\n--a-boundary", b"-" * 30, b"\xff\xfe"]
)
files = st.sampled_from([None, b"a.wav", b'say \\"hi\\"; name=model', b"--" + BOUNDARY, "ö.wav".encode()])
parts = st.lists(st.tuples(names, files, values), max_size=5)


def written(made: list[tuple[str, bytes | None, bytes]], end: bytes = b"\r\n") -> bytes:
    body = b""
    for name, file, value in made:
        named = b'; filename="' + file + b'"' if file is not None else b""
        body += b"--" + BOUNDARY + b"\r\nContent-Disposition: form-data; name=" + name.encode() + named
        body += b"\r\n\r\n" + value + b"\r\n"
    return body + b"--" + BOUNDARY + b"--" + end


@given(parts, st.sampled_from([b"", b"\r\n"]))
def test_a_form_is_read_as_it_was_written(made: list[tuple[str, bytes | None, bytes]], end: bytes) -> None:
    # Whoever writes a form takes a boundary that is in no value.
    assume(not any(b"--" + BOUNDARY in value for *_, value in made))
    body = written(made, end)
    fields = read_form(body, TYPE)
    assert [(f.name, f.is_file, body[f.start : f.end]) for f in fields] == [
        (name, file is not None, value) for name, file, value in made
    ]


@given(parts)
@example([("model", None, b"")])
@example([("file", b"a.wav", b"\r\n--"), ("model", None, b"whisper-1"), ("prompt", None, b"")])
def test_the_model_is_replaced_and_nothing_else(made: list[tuple[str, bytes | None, bytes]]) -> None:
    assume(not any(b"--" + BOUNDARY in value for *_, value in made))
    body = written(made)
    try:
        parsed = parse_body(TARGET, TYPE, body)
    except GatewayError as error:
        refused = error
        parsed = None
    if parsed is None:
        assert (refused.status, refused.code) == (400, "invalid_body")
        return
    edited = parsed.edited(model="another-model")
    # One that is written as empty is none, and is filled in.
    is_empty = any((name, value) == ("model", b"") for name, _, value in made)
    has_model = parsed.model is not None or is_empty
    assert edited == written([(name, file, _or(value, name, has_model)) for name, file, value in made])
    if parsed.model is not None:
        assert parse_body(TARGET, TYPE, edited).model == "another-model"


def _or(value: bytes, name: str, has_model: bool) -> bytes:
    return b"another-model" if name == "model" and has_model else value


JUNK = (
    b"\r\n", b"\n", b"\r", b"--", b"--" + BOUNDARY, b"\r\n--" + BOUNDARY, b"\n--" + BOUNDARY,
    b"--" + BOUNDARY + b"--", b"\r\n--" + BOUNDARY + b"\r\n",
    b"; ", b'"', b"\\", b"%6d", b"\x00", b" ", b"\t",
)  # fmt: skip
junk = st.sampled_from(JUNK) | st.binary(max_size=6)
broken = st.tuples(parts, st.lists(st.tuples(st.integers(0, 600), st.integers(0, 6), junk), max_size=3)).map(
    lambda drawn: _mangled(written(drawn[0]), drawn[1])
)


def _mangled(body: bytes, changes: list[tuple[int, int, bytes]]) -> bytes:
    for place, gone, new in changes:
        at = place % (len(body) + 1)
        body = body[:at] + new + body[at + gone :]
    return body


def read_by_email(body: bytes) -> list[tuple[str | None, bytes]]:
    """The form as Python's own reader of multipart reads it."""
    message = BytesParser(policy=HTTP).parsebytes(b"Content-Type: " + TYPE.encode() + b"\r\n\r\n" + body)
    found = []
    for part in message.iter_parts():
        name = part.get_param("name", header="content-disposition")
        found.append((str(name) if name is not None else None, part.get_payload(decode=True) or b""))
    return found


def check_that_another_reader_agrees(body: bytes) -> None:
    try:
        fields = read_form(body, TYPE)
    except NotAFormError:
        return
    theirs = read_by_email(body)
    ours = [(field.name, body[field.start : field.end]) for field in fields]
    # It decodes what a part's own headers ask for, and ends lines its own way: names are what decides.
    assert [name for name, _ in ours] == [name for name, _ in theirs]


@given(broken)
def test_what_is_taken_has_the_same_fields_to_another_reader(body: bytes) -> None:
    check_that_another_reader_agrees(body)


@pytest.mark.parametrize("odd", JUNK)
def test_what_stands_anywhere_in_a_form_is_the_same_to_another_reader(odd: bytes) -> None:
    form = written([("file", b"a.wav", b"x\r\ny"), ("model", None, b"whisper-1")])
    for place in range(len(form)):
        for gone in (0, 1, len(odd)):
            check_that_another_reader_agrees(form[:place] + odd + form[place + gone :])


@given(st.binary(max_size=300), st.text(max_size=60))
def test_any_bytes_are_a_form_or_none(body: bytes, parameters: str) -> None:
    for content_type in (
        TYPE,
        "multipart/form-data; " + parameters,
        "multipart/form-data;boundary=" + parameters,
    ):
        for whole in (body, b"--" + BOUNDARY + body):
            try:
                fields = read_form(whole, content_type)
            except NotAFormError:
                continue
            assert all(0 <= field.start <= field.end <= len(whole) for field in fields)
