"""`key new` makes a key that the configuration knows by its hash."""

from __future__ import annotations

import re

import pytest
import yaml

from aoai_gateway.app import cli
from aoai_gateway.config.clients import digest_of
from aoai_gateway.config.models import Client


def made(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[str, Client]:
    assert cli.main(["key", "new", *words]) == 0
    out = capsys.readouterr().out
    (key,) = re.findall(r"^  (gw-\S{43})$", out, re.MULTILINE)
    (written,) = yaml.safe_load(out[out.index("  - name:") :])
    return key, Client.model_validate({n: str(v) if n == "not_after" else v for n, v in written.items()})


def test_a_key_is_printed_once_with_the_lines_that_know_it(capsys: pytest.CaptureFixture[str]) -> None:
    key, client = made(capsys, 'The "odd": one')
    assert client.name == 'The "odd": one'
    assert list(client.digests()) == [(digest_of(key), None)]


def test_every_key_is_another(capsys: pytest.CaptureFixture[str]) -> None:
    assert len({made(capsys, "x")[0] for _ in range(20)}) == 20


def test_it_can_end_at_a_date(capsys: pytest.CaptureFixture[str]) -> None:
    _, client = made(capsys, "x", "--not-after", "2027-12-31")
    assert client.not_after is not None
    assert client.not_after.isoformat() == "2028-01-01T00:00:00+00:00"


@pytest.mark.parametrize("words", [["new"], ["old", "x"], [], ["new", "x", "--not-after", "soon"]])
def test_what_is_not_understood_is_said(capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    assert cli.main(["key", *words]) == 2
    assert "gw-" not in capsys.readouterr().out
