"""No token, key or assertion in any output of a gateway that does without keys in its configuration.

One gateway per host signs in to its endpoints with a managed identity, a workload identity and a key in a
file; its clients come with verified tokens, tokens that are passed on, and a key that is known as a hash.
Identity endpoints and backends fail meanwhile. Afterwards all that it wrote is searched.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mitmproxy.http import HTTPFlow
from mitmproxy.io import FlowReader

from aoai_gateway.config.clients import digest_of
from tests.e2e.certificates import Certificates
from tests.e2e.processes import Answer, Gateway, Host, Simulator, eventually, request
from tests.e2e.settings import SPEC, configuration
from tests.e2e.test_secrets import forms, text_of
from tests.identity_servers import IdentityServer, jwt
from tests.local_issuer import AUDIENCE, LocalIssuer
from tests.ports import free_port

pytestmark = pytest.mark.each_host  # what they log is what they differ in

KEY = "gw-Hq3vN8sXw2Lr7TbYd5KcZm9PfJ"
FILE_KEY_ENDPOINT = "norway"
ADMIN_TOKEN = "adm1n-t0ken-of-ann-77123"
SPEC_OF_THREE = {**SPEC, FILE_KEY_ENDPOINT: SPEC["france"]}
POOLS = {
    "sweden": {"gpt-4o": ["gpt-4o-ptu"], "first": ["gpt-4o-ptu"]},
    "france": {"gpt-4o": ["gpt-4o-france"], "second": ["gpt-4o-france"]},
    "norway": {"gpt-4o": ["gpt-4o-france"], "third": ["gpt-4o-france"]},
}


class Run:
    """Everything that was written, and every secret that was under way."""

    def __init__(self) -> None:
        self.sources: dict[str, bytes] = {}
        self.secrets: dict[str, str] = {"key": KEY, "admin token": ADMIN_TOKEN}
        self.clients: set[str] = set()

    def note(self, answer: Answer) -> Answer:
        before = self.sources.get("answers", b"")
        self.sources["answers"] = before + repr(answer.headers).encode() + answer.body
        return answer


def ask(gateway: Gateway, run: Run, model: str, *, stream: bool = False, **headers: str) -> Answer:
    body = {"model": model, "messages": [{"role": "user", "content": "hi"}], "stream": stream}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    url = f"{gateway.url}/openai/v1/chat/completions"
    return run.note(request(url, "POST", headers=named, json_body=body))


def traffic(
    gateway: Gateway, run: Run, simulator: Simulator, issuer: LocalIssuer, identity: IdentityServer
) -> None:
    good, other = issuer.token(), issuer.token(aud="https://cognitiveservices.azure.com", exp=None)
    refused = {
        "expired": issuer.token(exp=1),
        "forged": good[:-8] + "AAAAAAAA",
        "of nobody": issuer.token(azp="stranger"),
        "of a made-up key": issuer.token(headers={"kid": "../../secret-kid-8812"}),
    }
    run.secrets |= {"good": good, "passed on": other, **refused}
    for model in ("first", "second", "third", "gpt-4o"):
        for stream in (False, True):
            assert ask(gateway, run, model, stream=stream, authorization=f"Bearer {good}").status == 200
            assert ask(gateway, run, model, stream=stream, api_key=KEY).status == 200
    assert ask(gateway, run, "gpt-4o", authorization=f"Bearer {other}").status == 200
    # A client that shows what is secret in odd places, too.
    assert ask(gateway, run, "gpt-4o", api_key=KEY, x_odd=KEY, x_other=f"Basic {KEY}").status == 200
    assert ask(gateway, run, "gpt-4o", authorization=f"Bearer {good}", x_odd=good).status == 200
    for name, token in refused.items():
        assert ask(gateway, run, "gpt-4o", authorization=f"Bearer {token}").status in (401, 403), name
    # Its identity is lost: the token at hand goes on to be used, and the log says what is wrong. One that is
    # refused is asked for anew, and does not come.
    identity.status, asked = 500, len(identity.asked)
    for kind in ("401", "500", "reset", "429"):
        simulator.fault(kind, endpoint="sweden", deployment="gpt-4o-ptu")
        ask(gateway, run, "gpt-4o", authorization=f"Bearer {good}")
        simulator.clear_faults()
    eventually(lambda: len(identity.asked) > asked, "another token is asked for")
    eventually(lambda: "failed" in gateway.log or "IMDS" in gateway.log, "the failure is told")


@pytest.fixture(scope="module")
def run(host: Host, tmp_path_factory: pytest.TempPathFactory, home: Path, tls: Certificates) -> Iterator[Run]:
    given = tmp_path_factory.mktemp(f"identity-{host}-given")
    folder = tmp_path_factory.mktemp(f"identity-{host}")
    made = Run()
    simulator = Simulator(SPEC_OF_THREE, given)
    identity, exchange = IdentityServer(), IdentityServer((tls.certificate, tls.private_key))
    issuer = LocalIssuer()
    assertion, key_file = given / "assertion", given / "the-key"
    made.secrets |= {
        "assertion": jwt(sub="system:serviceaccount:x:y"),
        "key in a file": simulator.keys["norway"],
    }
    assertion.write_text(made.secrets["assertion"])
    key_file.write_text(made.secrets["key in a file"])
    admin_port = free_port()
    gateway: Gateway | None = None
    try:
        config = configuration(simulator.urls, simulator.keys, pools=POOLS)
        ways: dict[str, dict[str, Any]] = {
            "sweden": {"auth": "managed_identity"},
            "france": {"auth": {"type": "workload_identity", "client_id": "c", "tenant_id": "t"}},
            "norway": {"key": {"file": str(key_file)}},
        }
        for endpoint in config["aoai"]["endpoints"]:
            del endpoint["key"]
            endpoint |= ways[endpoint["name"]]
        config |= {
            "tokens": [{"issuer": issuer.url, "audience": AUDIENCE}],
            "clients": [
                {"name": "Hashed", "key_sha256": digest_of(KEY).hex(), "not_after": "2099-01-01"},
                {"name": "Verified", "token": {"appid": "app-1"}, "user_from": "claim oid"},
                {"name": "Passed on", "uses_entra_id_auth": True, "verify": False},
            ],
            "breaks": {"default_seconds": 0.1, "floor_seconds": 0.05, "ceiling_seconds": 0.1},
            "usage_log": str(folder / "usage.jsonl"),
            "admin": {"port": admin_port, "tokens": [{"name": "Ann", "token": ADMIN_TOKEN}]},
        }
        options = ["--set", "termlog_verbosity=debug"]
        if host == "mitmdump":
            options += ["--set", "flow_detail=4", "--set", "store_streamed_bodies=true"]
        env = {
            "AZURE_POD_IDENTITY_AUTHORITY_HOST": identity.url,
            "AZURE_AUTHORITY_HOST": exchange.url,
            "AZURE_FEDERATED_TOKEN_FILE": str(assertion),
            "REQUESTS_CA_BUNDLE": str(tls.ca),
        }
        gateway = Gateway(host, config, folder, home=home, arguments=options, env=env)
        traffic(gateway, made, simulator, issuer, identity)
        shown = {"authorization": f"Bearer {ADMIN_TOKEN}"}
        status = request(f"http://127.0.0.1:{admin_port}/api/status", headers=shown)
        made.sources["status page"] = made.note(status).body
        switch = {"kind": "client", "name": "Hashed", "on": False}
        request(f"http://127.0.0.1:{admin_port}/api/switch", "POST", headers=shown, json_body=switch)
        assert gateway.stop() == 0
        made.secrets |= {f"token {n}": each for n, each in enumerate(identity.given + exchange.given)}
        made.sources |= {
            path.name: path.read_bytes()
            for path in folder.rglob("*")
            if path.is_file() and path != gateway.config_path
        }
        if gateway.dump_path is not None:
            with gateway.dump_path.open("rb") as file:
                flows = [flow for flow in FlowReader(file).stream() if isinstance(flow, HTTPFlow)]
            made.sources |= {f"flow {number}": text_of(flow) for number, flow in enumerate(flows)}
        yield made
    finally:
        if gateway is not None:
            gateway.kill()
        simulator.kill()
        for server in (identity, exchange, issuer):
            server.close()


def test_it_did_what_it_should(run: Run) -> None:
    """Or the search below would be in vain."""
    records = [json.loads(line) for line in run.sources["usage.jsonl"].splitlines()]
    assert {record["client"] for record in records} == {"Hashed", "Verified", "Passed on", None}
    assert {record["endpoint"] for record in records} >= {"sweden", "france", "norway"}
    assert {record["error"] for record in records} >= {
        "token_expired",
        "token_signature",
        "token_client_unknown",
    }
    status = json.loads(run.sources["status page"])
    assert {each["name"] for each in status["identities"]["credentials"]} >= {
        "Credential from managed_identity",
        "Credential from workload_identity c",
    }
    assert b"by Ann: client Hashed was switched off" in b"".join(run.sources.values())
    assert sum(name.startswith("token ") for name in run.secrets) >= 2


def test_no_secret_is_in_any_output(run: Run) -> None:
    found = [
        (name, source, form)
        for name, secret in run.secrets.items()
        for form in forms(secret)
        if form not in (b"eyJhbGci", b"AAAAAAAA")
        for source, content in run.sources.items()
        if form in content
    ]
    assert found == []
