"""A form is shown as if it were JSON: texts as such, files as data URLs."""

from __future__ import annotations

import base64
import json

import pytest

from aoai_gateway.inspect.views.shapes import Unreadable
from aoai_gateway.workbench.form_bodies import decode_body
from aoai_gateway.workbench.rows import read_digest
from aoai_gateway.workbench.shape import part, request_shape

TYPE = "multipart/form-data; boundary=xx"
SOUND = b"RIFF" + bytes(range(256)) * 4


def field(name: str, value: bytes, *more: bytes, file: str = "") -> bytes:
    named = f'; filename="{file}"' if file else ""
    head = [f'content-disposition: form-data; name="{name}"{named}'.encode(), *more]
    return b"--xx\r\n" + b"\r\n".join(head) + b"\r\n\r\n" + value + b"\r\n"


def form(*fields: bytes) -> bytes:
    return b"".join(fields) + b"--xx--\r\n"


TRANSCRIPTION = form(
    field("model", b"whisper"),
    field("file", SOUND, b"Content-Type: audio/wav", file="a.wav"),
    field("prompt", "Grüße".encode()),
)


def test_texts_and_files() -> None:
    assert decode_body(TRANSCRIPTION, TYPE) == {
        "model": "whisper",
        "file": "data:audio/wav;base64," + base64.b64encode(SOUND).decode(),
        "prompt": "Grüße",
    }


def test_a_field_that_comes_several_times_is_a_list() -> None:
    body = form(field("image[]", b"\xff1", file="1.png"), field("image[]", b"\xff2", file="2.png"))
    found = decode_body(body, TYPE)
    assert found is not None
    assert [len(found["image[]"]), found["image[]"][0]] == [2, "data:application/octet-stream;base64,/zE="]


@pytest.mark.parametrize("told", [b"content-type: text/plain", b"x-other: a"])
def test_a_file_with_text_in_it_is_that_text(told: bytes) -> None:
    body = form(field("file", b'{"custom_id": "1"}', told, file="batch.jsonl"))
    assert decode_body(body, TYPE) == {"file": '{"custom_id": "1"}'}


def test_the_type_is_that_of_the_part_itself() -> None:
    body = form(
        field("mask", b"\xff", b"content-type: image/png", file="m.png"), field("file", b"\xfe", file="f")
    )
    found = decode_body(body, TYPE)
    assert found is not None
    assert found["file"].startswith("data:application/octet-stream")


def test_what_is_no_form_is_read_as_json() -> None:
    assert decode_body(b"{}", "application/json") == {}
    with pytest.raises(Unreadable, match="begin with its boundary"):
        decode_body(b"{}", TYPE)


def test_a_form_is_shown_with_stand_ins_and_its_files_are_given() -> None:
    shown = request_shape(TRANSCRIPTION, TYPE)["body"]
    assert (shown["model"], shown["file"]["kind"]) == ("whisper", "audio")
    assert part(TRANSCRIPTION, shown["file"]["$kept"], TYPE) == ("audio/wav", SOUND)
    assert request_shape(b"{}", TYPE)["problem"]


def test_the_line_of_a_form_tells_its_prompt_and_its_deployment() -> None:
    digest = read_digest(TRANSCRIPTION, None, TYPE)
    assert (digest.prompt, digest.deployment) == ("Grüße", "whisper")


def test_a_sound_in_a_message_has_its_type_beside_it() -> None:
    data = base64.b64encode(SOUND).decode()
    body = json.dumps(
        {"messages": [{"content": [{"input_audio": {"data": data, "format": "wav"}}]}]}
    ).encode()
    assert part(body, "/messages/0/content/0/input_audio/data") == ("audio/wav", SOUND)
