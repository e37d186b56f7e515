"""Keys, hashes and certificates tell who sends a request."""

from __future__ import annotations

import asyncio
import base64
import datetime
import json
import time
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from mitmproxy.certs import Cert

from aoai_gateway.config.clients import digest_of
from aoai_gateway.config.models import Config
from aoai_gateway.identity.identify import (
    Identified,
    ShownCertificate,
    client_with,
    identify,
    read_certificate,
)
from aoai_gateway.identity.verifier import TokenVerifier
from aoai_gateway.wire.gateway_error import GatewayError
from aoai_gateway.wire.secrets import Credential

KEY = "gw-0123456789abcdef0123456789abcdef"
NOW = time.time()
YESTERDAY, TOMORROW = ((datetime.date.today() + datetime.timedelta(days=n)).isoformat() for n in (-2, 2))


def config(*clients: dict[str, Any]) -> Config:
    endpoints = [{"name": "one", "url": "https://one.example", "key": "backend-key"}]
    named = [{"name": f"c{n}", **each} for n, each in enumerate(clients)]
    return Config.model_validate({"aoai": {"endpoints": endpoints}, "clients": named})


def found(made: Config, shown: Credential | ShownCertificate | None) -> Identified | str:
    try:
        answer = identify(made, None, shown, NOW)
    except GatewayError as error:
        return error.code
    assert isinstance(answer, Identified)
    return answer


def hashed(key: str) -> str:
    return digest_of(key).hex()


def test_a_key_is_known_by_its_hash_and_masked_from_then_on() -> None:
    made = config({"key_sha256": hashed(KEY)}, {"key_sha256": [hashed("other"), {"sha256": "A" * 64}]})
    answer = found(made, Credential("key", KEY))
    assert isinstance(answer, Identified)
    assert answer.client.name == "c0"
    assert answer.masks is not None
    assert KEY.encode() not in answer.masks.mask(b"echo " + KEY.encode())
    assert found(made, Credential("key", hashed(KEY))) == "401", "the hash itself is no key"
    assert KEY not in repr(answer)


@pytest.mark.parametrize(
    ("client", "code"),
    [
        ({"key": KEY, "not_after": YESTERDAY}, "key_expired"),
        ({"key": KEY, "not_after": TOMORROW}, None),
        ({"key_sha256": {"sha256": hashed(KEY), "not_after": YESTERDAY}}, "key_expired"),
        ({"key_sha256": [{"sha256": hashed(KEY), "not_after": TOMORROW}]}, None),
        (
            {"key_sha256": [{"sha256": hashed(KEY), "not_after": TOMORROW}], "not_after": YESTERDAY},
            "key_expired",
        ),
        ({"key": KEY, "not_after": "2001-01-01T00:00:00+01:00"}, "key_expired"),
    ],
)
def test_a_key_ends_at_its_date(client: dict[str, Any], code: str | None) -> None:
    answer = found(config(client), Credential("key", KEY))
    assert answer == code if code else isinstance(answer, Identified)


def test_a_day_ends_when_the_next_one_begins() -> None:
    made = config({"key": KEY, "not_after": "2030-05-06"})
    known = made.known_keys[digest_of(KEY)]
    end = datetime.datetime(2030, 5, 7, tzinfo=datetime.UTC).timestamp()
    assert known.not_after == end


# --- certificates ------------------------------------------------------------------------------------------


def certificate(*san: x509.GeneralName, cn: str = "reports", days: int = 1) -> Cert:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name(
        [
            x509.NameAttribute(NameOID.COMMON_NAME, cn),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Contoso"),
        ]
    )
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(7).not_valid_before(now - datetime.timedelta(days=9))
    builder = builder.not_valid_after(now + datetime.timedelta(days=days))
    if san:
        builder = builder.add_extension(x509.SubjectAlternativeName(san), critical=False)
    return Cert(builder.sign(key, hashes.SHA256()))


SPIFFE = x509.UniformResourceIdentifier("spiffe://contoso/ns/reports")
DNS = x509.DNSName("Reports.contoso.example")


@pytest.mark.parametrize(
    ("wanted", "matches"),
    [
        ({"cn": "reports"}, True),
        ({"cn": "report"}, False),
        ({"cn": ["other", "reports"]}, True),
        ({"subject": "O=Contoso,CN=reports"}, True),
        ({"subject": "CN=reports"}, False),
        ({"san": "spiffe://contoso/ns/reports"}, True),
        ({"san": "REPORTS.contoso.example"}, True),
        ({"san": "reports"}, False),
        ({"cn": "reports", "san": "spiffe://contoso/ns/other"}, False),
    ],
)
def test_everything_that_is_written_must_match(wanted: dict[str, Any], matches: bool) -> None:
    shown = read_certificate(certificate(SPIFFE, DNS))
    answer = found(config({"certificate": wanted}), shown)
    assert isinstance(answer, Identified) if matches else answer == "401"


def test_a_certificate_that_has_expired_or_names_two_clients_is_refused() -> None:
    two = config({"certificate": {"cn": "reports"}}, {"certificate": {"san": SPIFFE.value}})
    assert found(two, read_certificate(certificate(SPIFFE))) == "token_client_ambiguous"
    assert found(two, read_certificate(certificate(SPIFFE, days=-1))) == "certificate_expired"
    off = config({"certificate": {"cn": "reports"}, "enabled": False})
    assert found(off, read_certificate(certificate())) == "401"


def test_who_shows_nothing_is_a_stranger() -> None:
    assert found(config({"certificate": {"cn": "reports"}}), None) == "401"
    assert client_with(config({"certificate": {"cn": "reports"}}), read_certificate(certificate()), NOW)


def test_the_case_of_a_uri_in_a_certificate_matters_and_that_of_a_host_does_not() -> None:
    uri = x509.UniformResourceIdentifier("spiffe://contoso/ns/reports/sa/x")
    shown = read_certificate(certificate(uri, x509.DNSName("Reports.Example")))
    wanted = {"spiffe://contoso/ns/reports/sa/x": True, "spiffe://contoso/ns/Reports/sa/x": False}
    for name, matches in {**wanted, "REPORTS.example": True}.items():
        made = config({"certificate": {"san": name}})
        if matches:
            assert client_with(made, shown, NOW)
        else:
            with pytest.raises(GatewayError):
                client_with(made, shown, NOW)


# --- tokens beside a client whose tokens pass unverified ---------------------------------------------------


def jwt(header: dict[str, Any], claims: dict[str, Any]) -> str:
    parts = (base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in (header, claims))
    return ".".join((*(part.decode() for part in parts), "c2lnbmF0dXJl"))


TRUSTED = {"issuer": "https://issuer.example", "audience": "api://gateway", "jwks_file": "keys.json"}
OURS = {"iss": "https://issuer.example", "aud": "api://gateway"}


@pytest.mark.parametrize(
    ("token", "code"),
    [
        (jwt({"alg": "RS256"}, {"iss": "https://other.example"}), None),
        (jwt({"alg": "RS256"}, {**OURS, "aud": "https://cognitiveservices.azure.com"}), None),
        (jwt({"alg": "RS256", "crit": ["x"]}, {"iss": "https://other.example"}), None),
        (jwt({"alg": "RS256", "crit": ["x"]}, OURS), "token_malformed"),
        (jwt({"alg": "RS256", "x": "y" * 20_000}, OURS), "token_too_large"),
        (jwt({"alg": "none"}, OURS), "token_algorithm"),
        ("eyJhbGciOiJSUzI1NiJ9.bm8ganNvbg.c2ln", "token_malformed"),
    ],
)
def test_no_flaw_lets_a_token_pass_unverified_that_claims_a_trusted_issuer(
    token: str, code: str | None, tmp_path: Path
) -> None:
    endpoints = [{"name": "one", "url": "https://one.example", "key": "backend-key"}]
    client = {"name": "any", "uses_entra_id_auth": True, "verify": False}
    tokens = [{**TRUSTED, "jwks_file": str(tmp_path / "keys.json")}]
    made = Config.model_validate({"aoai": {"endpoints": endpoints}, "clients": [client], "tokens": tokens})

    async def run() -> Identified:
        verifier = TokenVerifier()
        await verifier.adopt(made.tokens)
        try:
            answer = identify(made, verifier, Credential("jwt", token), NOW)
            return answer if isinstance(answer, Identified) else await answer
        finally:
            await verifier.close()

    if code is None:
        assert asyncio.run(run()).client.name == "any"
        return
    with pytest.raises(GatewayError) as caught:
        asyncio.run(run())
    assert caught.value.code == code
