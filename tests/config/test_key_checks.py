"""What is said of the keys of clients: how hard they are to guess, and whose else they are."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import pytest

from aoai_gateway.config import key_checks
from aoai_gateway.config.clients import digest_of
from aoai_gateway.config.key_checks import SHORTEST_KEY
from aoai_gateway.config.loader import Loaded

Compiled = Callable[..., Loaded]

LONG = "3f0c2a7d9b5e4168"
ENDPOINT_KEY = "a81d04c6e2f7935b-of-the-endpoint"
AZURE = "url: 'https://one.openai.azure.com', key: " + ENDPOINT_KEY


def said(compiled: Compiled, client: str, endpoint: str = AZURE) -> list[str]:
    """Return the warnings of a client and an endpoint; none shows a key."""
    text = f"clients:\n  - {{name: Team, {client}}}\naoai:\n  endpoints:\n    - {{name: one, {endpoint}}}\n"
    lines = [str(each) for each in compiled(text).warnings]
    assert not any(secret in line for line in lines for secret in (LONG, ENDPOINT_KEY, "hunter2"))
    return lines


@pytest.mark.parametrize("key", ["hunter2", f"[{LONG}, hunter2]", "[hunter2, hunter2-and-mor]"])
def test_a_key_that_can_be_guessed_is_told_with_its_length(compiled: Compiled, key: str) -> None:
    (line,) = said(compiled, f"key: {key}")
    assert line == (
        "gateway.yaml:2: clients[0].key: has only 7 of the 16 characters that make a key hard to guess: a "
        "caller who guesses it gets to the real endpoints here; write a longer one; "
        "`aoai-gateway key new NAME` makes one"
    )


@pytest.mark.parametrize(
    ("client", "endpoint"),
    [
        (f"key: {LONG}", AZURE),
        (f"key: {'x' * SHORTEST_KEY}", AZURE),
        ("key: hunter2, enabled: false", AZURE),
        ("key: hunter2", "simulated: {deployments: {a: {model: gpt-4o}}}"),
        ("key: hunter2", "url: 'http://127.0.0.1:8000', key: " + ENDPOINT_KEY),
    ],
)
def test_a_key_that_is_long_or_opens_nothing_is_good(compiled: Compiled, client: str, endpoint: str) -> None:
    assert not any("hard to guess" in line for line in said(compiled, client, endpoint))


DIGEST = hashlib.sha256(ENDPOINT_KEY.encode()).hexdigest()


@pytest.mark.parametrize(
    ("client", "key"),
    [
        (f"key: {ENDPOINT_KEY}", "key"),
        (f"key: [{LONG}, {ENDPOINT_KEY}]", "key"),
        (f"key_sha256: {DIGEST}", "key_sha256"),
        (f"key: {LONG}, key_sha256: {DIGEST}", "key_sha256"),
    ],
)
def test_an_endpoints_own_key_is_no_clients(compiled: Compiled, client: str, key: str) -> None:
    (line,) = said(compiled, client)
    assert line.startswith(f'gateway.yaml:2: clients[0].{key}: is the key of the endpoint "one": its client')


def test_an_endpoints_own_key_opens_nothing_at_a_client_that_is_switched_off(compiled: Compiled) -> None:
    (line,) = said(compiled, f"key: {ENDPOINT_KEY}, enabled: false")
    assert line.endswith("every client is switched off")


def test_an_endpoints_own_key_is_digested_once(compiled: Compiled, monkeypatch: pytest.MonkeyPatch) -> None:
    digested: list[str] = []

    def digest(key: str) -> bytes:
        digested.append(key)
        return digest_of(key)

    monkeypatch.setattr(key_checks, "digest_of", digest)
    clients = "".join(f"  - {{name: Team {n}, key: {LONG}{n}}}\n" for n in range(20))
    compiled(f"clients:\n{clients}aoai:\n  endpoints:\n    - {{name: one, {AZURE}}}\n")
    assert digested.count(ENDPOINT_KEY) == 1
    assert len(digested) == 21


@pytest.mark.parametrize("key", [LONG, ENDPOINT_KEY])
def test_no_key_stands_in_an_address(compiled: Compiled, key: str) -> None:
    endpoint = f"url: 'https://one.example/{key}/', key: {ENDPOINT_KEY}"
    (line,) = said(compiled, f"key: {LONG}", endpoint)
    assert line.startswith("gateway.yaml:5: aoai.endpoints[0].url: holds a key, and addresses are shown")
