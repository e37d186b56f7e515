"""What a model said, as text."""

from __future__ import annotations

import pytest

from aoai_gateway.inspect.said import said
from aoai_gateway.inspect.views.facts import Facts


@pytest.mark.parametrize("body", [b'["a","b"]', b'"hello"', b"12", b"not JSON"])
def test_a_body_that_is_no_object_is_shown_as_it_came(body: bytes) -> None:
    assert said(body, Facts()).text == body.decode()


def test_an_object_of_an_unknown_form_is_laid_out() -> None:
    assert said(b'{"colour":"red"}', Facts()).text == "colour: red\n"
