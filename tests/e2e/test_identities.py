"""Endpoints without keys: the gateway signs in with an identity, and calls notice nothing of it."""

from __future__ import annotations

import http.client
import json
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e import certificates
from tests.e2e.processes import Answer, Gateway, Simulator, eventually, request
from tests.e2e.settings import CLIENT_KEY, configuration
from tests.identity_servers import IdentityServer
from tests.local_issuer import AUDIENCE, TENANT, LocalIssuer

BODY = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hello"}]}


@pytest.fixture
def imds() -> Iterator[IdentityServer]:
    server = IdentityServer()
    yield server
    server.close()


def call(gateway: Gateway) -> Answer:
    headers = {"api-key": CLIENT_KEY}
    return request(f"{gateway.url}/openai/v1/chat/completions", "POST", headers=headers, json_body=BODY)


def signed_in(simulator: Simulator, *keyless: str, **more: Any) -> dict[str, Any]:
    """The setting's configuration, with these endpoints reached by the managed identity."""
    config = configuration(simulator.urls, simulator.keys, aoai={"auth": "managed_identity"}, **more)
    for endpoint in config["aoai"]["endpoints"]:
        if endpoint["name"] in keyless:
            del endpoint["key"]
    return config


def env(imds: IdentityServer) -> dict[str, str]:
    return {"AZURE_POD_IDENTITY_AUTHORITY_HOST": imds.url}


def where(answer: Answer) -> str:
    assert answer.status == 200, answer.body
    return answer.headers["x-gateway-backend"]


def test_a_token_that_expires_in_the_middle_of_load_fails_no_call(
    simulator: Simulator, start_gateway: Callable[..., Gateway], imds: IdentityServer
) -> None:
    imds.seconds = 16.0  # renewed after 8 s, and shown to no backend any more after 11 s
    gateway = start_gateway(config=signed_in(simulator, "sweden", "france"), env=env(imds))
    found: list[str] = []
    over = threading.Event()

    def load() -> None:
        while not over.is_set():
            found.append(where(call(gateway)))
            time.sleep(0.02)

    threads = [threading.Thread(target=load) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        eventually(lambda: len(imds.given) >= 3, "the first one has expired")
        before = len(found)
        eventually(lambda: len(found) > before + 20, "calls with the third one")
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert {name.partition("@")[2] for name in found} == {"sweden"}, "no call was turned away"
    assert not any(token in gateway.log for token in imds.given)


@pytest.mark.parametrize("how", ["hangs", "status"])
def test_without_a_token_others_serve_and_it_comes_back_by_itself(
    simulator: Simulator, start_gateway: Callable[..., Gateway], imds: IdentityServer, how: str
) -> None:
    setattr(imds, how, {"hangs": True, "status": 500}[how])
    gateway = start_gateway(config=signed_in(simulator, "sweden"), env=env(imds))
    begun = time.monotonic()
    assert where(call(gateway)).endswith("@france")
    first = time.monotonic() - begun
    assert first < 30, "a call waits within a bound"
    begun = time.monotonic()
    assert where(call(gateway)).endswith("@france")
    if how == "hangs":
        assert time.monotonic() - begun < first, "and only the first one"
    imds.hangs, imds.status = False, 200
    eventually(lambda: where(call(gateway)).endswith("@sweden"), "the token has come")


def test_a_key_that_is_rotated_in_its_file_counts_at_once(
    simulator: Simulator, start_gateway: Callable[..., Gateway], tmp_path: Path
) -> None:
    config = configuration(simulator.urls, simulator.keys, pools={"france": {"gpt-4o": ["gpt-4o-france"]}})
    file = tmp_path / "the-key"
    file.write_text("not-the-right-key")
    config["aoai"]["endpoints"][0]["key"] = {"file": str(file)}
    config["breaks"] = {"default_seconds": 0.2, "ceiling_seconds": 0.5}
    gateway = start_gateway(config=config)
    assert call(gateway).status != 200
    file.write_text(simulator.keys["france"] + "\n")
    eventually(lambda: call(gateway).status == 200, "the key is read again")
    assert simulator.keys["france"] not in gateway.log


def test_a_key_that_is_rotated_fails_no_call_and_breaks_nothing(
    simulator: Simulator, start_gateway: Callable[..., Gateway], tmp_path: Path
) -> None:
    config = configuration(simulator.urls, simulator.keys, pools={"france": {"gpt-4o": ["gpt-4o-france"]}})
    file = tmp_path / "the-key"
    file.write_text("the-key-of-before")
    config["aoai"]["endpoints"][0]["key"] = {"file": str(file)}
    gateway = start_gateway(config=config)
    file.write_text(simulator.keys["france"])
    assert call(gateway).status == 200, "the first call that is refused has the file read"
    assert simulator.keys["france"] not in gateway.log


def test_powerproxys_form_signs_in_with_its_managed_identity(
    simulator: Simulator, start_gateway: Callable[..., Gateway], imds: IdentityServer
) -> None:
    config = signed_in(simulator, "sweden", "france")
    del config["aoai"]["auth"]
    config["plugins"] = [{"name": "LogUsageToConsole"}]
    config["user_assigned_managed_identity_client_id"] = "11111111-2222-3333-4444-555555555555"
    gateway = start_gateway(config=config, env=env(imds))
    assert where(call(gateway)).endswith("@sweden")
    assert imds.asked[0]["client_id"] == "11111111-2222-3333-4444-555555555555"


# --- clients with certificates -----------------------------------------------------------------------------


def test_a_client_certificate_names_its_client(
    simulator: Simulator,
    start_gateway: Callable[..., Gateway],
    tls: certificates.Certificates,
    tmp_path: Path,
) -> None:
    gateway = start_gateway(
        simulator,
        tls=tls,
        listen={"client_ca": str(tls.ca)},
        clients=[
            {"name": "Tester", "key": CLIENT_KEY},
            {"name": "Reports", "certificate": {"san": "localhost"}},
        ],
    )

    def ask(chain: tuple[Path, Path] | None, headers: dict[str, str]) -> int:
        context = ssl.create_default_context(cafile=tls.ca)
        if chain is not None:
            context.load_cert_chain(*chain)
        connection = http.client.HTTPSConnection("localhost", gateway.port, timeout=20, context=context)
        try:
            body = json.dumps(BODY)
            sent = {"content-type": "application/json", **headers}
            connection.request("POST", "/openai/v1/chat/completions", body, sent)
            answer = connection.getresponse()
            answer.read()
            return answer.status
        finally:
            connection.close()

    ours = (tls.certificate, tls.private_key)
    assert ask(ours, {}) == 200
    assert ask(None, {}) == 401
    assert ask(None, {"api-key": CLIENT_KEY}) == 200
    assert ask(ours, {"api-key": "wrong"}) == 401
    stranger = certificates.make(tmp_path)
    with pytest.raises((ssl.SSLError, OSError)):
        ask((stranger.certificate, stranger.private_key), {})


# --- clients with tokens -----------------------------------------------------------------------------------


@pytest.fixture
def issuer() -> Iterator[LocalIssuer]:
    server = LocalIssuer()
    yield server
    server.close()


def with_token(gateway: Gateway, token: str, **headers: str) -> Answer:
    return request(
        f"{gateway.url}/openai/v1/chat/completions",
        "POST",
        headers={"authorization": f"Bearer {token}", **headers},
        json_body=BODY,
    )


def test_verified_tokens_come_in_as_their_client_and_others_do_not(
    simulator: Simulator, start_gateway: Callable[..., Gateway], issuer: LocalIssuer, tmp_path: Path
) -> None:
    log = tmp_path / "usage.jsonl"
    gateway = start_gateway(
        simulator,
        tokens=[{"issuer": issuer.url, "audience": AUDIENCE, "tenants": [TENANT]}],
        clients=[
            {"name": "Tester", "key": CLIENT_KEY},
            {"name": "Bot", "token": {"appid": "app-1"}},
            {"name": "Admins", "token": {"appid": "app-1", "roles": "admin"}},
            {"name": "Passed on", "uses_entra_id_auth": True, "verify": False},
        ],
        usage_log=str(log),
    )
    good, admin = issuer.token(), issuer.token(roles=["admin"])
    for token in (good, good, admin):
        assert with_token(gateway, token).status == 200
    for token, status, code in (
        (issuer.token(exp=1), 401, "token_expired"),
        (issuer.token(tid="other"), 401, "token_tenant"),
        (issuer.token(azp="stranger"), 403, "token_client_unknown"),
        (good[:-6] + "AAAAAA", 401, "token_signature"),
        (issuer.token(headers={"kid": "made-up"}), 401, "token_key_unknown"),
    ):
        answer = with_token(gateway, token)
        assert (answer.status, answer.json()["error"]["code"]) == (status, code)
    issuer.rotate()
    eventually(lambda: with_token(gateway, issuer.token(n=1)).status == 200, "the new key is fetched")
    # What no issuer vouches for is passed on, unverified: the endpoint decides.
    other = issuer.token(aud="https://cognitiveservices.azure.com")
    assert with_token(gateway, other).status == 200
    assert call(gateway).status == 200
    eventually(lambda: log.exists() and log.read_text().count("\n") >= 11, "records")
    found = [record["client"] for record in map(json.loads, log.read_text().splitlines())]
    assert found.count("Bot") == 3
    assert found.count("Admins") == 1
    assert found.count("Passed on") == 1
    everything = gateway.log + log.read_text()
    for token in (good, admin, other):
        assert not any(part in everything for part in token.split(".")[1:])
