"""Whatever stands where a token or a key set is expected: it is refused by a code, and that is all."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from aoai_gateway.config.issuers import Issuer
from aoai_gateway.identity.jwks import KeySet, read_keys
from aoai_gateway.identity.renewal import FetchError
from aoai_gateway.identity.verifier import TokenVerifier, Verified
from aoai_gateway.wire.credential_errors import CODES
from aoai_gateway.wire.gateway_error import GatewayError
from tests.local_issuer import AUDIENCE, TENANT, rsa_key

ISSUER = "https://issuer.example/realms/test"


def jwk() -> dict[str, Any]:
    made: dict[str, Any] = jwt.algorithms.RSAAlgorithm.to_jwk(rsa_key(0).public_key(), as_dict=True)
    return {**made, "kid": "key-0", "use": "sig", "alg": "RS256"}


def claims() -> dict[str, Any]:
    now = int(time.time())
    return {
        "iss": ISSUER, "aud": AUDIENCE, "exp": now + 600, "nbf": now - 5, "iat": now - 5,
        "appid": "app-1", "oid": "object-1", "tid": TENANT, "roles": ["a"],
    }  # fmt: skip


@pytest.fixture(scope="module")
def verifying(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[asyncio.Runner, TokenVerifier]]:
    file: Path = tmp_path_factory.mktemp("keys") / "keys.json"
    file.write_text(json.dumps({"keys": [jwk()]}))
    made = TokenVerifier()
    # A key that is not there is not waited for again.
    with asyncio.Runner() as runner:
        issuer = Issuer(issuer=ISSUER, audience=(AUDIENCE,), jwks_file=file)
        runner.run(made.adopt([issuer]))
        yield runner, made
        runner.run(made.close())


def outcome(verifying: tuple[asyncio.Runner, TokenVerifier], token: str) -> Verified | str:
    """Go the way of a token; gives what is known of it, or the code by which it is refused."""
    runner, verifier = verifying
    try:
        found = verifier.remembered(token)
        verifier.claims_an_issuer(token)
        return found if found is not None else runner.run(verifier.verify(token))
    except GatewayError as error:
        refused = error
    parts = [part for part in token.split(".") if len(part) > 8]
    assert not any(part in refused.message for part in parts)
    assert refused.code in CODES
    return refused.code


def encoded(part: Any) -> str:
    text = part if isinstance(part, bytes) else json.dumps(part).encode()
    return base64.urlsafe_b64encode(text).rstrip(b"=").decode()


def signed(header: dict[str, Any], payload: Any) -> str:
    text = f"{encoded(header)}.{encoded(payload)}"
    algorithm = jwt.algorithms.RSAAlgorithm(jwt.algorithms.RSAAlgorithm.SHA256)
    return f"{text}.{encoded(algorithm.sign(text.encode(), rsa_key(0)))}"


HEADER = {"alg": "RS256", "kid": "key-0", "typ": "JWT"}

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=12)
    | st.sampled_from(
        [10**400, "\ud800", "RS256", "none", "HS256", "key-0", ISSUER, AUDIENCE, 2**63, -1, ""]
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
names = st.sampled_from(
    ["iss", "aud", "exp", "nbf", "iat", "tid", "oid", "appid", "azp", "roles", "groups", "sub", "jti"]
)
headers = st.sampled_from(["alg", "kid", "typ", "crit", "jwk", "jku", "x5c", "b64", "zip", "cty"])

SHARED = settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


def test_the_one_that_is_right_passes(verifying: tuple[asyncio.Runner, TokenVerifier]) -> None:
    assert isinstance(outcome(verifying, signed(HEADER, claims())), Verified)


@SHARED
@given(st.text(max_size=80) | st.from_regex(r"[\w-]{0,20}\.[\w-]{0,20}\.[\w-]{0,20}"))
@example("\ud800.\ud800.\ud800")
@example("." * 3)
@example("é.é.é")
@example("A" * 20_000)
def test_any_text_is_refused(verifying: tuple[asyncio.Runner, TokenVerifier], token: str) -> None:
    assert isinstance(outcome(verifying, token), str)


@SHARED
@given(
    values | st.dictionaries(headers, values, max_size=3),
    values | st.dictionaries(names, values, max_size=4),
    st.binary(max_size=20),
)
@example({"alg": ["RS256"]}, {"iss": ISSUER}, b"")
@example({"alg": {}, "kid": "k"}, {"iss": ISSUER, "aud": [[], {}]}, b"")
@example({"alg": "RS256", "kid": []}, {"iss": ISSUER}, b"")
@example({"alg": "RS256"}, {"iss": [ISSUER]}, b"")
@example({"alg": "RS256"}, {"iss": {}, "tid": {}}, b"")
def test_any_documents_without_the_signature_are_refused(
    verifying: tuple[asyncio.Runner, TokenVerifier], header: Any, payload: Any, signature: bytes
) -> None:
    token = f"{encoded(header)}.{encoded(payload)}.{encoded(signature)}"
    assert isinstance(outcome(verifying, token), str)


@SHARED
@given(st.dictionaries(names, values, max_size=3))
@example({"exp": 10**400})
@example({"exp": float("inf")})
@example({"exp": "9999999999"})
@example({"exp": True})
@example({"nbf": float("nan")})
@example({"roles": [{}]})
def test_signed_claims_of_any_kind_are_judged(
    verifying: tuple[asyncio.Runner, TokenVerifier], changes: dict[str, Any]
) -> None:
    found = outcome(verifying, signed(HEADER, claims() | changes))
    if isinstance(found, Verified):
        assert all(isinstance(value, str) for values in found.said.values() for value in values)
        assert all(isinstance(value, str) for value in found.claims.values())
        assert time.time() < found.expires < float("inf")


@SHARED
@given(st.dictionaries(headers, values, max_size=3))
def test_a_header_of_any_kind_is_judged(
    verifying: tuple[asyncio.Runner, TokenVerifier], changes: dict[str, Any]
) -> None:
    found = outcome(verifying, signed(HEADER | changes, claims()))
    if isinstance(found, Verified):
        assert (HEADER | changes)["alg"] == "RS256"
        assert "crit" not in changes


@SHARED
@given(st.integers(0, 2000), st.sampled_from("AZaz09-_.=+/ \x00é"))
def test_a_changed_character_is_refused(
    verifying: tuple[asyncio.Runner, TokenVerifier], place: int, other: str
) -> None:
    good = signed(HEADER, claims())
    at = place % len(good)
    changed = good[:at] + other + good[at + 1 :]
    assume(changed != good)
    found = outcome(verifying, changed)
    # The last character of a part has bits that stand for nothing.
    last = at + 1 == len(good) or good[at + 1] == "."
    assert isinstance(found, str) or last


@given(
    values
    | st.fixed_dictionaries(
        {"keys": values | st.lists(st.dictionaries(st.text(max_size=3), values), max_size=3)}
    )
)
@example({"keys": [{"kty": "RSA", "n": 5, "e": 5}]})
@example({"keys": [{"kty": "RSA", "n": "AQ", "e": "AQ"}]})
@example({"keys": [{"kty": "EC", "crv": [], "x": {}, "y": None}]})
def test_any_document_is_a_key_set_or_a_problem(document: Any) -> None:
    try:
        assert isinstance(read_keys(json.dumps(document).encode(), "here"), KeySet)
    except FetchError:
        return


@given(st.sampled_from(sorted(jwk())), values)
def test_a_key_with_a_part_of_any_kind_is_one_or_none(name: str, value: Any) -> None:
    try:
        found = read_keys(json.dumps({"keys": [jwk() | {name: value}]}).encode(), "here")
    except FetchError:
        return
    assert len(found.keys) == 1


@given(st.binary(max_size=60))
@example(b"[" * 100_000)
def test_any_bytes_are_a_key_set_or_a_problem(content: bytes) -> None:
    with pytest.raises(FetchError):
        read_keys(content, "here")
