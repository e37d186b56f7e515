"""Forms: where the fields stand, and which bodies two readers could take for different forms."""

from __future__ import annotations

import pytest

from aoai_gateway.wire.forms import NotAFormError, read_form

TYPE = "multipart/form-data; boundary=b"


def part(value: bytes, disposition: bytes = b'form-data; name="model"', more: bytes = b"") -> bytes:
    return b"--b\r\nContent-Disposition: " + disposition + b"\r\n" + more + b"\r\n" + value + b"\r\n"


def values(body: bytes, content_type: str = TYPE) -> dict[str, bytes]:
    return {field.name: body[field.start : field.end] for field in read_form(body, content_type)}


FORM = part(b"x" * 99, b'form-data; name="file"; filename="a b.wav"', b"Content-Type: audio/wav\r\n")
FORM += part(b"whisper") + b"--b--\r\n"


@pytest.mark.parametrize(
    "content_type",
    [
        TYPE,
        'multipart/form-data; boundary="b"',
        "Multipart/Form-Data;Boundary=b",
        "multipart/form-data; charset=utf-8; boundary=b",
    ],
)
@pytest.mark.parametrize("body", [FORM, b"\r\n" + FORM, FORM[:-2]])
def test_the_fields_of_a_form(content_type: str, body: bytes) -> None:
    assert values(body, content_type) == {"file": b"x" * 99, "model": b"whisper"}


@pytest.mark.parametrize(
    "content_type",
    [
        "multipart/form-data",
        "multipart/form-data; boundary=",
        "multipart/form-data; boundary=a; boundary=b",
        'multipart/form-data; x="; boundary=b"; boundary=a',
        "multipart/form-data; boundary=b; boundary*=utf-8''a",
        "multipart/form-data; boundary=" + "b" * 71,
        "multipart/form-data; boundary=b, text/plain",
        'multipart/form-data; boundary="b\\"c"',
    ],
)
def test_a_content_type_that_does_not_name_one_boundary_is_refused(content_type: str) -> None:
    with pytest.raises(NotAFormError):
        read_form(FORM, content_type)


def test_a_boundary_is_taken_whole() -> None:
    """Cut at its longest, it would end the form where another reader sees a part."""
    longest = "A" * 70
    hidden = part(b"allowed") + b"--b--\r\n" + part(b"forbidden") + b"--b----\r\n"
    with pytest.raises(NotAFormError):
        read_form(
            hidden.replace(b"--b", b"--" + longest.encode()), f"multipart/form-data; boundary={longest}--"
        )


@pytest.mark.parametrize(
    "body",
    [
        b"",
        FORM[:-8],
        b"a preamble\r\n" + FORM,
        FORM + part(b"more"),
        FORM + b"an epilogue",
        part(b'\n--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nother') + b"--b--",
        part(b"\r--b--") + b"--b--",
        part(b"x", b"attachment; name=model") + b"--b--",
        part(b"x", b'form-data; name="model"; name="n"') + b"--b--",
        part(b"x", b"form-data; name=\"x\"; name*=utf-8''model") + b"--b--",
        part(b"x", b'form-data; name="x"\nContent-Disposition: form-data; name="model"') + b"--b--",
        part(b"x", b'form-data; name="x"\rX: y') + b"--b--",
        part(b"x", b'form-data; filename="f"') + b"--b--",
        part(b"x", b'form-data; name="x"; filename="a"; name=model"') + b"--b--",
        part(b"x", b'form-data; name="x') + b"--b--",
        part(b"x", b'form-data; name="mo\\del"') + b"--b--",
        part(b"x", b"form-data; name=mo\\del") + b"--b--",
        part(b"x", b'form-data; name="mo%64el"') + b"--b--",
        part(b"x", b'form-data; name="model\x00"') + b"--b--",
        part(b"x", b'form-data; name="model "') + b"--b--",
        part(b"x", b'form-data; name=""') + b"--b--",
        part(b"x", b'form-data; name="x" name="model"') + b"--b--",
        part(b"x", more=b"--b\r\nX: y\r\n") + b"--b--",
        part(b"x", more=b'--b\r\nContent-Disposition: attachment; name="model"\r\n') + b"--b--",
        part(b"x", more=b"--b--\r\n") + b"--b--",
        part(b"x", more=b'Content-Disposition: attachment; name="n"\r\n') + b"--b--",
        part(b"x", more=b'content-disposition : form-data; name="n"\r\n') + b"--b--",
        part(b"x", more=b"Content-Disposition:\r\n") + b"--b--",
        part(b"x", more=b' ; name="n"\r\n') + b"--b--",
        part(b"x", more=b'\t; name="n"\r\n') + b"--b--",
        part(b"x", more=b"no colon\r\n") + b"--b--",
        b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\n--b--',
    ],
)
def test_what_another_reader_may_take_for_another_form_is_refused(body: bytes) -> None:
    with pytest.raises(NotAFormError):
        read_form(body, TYPE)


@pytest.mark.parametrize(
    "parameters",
    [
        b'name="file"; filename="song; name=demo.wav"',
        b'name="file"; filename="a \\"b\\"; name=model; .wav"',
        b"filename*=utf-8''s%C3%B6ng.wav; name=file",
        b'NAME="file" ; FileName=""',
        'name="file"; filename="söng.wav"'.encode(),
    ],
)
def test_a_file_may_be_called_as_it_likes(parameters: bytes) -> None:
    (field,) = read_form(part(b"x", b"form-data; " + parameters) + b"--b--", TYPE)
    assert (field.name, field.is_file) == ("file", True)
