"""Issuers of tokens, and clients that are known by them."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from aoai_gateway.config import credential_checks
from aoai_gateway.config.clients import digest_of
from aoai_gateway.config.credential_checks import SHORTEST_KEY
from aoai_gateway.config.issuers import TokenClaims
from aoai_gateway.config.loader import Loaded
from aoai_gateway.identity.claims import ClientIndex, values_of
from aoai_gateway.wire.gateway_error import GatewayError

type Lines = Callable[..., list[str]]

AOAI = "aoai: {endpoints: [{name: one, url: 'https://one.example', key: k}]}\n"
ENTRA = "https://login.microsoftonline.com/t1/v2.0"
KEYCLOAK = "https://keycloak.example/realms/a"
TOKENS = AOAI + f"tokens: [{{issuer: '{ENTRA}', audience: api://gw}}]\n"
TWO = AOAI + f"tokens: [{{issuer: '{ENTRA}', audience: a}}, {{issuer: '{KEYCLOAK}', audience: [a, b]}}]\n"


def clients(*tokens: str) -> str:
    return "clients:\n" + "".join(f"  - {{name: c{n}, token: {each}}}\n" for n, each in enumerate(tokens))


def test_a_client_is_known_by_claims(compiled: Callable[..., Loaded]) -> None:
    loaded = compiled(TOKENS + clients("{appid: 1111, roles: [a, b]}", "[{azp: 2222}, {oid: [x, y]}]"))
    assert loaded.warnings == ()
    one, two = loaded.config.clients
    assert one.token == (TokenClaims(appid=("1111",), roles=("a", "b")),)
    assert two.token == (TokenClaims(appid=("2222",)), TokenClaims(oid=("x", "y")))


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("{issuer: 'http://issuer.example', audience: a}", "does not begin with https://"),
        ("{issuer: 'https://i.example', audience: []}", "audience"),
        ("{issuer: 'https://i.example'}", '"audience" is missing'),
        ("{issuer: 'https://i.example', audience: a, algorithms: HS256}", "algorithms"),
        ("{issuer: 'https://i.example', audience: a, algorithms: none}", "algorithms"),
        ("{issuer: 'https://i.example', audience: a, jwks_uri: 'http://i.example/k'}", "https://"),
        ("{issuer: 'https://login.microsoftonline.com/common/v2.0', audience: a}", "every tenant there is"),
        ("{issuer: 'https://i.example', audience: a, tenant: t}", 'did you mean "tenants"?'),
    ],
)
def test_an_issuer_that_would_let_in_too_much_is_refused(problems: Lines, written: str, said: str) -> None:
    found = problems(AOAI + f"tokens: [{written}]\n" + clients("{appid: a}"))
    assert any(said in each for each in found), found


def test_two_entries_of_an_issuer_have_different_audiences(problems: Lines) -> None:
    entry = f"{{issuer: '{ENTRA}', audience: a}}"
    (said,) = problems(AOAI + f"tokens: [{entry}, {entry}]\n" + clients("{appid: a}"))
    assert "tokens[1].audience: a stands at another entry of this issuer" in said


def test_claims_without_an_issuer_cannot_match(problems: Lines, warnings: Lines) -> None:
    (said,) = problems(AOAI + clients("{appid: a}"))
    assert "no issuer of tokens is trusted" in said
    (said,) = problems(TOKENS + clients("{appid: a, issuer: 'https://login.microsoftonline.com/t2/v2.0'}"))
    assert "is none of the issuers under tokens" in said
    (said,) = warnings(TOKENS + "clients: [{name: c, key: c}]")
    assert "tokens: has no effect" in said


def test_with_several_issuers_a_client_says_which_one_speaks_for_it(problems: Lines, warnings: Lines) -> None:
    (said,) = problems(TWO + clients("{appid: a}"))
    assert "another one could name any client" in said
    assert warnings(TWO + clients(f"{{appid: a, issuer: '{ENTRA}'}}")) == []


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        ("{appid: a}", "{appid: a}", True),
        ("{appid: a}", "{appid: [b, a]}", True),
        ("{appid: a}", "{appid: b}", False),
        ("{appid: a}", "{appid: a, roles: r}", False),
        ("{oid: a}", "{sub: a}", True),
        ("{oid: a, tid: t}", "{sub: a, tid: u}", False),
        ("{roles: a}", "{roles: b}", False),
        ("{roles: a}", "{roles: [b, a]}", True),
        ("{}", "{}", True),
        ("{tid: a}", "{}", False),
    ],
)
def test_what_two_clients_claim_alike_is_refused(
    problems: Lines, warnings: Lines, one: str, other: str, alike: bool
) -> None:
    text = TOKENS + clients(one, other)
    if alike:
        (said,) = problems(text)
        assert 'a token can belong to "c0" and to "c1" alike' in said
    else:
        assert warnings(text) == []


def test_thousands_of_clients_are_compared_in_a_moment(compiled: Callable[..., Loaded]) -> None:
    each = "clients:\n" + "".join(
        f"  - {{name: c{n}, token: {{appid: a{n}, tid: t}}}}\n" for n in range(3000)
    )
    begun = time.perf_counter()
    compiled(TOKENS + each)
    assert time.perf_counter() - begun < 60


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("key: k, verify: false", "belongs beside uses_entra_id_auth"),
        ("uses_entra_id_auth: true, verify: true", "needs to know who issues its tokens"),
        ("uses_entra_id_auth: true, verify: false, token: {appid: a}", "restricts nothing"),
        ("key: k, token: {name: x}", "unknown key"),
        ("token: {appid: a, azp: a}", "which are the same"),
    ],
)
def test_a_client_that_cannot_be_meant_is_refused(problems: Lines, written: str, said: str) -> None:
    assert any(said in each for each in problems(AOAI + f"clients: [{{name: c, {written}}}]"))


@pytest.mark.parametrize(
    ("one", "other", "warned"),
    [
        ("cn: a", "{cn: a, san: b}", True),
        ("cn: a", "{subject: CN=a}", False),
        ("{cn: a, san: b}", "{cn: a, san: c}", False),
        ("san: a", "subject: CN=b", False),
    ],
)
def test_certificates_that_name_two_clients_are_warned_of(
    warnings: Lines, tmp_path: Path, one: str, other: str, warned: bool
) -> None:
    file = tmp_path / "some.pem"
    file.touch()
    one, other = (each if each.startswith("{") else f"{{{each}}}" for each in (one, other))
    text = AOAI + f"listen: {{certificate: '{file}', private_key: '{file}', client_ca: '{file}'}}\n"
    text += f"clients: [{{name: c0, certificate: {one}}}, {{name: c1, certificate: {other}}}]"
    assert any('may be that of the client "c0", too' in each for each in warnings(text)) == warned


# --- which client a token belongs to -----------------------------------------------------------------------


def whose(compiled: Callable[..., Loaded], tokens: tuple[str, ...], claims: dict[str, object]) -> str:
    config = compiled(TOKENS + clients(*tokens)).config
    try:
        return ClientIndex(config.clients).find(values_of(config.tokens[0], claims)).name
    except GatewayError as error:
        return error.code


@pytest.mark.parametrize(
    ("tokens", "claims", "found"),
    [
        (("{appid: a}",), {"appid": "a"}, "c0"),
        (("{appid: a}",), {"azp": "a"}, "c0"),
        (("{appid: a}",), {"appid": "b"}, "token_client_unknown"),
        (("{appid: a}",), {}, "token_client_unknown"),
        (("{appid: a}",), {"appid": {"a": 1}}, "token_client_unknown"),
        (("{appid: a, tid: t}",), {"appid": "a", "tid": "u"}, "token_client_unknown"),
        (("{roles: [r, s]}",), {"roles": ["x", "s"]}, "c0"),
        (("{roles: r}",), {"roles": "r"}, "c0"),
        (("{appid: a}", "{appid: a, roles: r}"), {"appid": "a", "roles": ["r"]}, "c1"),
        (("{appid: a}", "{appid: a, roles: r}"), {"appid": "a"}, "c0"),
        (("{appid: a}", "{oid: o}"), {"appid": "a", "oid": "o"}, "c1"),
        (("{tid: t}", "{groups: g}", "{roles: r}"), {"tid": "t", "groups": ["g"], "roles": ["r"]}, "c2"),
        (("{roles: r}", "{roles: s}"), {"roles": ["r", "s"]}, "token_client_ambiguous"),
        (("{roles: r}", "{roles: s}"), {"roles": ["s"]}, "c1"),
        (("{}", "{appid: a}"), {"appid": "b"}, "c0"),
        (("[{appid: a}, {oid: o}]", "{appid: b}"), {"appid": "a", "oid": "o"}, "c0"),
    ],
)
def test_the_client_whose_claims_say_most_counts(
    compiled: Callable[..., Loaded], tokens: tuple[str, ...], claims: dict[str, object], found: str
) -> None:
    assert whose(compiled, tokens, claims) == found


def test_a_client_that_is_switched_off_has_no_tokens(compiled: Callable[..., Loaded]) -> None:
    config = compiled(TOKENS + "clients: [{name: c, token: {appid: a}, enabled: false}]").config
    with pytest.raises(GatewayError):
        ClientIndex(config.clients).find(values_of(config.tokens[0], {"appid": "a"}))


# --- end users and money -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("per_user: {max_tokens_per_minute: 5}", "does not say where calls name their end user"),
        ("user_from: cookie name", "does not say where an end user's name is"),
        ("user_from: header", "does not say where an end user's name is"),
        ("user_from: body user, per_user: {}", "sets no limit"),
        ("max_cost_per_day: 5", "there is no price for any deployment"),
    ],
)
def test_limits_that_hold_no_user_are_refused(problems: Lines, written: str, said: str) -> None:
    assert any(said in each for each in problems(AOAI + f"clients: [{{name: c, key: k1, {written}}}]"))


def test_a_deployment_without_a_price_is_named(problems: Lines) -> None:
    standins = "standins: [{name: s}]"
    pool = f"virtual_deployments: [{{name: one, {standins}}}, {{name: two, {standins}}}]"
    text = AOAI.replace("key: k}", f"key: k, {pool}}}") + "prices: {one: {input: 1, output: 2}}\n"
    (said,) = problems(text + "clients: [{name: c, key: k1, max_cost_per_month: 5}]")
    assert "max_cost_per_month: cannot be held: there is no price for two" in said


def test_a_claim_needs_a_verified_token(warnings: Lines) -> None:
    (said,) = warnings(AOAI + "clients: [{name: c, key: k1, user_from: claim oid}]")
    assert "names no end user" in said


# What is said of the keys of clients: how hard they are to guess, and whose else they are.

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

    monkeypatch.setattr(credential_checks, "digest_of", digest)
    clients = "".join(f"  - {{name: Team {n}, key: {LONG}{n}}}\n" for n in range(20))
    compiled(f"clients:\n{clients}aoai:\n  endpoints:\n    - {{name: one, {AZURE}}}\n")
    assert digested.count(ENDPOINT_KEY) == 1
    assert len(digested) == 21


@pytest.mark.parametrize("key", [LONG, ENDPOINT_KEY])
def test_no_key_stands_in_an_address(compiled: Compiled, key: str) -> None:
    endpoint = f"url: 'https://one.example/{key}/', key: {ENDPOINT_KEY}"
    (line,) = said(compiled, f"key: {LONG}", endpoint)
    assert line.startswith("gateway.yaml:5: aoai.endpoints[0].url: holds a key, and addresses are shown")
