"""Only tokens that are right pass; each refusal has its own code, and tells nothing."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from aoai_gateway.config.issuers import Issuer
from aoai_gateway.config.models import Config
from aoai_gateway.identity import jwks, verifier
from aoai_gateway.identity.verifier import TokenVerifier, Verified
from aoai_gateway.wire import credential_errors
from aoai_gateway.wire.credential_errors import CODES, token_refused
from aoai_gateway.wire.gateway_error import GatewayError
from tests.local_issuer import AUDIENCE, TENANT, LocalIssuer, rsa_key, unsigned
from tests.machine_speed import slowness


def soon(seconds: float) -> int:
    """Return the time since the epoch, and so many seconds."""
    return int(time.time() + seconds)


@pytest.fixture
def issuer() -> Iterator[LocalIssuer]:
    server = LocalIssuer()
    yield server
    server.close()


def trusting(*issuers: Issuer) -> Callable[[Callable[[TokenVerifier], Awaitable[Any]]], Any]:
    def run(what: Callable[[TokenVerifier], Awaitable[Any]]) -> Any:
        async def inside() -> Any:
            made = TokenVerifier()
            await made.adopt(issuers)
            try:
                return await what(made)
            finally:
                await made.close()

        return asyncio.run(inside())

    return run


def of(server: LocalIssuer, **more: Any) -> Issuer:
    return Issuer(**{"issuer": server.url, "audience": (AUDIENCE,), **more})


def verify(server: LocalIssuer, token: str, **more: Any) -> Verified:
    found = trusting(of(server, **more))(lambda made: made.verify(token))
    assert isinstance(found, Verified)
    return found


def refusal(server: LocalIssuer, token: str, **more: Any) -> str:
    with pytest.raises(GatewayError) as caught:
        verify(server, token, **more)
    error = caught.value
    parts = [part for part in token.split(".") if len(part) > 8]
    said = str(error) + str(error.headers) + str(error.__cause__) + str(error.__suppress_context__)
    assert not any(part in said for part in parts)
    assert AUDIENCE not in said
    assert server.url not in said
    assert TENANT not in said
    return error.code


def hs256_with_the_public_key(server: LocalIssuer) -> str:
    header = {"alg": "HS256", "kid": server.kid, "typ": "JWT"}
    signed = unsigned(header, server.claims()).rpartition(".")[0]
    signature = hmac.new(server.pem(), signed.encode(), hashlib.sha256).digest()
    return unsigned(header, server.claims(), signature)


# --- what passes -------------------------------------------------------------------------------------------


def test_a_valid_token_passes(issuer: LocalIssuer) -> None:
    found = verify(issuer, issuer.token(roles=["a", "b"]))
    assert found.said["appid"] == {"app-1"}
    assert found.said["roles"] == {"a", "b"}
    assert found.claims["oid"] == "object-1"


@pytest.mark.parametrize(
    "changes",
    [
        {"aud": ["other", AUDIENCE]},
        {"exp": -30},
        {"nbf": 30, "iat": 30},
        {"nbf": None, "iat": None},
        {"azp": None, "appid": "app-1"},
    ],
)
def test_clocks_may_differ_and_claims_be_spelled_in_either_way(
    issuer: LocalIssuer, changes: dict[str, Any]
) -> None:
    changes = {name: soon(value) if isinstance(value, int) else value for name, value in changes.items()}
    assert verify(issuer, issuer.token(**changes)).said["appid"] == {"app-1"}


def test_entra_id_issues_in_two_versions() -> None:
    entra = Issuer(issuer=f"https://login.microsoftonline.com/{TENANT}/v2.0", audience=("a",))
    both = (f"https://login.microsoftonline.com/{TENANT}/v2.0", f"https://sts.windows.net/{TENANT}/")
    assert entra.addresses("elsewhere") == both
    assert entra.metadata_address == f"{both[0]}/.well-known/openid-configuration"
    old = Issuer(issuer=f"https://sts.windows.net/{TENANT}/", audience=("a",))
    assert set(old.addresses()) == set(both)
    many = Issuer(issuer="https://login.microsoftonline.com/common/v2.0", audience=("a",), tenants=(TENANT,))
    assert many.addresses(TENANT) == both
    china = Issuer(issuer=f"https://login.partner.microsoftonline.cn/{TENANT}/v2.0", audience=("a",))
    assert f"https://sts.chinacloudapi.cn/{TENANT}/" in china.addresses()


def test_elliptic_curves_pass_where_they_are_allowed(issuer: LocalIssuer) -> None:
    issuer.keys = {"ec": ec.generate_private_key(ec.SECP256R1())}
    issuer.kid = "ec"
    verify(issuer, issuer.token(), algorithms=("ES256",))
    assert refusal(issuer, issuer.token()) == "token_algorithm"


def test_a_token_without_a_key_id_passes_where_there_is_one_key(issuer: LocalIssuer) -> None:
    token = jwt.encode(issuer.claims(), issuer.keys[issuer.kid], "RS256")
    verify(issuer, token)


def test_several_keys_that_a_token_may_be_signed_with_are_tried_each(issuer: LocalIssuer) -> None:
    """Without an id, or with one that several have: rotated under one name, or written twice."""
    issuer.rotate()
    nameless = jwt.encode(issuer.claims(), issuer.keys["key-1"], "RS256")
    verify(issuer, nameless)
    rows = [{**row, "kid": "same"} for row in issuer.jwks()["keys"]]
    issuer.document = json.dumps({"keys": [*rows, {**rows[0], "x5t": "abc"}]}).encode()
    for name in ("key-0", "key-1"):
        verify(issuer, jwt.encode(issuer.claims(), issuer.keys[name], "RS256", {"kid": "same"}))
    stranger = jwt.encode(issuer.claims(), rsa_key(2), "RS256", {"kid": "same"})
    assert refusal(issuer, stranger) == "token_signature"
    expired = jwt.encode(issuer.claims(exp=soon(-120)), issuer.keys["key-0"], "RS256", {"kid": "same"})
    assert refusal(issuer, expired) == "token_expired"


def test_no_more_keys_are_tried_than_a_few(issuer: LocalIssuer) -> None:
    for _ in range(jwks.MOST_TRIED):
        issuer.rotate()
    assert refusal(issuer, jwt.encode(issuer.claims(), issuer.keys["key-0"], "RS256")) == "token_key_unknown"


def test_groups_that_its_issuer_left_out_are_told_as_such(issuer: LocalIssuer) -> None:
    """Entra ID lists no groups of a sender who is in more than 200, but where they can be asked for."""
    config = Config.model_validate(
        {
            "aoai": {"endpoints": [{"name": "a", "url": "https://a.example/", "key": "key-of-a"}]},
            "tokens": [{"issuer": issuer.url, "audience": AUDIENCE}],
            "clients": [{"name": "Team", "token": {"groups": "group-1"}}],
        }
    )
    assert verify(issuer, issuer.token(groups=["group-1"])).client(config).name == "Team"
    sources = {"src1": {"endpoint": "https://graph.example/"}}
    overage = {"_claim_names": {"groups": "src1"}, "_claim_sources": sources}
    for claims, code in (
        (overage, "token_groups_left_out"),
        ({"hasgroups": True}, "token_groups_left_out"),
        ({"_claim_names": "groups"}, "token_client_unknown"),
        ({}, "token_client_unknown"),
    ):
        with pytest.raises(GatewayError) as caught:
            verify(issuer, issuer.token(**claims)).client(config)
        assert caught.value.code == code


def test_keys_are_read_from_a_file(issuer: LocalIssuer, tmp_path: Path) -> None:
    file = tmp_path / "jwks.json"
    file.write_text(json.dumps(issuer.jwks()))
    verify(issuer, issuer.token(), jwks_file=file)
    assert issuer.asked == []


def test_keys_are_read_from_an_address_that_is_written(issuer: LocalIssuer) -> None:
    verify(issuer, issuer.token(), jwks_uri=f"{issuer.url}/keys")
    assert not any("well-known" in path for path in issuer.asked)


# --- what does not -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "make"),
    [
        ("token_expired", lambda i: i.token(exp=soon(-120))),
        ("token_not_yet_valid", lambda i: i.token(nbf=soon(120))),
        ("token_not_yet_valid", lambda i: i.token(iat=soon(120))),
        ("token_audience", lambda i: i.token(aud="https://cognitiveservices.azure.com")),
        ("token_malformed", lambda i: i.token(aud=[])),
        ("token_audience", lambda i: i.token(aud={"a": 1})),
        ("token_issuer_unknown", lambda i: i.token(iss="https://evil.example/")),
        ("token_issuer_unknown", lambda i: i.token(iss=i.url + "/")),
        ("token_issuer_unknown", lambda i: i.token(iss=None)),
        ("token_issuer_unknown", lambda i: unsigned({"alg": "RS256"}, i.claims(iss=[i.url]))),
        ("token_algorithm", lambda i: unsigned({"alg": "none", "kid": i.kid}, i.claims())),
        ("token_algorithm", lambda i: unsigned({"alg": "None", "kid": i.kid}, i.claims(), b"x")),
        ("token_algorithm", lambda i: unsigned({"kid": i.kid}, i.claims(), b"x")),
        ("token_algorithm", lambda i: unsigned({"alg": ["RS256"], "kid": i.kid}, i.claims(), b"x")),
        ("token_algorithm", hs256_with_the_public_key),
        ("token_key_unknown", lambda i: i.token(headers={"kid": "made-up"})),
        ("token_key_unknown", lambda i: i.token(headers={"kid": "../../../../etc/passwd"})),
        ("token_key_unknown", lambda i: i.token(headers={"kid": "k' OR '1'='1"})),
        ("token_key_unknown", lambda i: i.token(headers={"kid": "k" * 5000})),
        ("token_key_unknown", lambda i: unsigned({"alg": "RS256", "kid": {"a": 1}}, i.claims(), b"x")),
        ("token_signature", lambda i: i.token()[:-6] + "AAAAAA"),
        ("token_signature", lambda i: unsigned({"alg": "RS256", "kid": i.kid}, i.claims(), b"x" * 256)),
        ("token_signature", lambda i: unsigned({"alg": "RS256", "kid": i.kid}, i.claims())),
        ("token_malformed", lambda i: i.token(exp=None)),
        ("token_malformed", lambda i: i.token(exp="soon")),
        ("token_malformed", lambda i: i.token(exp=1e400)),
        ("token_malformed", lambda i: i.token(headers={"crit": ["b64"], "b64": False})),
        ("token_malformed", lambda i: "eyJhbGciOiJSUzI1NiJ9.eyJ.x"),
        ("token_malformed", lambda i: "eyJhbGciOiJSUzI1NiJ9.W10.x"),
        ("token_malformed", lambda i: "eyJ.eyJ"),
        ("token_malformed", lambda i: unsigned({"alg": "RS256"}, json.loads("[" * 500 + "]" * 500))),
        ("token_too_large", lambda i: i.token(padding="x" * 100_000)),
        ("token_too_large", lambda i: "eyJ" + "a" * 60_000 + ".eyJ." + "b" * 40_000),
    ],
)
def test_each_other_token_is_refused_with_its_own_code(
    issuer: LocalIssuer, code: str, make: Callable[[LocalIssuer], str]
) -> None:
    assert refusal(issuer, make(issuer)) == code


def test_keys_that_a_token_brings_or_points_to_do_not_count(issuer: LocalIssuer) -> None:
    own = rsa.generate_private_key(65537, 2048)
    brought = jwt.algorithms.RSAAlgorithm.to_jwk(own.public_key(), as_dict=True)
    for header in ({"jwk": brought}, {"jku": "https://evil.example/keys"}, {"x5u": "https://evil.example/"}):
        token = jwt.encode(issuer.claims(), own, "RS256", {"kid": issuer.kid, **header})
        assert refusal(issuer, token) == "token_signature"
    assert all("evil" not in path for path in issuer.asked)


def test_only_tenants_that_are_written_come_in(issuer: LocalIssuer) -> None:
    verify(issuer, issuer.token(), tenants=(TENANT,))
    assert refusal(issuer, issuer.token(tid="other"), tenants=(TENANT,)) == "token_tenant"
    assert refusal(issuer, issuer.token(tid=None), tenants=(TENANT,)) == "token_tenant"
    assert refusal(issuer, issuer.token(tid=[TENANT]), tenants=(TENANT,)) == "token_tenant"


def test_what_a_forged_token_claims_is_not_looked_at_before_its_signature(issuer: LocalIssuer) -> None:
    for changes in ({"exp": 1}, {"aud": "x"}, {"nbf": soon(999)}):
        forged = unsigned({"alg": "RS256", "kid": issuer.kid}, issuer.claims(**changes), b"x" * 256)
        assert refusal(issuer, forged) == "token_signature"


def test_every_code_has_a_message_of_its_own() -> None:
    assert len({token_refused(code).message for code in CODES}) == len(CODES)
    for code in CODES:
        error = token_refused(code)
        assert error.code == code
        assert code in (credential_errors.__doc__ or "")
        assert error.status in (401, 403, 503)


# --- keys --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"[]",
        b"{}",
        b'{"keys": {}}',
        b'{"keys": []}',
        b'{"keys": [1, {"kty": "oct", "k": "c2VjcmV0", "kid": "key-0"}]}',
        b'{"keys": [{"kty": "RSA", "n": "AQAB", "e": "AQAB", "kid": "key-0"}]}',
        b"{" * 10_000,
        b" " * (jwks.LARGEST_DOCUMENT + 2),
    ],
)
def test_a_broken_key_set_makes_tokens_wait_not_pass(issuer: LocalIssuer, document: bytes) -> None:
    issuer.document = document
    assert refusal(issuer, issuer.token()) == "token_keys_unavailable"


@pytest.mark.parametrize("status", [302, 404, 500])
def test_an_issuer_that_does_not_answer_well_makes_tokens_wait(issuer: LocalIssuer, status: int) -> None:
    issuer.status = status
    assert refusal(issuer, issuer.token()) == "token_keys_unavailable"


def test_an_issuer_that_never_answers_is_waited_for_within_a_bound(
    issuer: LocalIssuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verifier, "WAIT_SECONDS", 0.3)
    issuer.hangs = True
    begun = time.monotonic()
    assert refusal(issuer, issuer.token()) == "token_keys_unavailable"
    assert time.monotonic() - begun < 30, "it hangs for a minute"


def test_metadata_about_another_issuer_give_no_keys(issuer: LocalIssuer) -> None:
    issuer.named = "https://evil.example"
    assert refusal(issuer, issuer.token()) == "token_keys_unavailable"


def test_a_new_key_is_fetched_once_for_all_who_wait(issuer: LocalIssuer) -> None:
    async def run(made: TokenVerifier) -> None:
        issuer.rotate()
        issuer.delay = 0.2
        before = issuer.fetches
        tokens = [issuer.token(n=number) for number in range(20)]
        await asyncio.gather(*map(made.verify, tokens))
        assert issuer.fetches == before + 1

    trusting(of(issuer))(run)


def test_made_up_keys_cause_no_flood_of_fetches_and_hide_no_new_key(
    issuer: LocalIssuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verifier, "BETWEEN_FETCHES", 60.0)

    async def run(made: TokenVerifier) -> None:
        codes = []
        before = issuer.fetches
        for number in range(50):
            with pytest.raises(GatewayError) as caught:
                await made.verify(issuer.token(headers={"kid": f"made-up-{number % 5}"}))
            codes.append(caught.value.code)
        assert issuer.fetches <= before + 2
        assert set(codes) == {"token_key_unknown"}, "the issuer can be reached, and does not have them"
        issuer.rotate()
        token = issuer.token()
        with pytest.raises(GatewayError) as caught:
            await made.verify(token)
        assert caught.value.status == 401, "its issuer had no such key a moment ago"
        monkeypatch.setattr(verifier, "BETWEEN_FETCHES", 0.0)
        await made.verify(token)

    trusting(of(issuer))(run)


def test_an_unknown_key_waits_for_a_fetch_that_is_under_way(issuer: LocalIssuer) -> None:
    async def run(made: TokenVerifier) -> None:
        issuer.goes_on.clear()
        before = len(issuer.asked)
        made_up = asyncio.create_task(made.verify(issuer.token(headers={"kid": "made-up"})))
        async with asyncio.timeout(60):
            while len(issuer.asked) == before:  # noqa: ASYNC110 - a thread counts
                await asyncio.sleep(0.005)
        issuer.rotate()
        asyncio.get_running_loop().call_later(0.1, issuer.goes_on.set)
        await made.verify(issuer.token())
        with pytest.raises(GatewayError) as caught:
            await made_up
        assert caught.value.code == "token_key_unknown"

    trusting(of(issuer))(run)


def test_an_unknown_key_is_not_held_against_a_token_while_its_issuer_is_away(issuer: LocalIssuer) -> None:
    async def run(made: TokenVerifier) -> None:
        issuer.status = 500
        for number in range(2):
            with pytest.raises(GatewayError) as caught:
                await made.verify(issuer.token(headers={"kid": f"new-{number}"}))
            assert caught.value.code == "token_keys_unavailable"

    trusting(of(issuer))(run)


def test_keys_at_hand_serve_while_their_issuer_is_away(issuer: LocalIssuer) -> None:
    async def run(made: TokenVerifier) -> None:
        issuer.status = 500
        with pytest.raises(GatewayError):
            await made.verify(issuer.token(headers={"kid": "made-up"}))
        await made.verify(issuer.token())

    trusting(of(issuer))(run)


# --- what is remembered ------------------------------------------------------------------------------------


def test_a_token_is_verified_once_and_forgotten_with_its_key_or_issuer(
    issuer: LocalIssuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verifier, "BETWEEN_FETCHES", 0.0)

    async def run(made: TokenVerifier) -> None:
        token = issuer.token()
        assert made.remembered(token) is None
        found = await made.verify(token)
        assert made.remembered(token) is found
        assert made.remembered(token[:-1]) is None
        issuer.rotate()
        await made.verify(issuer.token())
        assert made.remembered(token) is found
        del issuer.keys["key-0"]
        issuer.rotate()
        issuer.keys["key-9"] = issuer.keys.pop(issuer.kid)
        issuer.kid = "key-9"
        last = issuer.token()
        await made.verify(last)
        assert made.remembered(token) is None, "its key was withdrawn"
        await made.adopt([])
        assert made.remembered(last) is None

    trusting(of(issuer))(run)


def test_a_remembered_token_expires(issuer: LocalIssuer, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run(made: TokenVerifier) -> None:
        expires = soon(1000)
        token = issuer.token(exp=expires)
        await made.verify(token)
        assert made.remembered(token) is not None
        monkeypatch.setattr(verifier, "time", SimpleNamespace(time=lambda: expires, monotonic=time.monotonic))
        with pytest.raises(GatewayError) as caught:
            made.remembered(token)
        assert caught.value.code == "token_expired"

    trusting(of(issuer, leeway_seconds=0))(run)


def test_no_more_tokens_are_remembered_than_a_bound(
    issuer: LocalIssuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verifier, "MOST_VERIFIED", 3)

    async def run(made: TokenVerifier) -> None:
        for number in range(6):
            await made.verify(issuer.token(n=number))
        assert len(made._verified) == 3

    trusting(of(issuer))(run)


def test_nothing_on_the_event_loop_takes_longer_than_two_milliseconds(issuer: LocalIssuer) -> None:
    """The shortest of a few runs: others run on this machine, too."""

    async def run(made: TokenVerifier) -> None:
        kept = issuer.token()
        await made.verify(kept)
        largest = issuer.token(padding="x" * 11_000)
        forged = largest[:-6] + "AAAAAA"

        async def first(token: str) -> None:
            try:
                await made.verify(token)
            except GatewayError:
                return

        async def timed(what: Callable[[], Awaitable[Any]]) -> float:
            times = []
            for _ in range(20):
                begun = time.perf_counter()
                await what()
                times.append(time.perf_counter() - begun)
            return min(times)

        async def again() -> None:
            made.remembered(kept)

        assert await timed(lambda: first(largest)) < 0.002 * slowness()
        assert await timed(lambda: first(forged)) < 0.002 * slowness()
        assert await timed(again) < 0.000_15 * slowness()

    trusting(of(issuer))(run)


def test_keys_are_fetched_off_the_event_loop(issuer: LocalIssuer) -> None:
    fetched_in: list[int] = []
    real = jwks.read_keys

    def note(content: bytes, where: str) -> jwks.KeySet:
        fetched_in.append(threading.get_ident())
        return real(content, where)

    jwks.read_keys = note
    try:
        verify(issuer, issuer.token())
    finally:
        jwks.read_keys = real
    assert fetched_in
    assert threading.get_ident() not in fetched_in
