"""No key and no token in any output of the gateway, at each end of a call.

One gateway per host gets traffic of all kinds, with everything turned on that writes. Afterwards all that it
wrote is searched for all secrets, whole and in part, plain and encoded.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from mitmproxy.http import HTTPFlow
from mitmproxy.io import FlowReader

from tests.e2e.certificates import Certificates
from tests.e2e.processes import Gateway, Host, Simulator
from tests.e2e.raw import Connection, head, post
from tests.e2e.settings import SPEC, configuration

pytestmark = pytest.mark.each_host  # what they log is what they differ in

ADDONS = Path(__file__).parent / "addons"
V1 = "/openai/v1/chat/completions"
CLASSIC = "/openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21"
PROMPT = "Whisper this in nobody's ear"

KEY = "Kq7/w+Zr93=xPLk2"
"""What has to be percent-encoded in it shows whether it is searched for in that form too."""
OLD_KEY = "Ygt5Ovm4Bd8Rk1Nw"
WRONG = {
    "header": "Wh3adUnknown5521",
    "bearer": "Wb3arUnknown5522",
    "basic": "Wbas1cUnknown523",
    "query": "Wqu3ryUnknown524",
    "malformed": "Wma1fUnknown5525",
    "half": "Wha1fUnknown5526",
    "oversized": "Wov3rUnknown5527",
    "absolute": "Wab5oUnknown5528",
    "connect": "Wc0nnUnknown5529",
    "chunk": "Wchu1Unknown5530",
    "trailer": "Wtra1Unknown5531",
    "path": "Wpa7hUnknown5532",
}
OTHERS = {
    "cookie": "Coo5kieSession77",
    "proxy-authorization": "Pr0xyAuthor1ze77",
    "x-api-key": "Xap1KeyOther7788",
    "ocp-apim-subscription-key": "Ocp4pimSubscr77z",
    "x-functions-key": "Fun5tionsKey99zz",
}


def jwt(**claims: Any) -> str:
    parts = [json.dumps(part).encode() for part in ({"alg": "none", "typ": "JWT"}, claims)]
    return ".".join(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in [*parts, b"s1gnature-77"])


TOKEN = jwt(oid="f0e1d2c3", scp="user_impersonation")
EXPIRED = jwt(oid="a9b8c7d6", exp=1)


def forms(secret: str) -> set[bytes]:
    """All forms in which a secret could turn up: whole, in part, encoded."""
    raw = secret.encode()
    escaped = "".join(f"%{byte:02X}" for byte in raw)
    found = {raw, raw[:8], raw[-8:], raw.hex().encode(), quote(secret, safe="").encode(), escaped.encode()}
    found |= {escaped.lower().encode(), raw[::-1]}
    for lead in ("", "x", "xy"):  # base64 depends on where in its groups of three a secret begins
        encoded = base64.b64encode(lead.encode() + raw).rstrip(b"=")[len(lead) + bool(lead) : -2]
        found |= {encoded, encoded.translate(bytes.maketrans(b"+/", b"-_"))}
    if secret.count(".") == 2:
        found |= {part.encode()[:8] for part in secret.split(".")[1:]} | {secret.split(".")[1].encode()}
    return found


@pytest.mark.parametrize(
    "text",
    [
        "api-key: Kq7/w+Zr93=xPLk2",
        "?api-key=Kq7%2Fw%2BZr93%3DxPLk2",
        "begins with Kq7/w+Zr",
        "93=xPLk2",
        "Basic " + base64.b64encode(b"user:" + KEY.encode()).decode(),
        "Basic " + base64.b64encode(b"me:" + KEY.encode()).decode(),
        base64.b64encode(KEY.encode()).decode(),
        KEY.encode().hex(),
    ],
)
def test_the_search_would_find_it(text: str) -> None:
    assert any(form in text.encode() for form in forms(KEY))


@dataclass
class Written:
    """What there is after the traffic."""

    sources: Mapping[str, bytes]
    """What the gateway wrote and what its clients got, by where it is."""
    seen: list[dict[str, Any]]
    backend_keys: Mapping[str, str]
    host: Host
    flows: list[HTTPFlow]


class Traffic:
    """Sends all kinds of calls, and keeps what comes back."""

    def __init__(self, gateway: Gateway, simulator: Simulator) -> None:
        self.gateway = gateway
        self.simulator = simulator
        self.answers = b""
        self.calls: list[str] = []

    def ask(
        self, path: str = V1, *, status: int, stream: bool = False, model: str = "gpt-4o", **headers: str
    ) -> None:
        body = {"model": model, "messages": [{"role": "user", "content": PROMPT}], "stream": stream}
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        answer = self.gateway.request("POST", path, json_body=body, headers=named)
        assert answer.status == status, (path, answer)
        self.answers += repr(answer.headers).encode() + answer.body
        self.calls.append(answer.headers.get("x-gateway-call", ""))

    def raw(self, data: bytes) -> None:
        """Send bytes that are no good request, or not all of it, and keep what comes."""
        with Connection(self.gateway) as connection:
            connection.send(data)
            connection.finish()
            self.answers += connection.rest()

    def fault(self, kind: str, **how: Any) -> None:
        self._wait_for_backends()
        self.simulator.clear_faults()
        self.simulator.fault(kind, **how)

    def _wait_for_backends(self) -> None:
        def all_available() -> bool:
            backends = self.gateway.request("GET", "/health/ready").json()["backends"]
            return all(b["available"] for b in backends if not b["name"].endswith("@untrusted"))

        self.gateway.wait_until(all_available, "out of its breaks")

    def run(self, asked: Path) -> None:
        known = {"api_key": KEY}
        # What works, with every way of showing a credential.
        self.ask(status=200, **known)
        self.ask(CLASSIC, status=200, api_key=OLD_KEY)
        self.ask(status=200, stream=True, authorization=f"Bearer {KEY}")
        self.ask(f"{V1}?api-key={quote(KEY, safe='')}", status=200)
        self.ask(f"{CLASSIC}&api%2Dkey={quote(KEY, safe='')}", status=200, api_key=KEY)
        self.ask(status=200, api_key=KEY, **{name.replace("-", "_"): value for name, value in OTHERS.items()})
        self.ask(status=200, authorization=f"Bearer {TOKEN}")
        self.ask(CLASSIC, status=200, stream=True, authorization=f"Bearer {TOKEN}")
        # What does not.
        self.ask(status=401, authorization=f"Bearer {EXPIRED}")
        self.ask(status=401, api_key=WRONG["header"])
        self.ask(status=401, authorization=f"Bearer {WRONG['bearer']}")
        basic = base64.b64encode(f"user:{WRONG['basic']}".encode()).decode()
        self.ask(status=401, authorization=f"Basic {basic}")
        self.ask(f"{V1}?api-key={WRONG['query']}", status=401)
        self.ask(f"/nowhere?api-key={quote(KEY, safe='')}&sig={WRONG['path']}", status=404, **known)
        self.ask(status=404, model="gpt-9", **known)
        self.ask(status=429, model="secure", **known)  # its only backend has a certificate of no repute
        # What fails behind the gateway.
        ptu = {"deployment": "gpt-4o-ptu"}
        self.fault("429", **ptu)
        self.ask(status=200, **known)
        self.fault("401", **ptu)
        self.ask(status=200, **known)
        self.fault("401", times=-1)
        self.ask(status=401, authorization=f"Bearer {TOKEN}")
        self.fault("reset", **ptu)
        self.ask(status=200, stream=True, authorization=f"Bearer {TOKEN}")
        self.fault("cut", **ptu)
        question = {"model": "gpt-4o", "messages": [{"role": "user", "content": PROMPT}], "stream": True}
        with Connection(self.gateway) as connection:  # its answer has no end
            connection.send(post(V1, json.dumps(question).encode(), key=KEY))
            self.answers += connection.rest()
        self.fault("in-200-refusal", **ptu)
        self.ask(status=200, stream=True, **known)
        self.fault("500", times=-1)
        self.ask(status=500, **known)
        self.fault("content_filter", **ptu)
        self.ask(status=400, **known)
        self.simulator.clear_faults()
        # What is no request, or not a whole one.
        self.broken()
        if self.gateway.host == "mitmdump":
            for call in (self.calls[0], self.calls[2], self.calls[6]):
                self.replay(call, asked)
        self.ask(status=200, **known)

    def broken(self) -> None:
        body = json.dumps({"model": "gpt-4o", "messages": [{"role": "user", "content": PROMPT}]}).encode()
        half = head(f"POST {V1}?api-key={WRONG['half']} HTTP/1.1", f"api-key: {WRONG['half']}", "x: y")
        self.raw(half[:-4])
        self.raw(half[:60])
        self.raw(
            f"POST {V1} HTTP/1.1\r\nHost: a\r\nno colon\r\napi-key: {WRONG['malformed']}\r\n\r\n".encode()
        )
        self.raw(f"{WRONG['malformed']}\r\n\r\n".encode())
        self.raw(
            f"POST {V1} HTTP/1.1\r\nHost: a\r\napi-key: {WRONG['malformed']}\r\nx: \x00\r\n\r\n".encode()
        )
        self.raw(head("GET / HTTP/1.1", f"api-key: {WRONG['oversized']}", "x: " + "y" * 70_000)[:-2])
        target = f"http://user:{WRONG['absolute']}@elsewhere.example{V1}?api-key={WRONG['absolute']}"
        self.raw(head(f"POST {target} HTTP/1.1", f"api-key: {KEY}", "Content-Length: 0"))
        self.raw(head(f"CONNECT user:{WRONG['connect']}@elsewhere.example:443 HTTP/1.1"))
        self.raw(head("CONNECT a.example:443 HTTP/1.1", f"Proxy-Authorization: Basic {WRONG['connect']}"))
        chunked = head(f"POST {V1} HTTP/1.1", f"api-key: {KEY}", "Transfer-Encoding: chunked")
        self.raw(chunked + f"{WRONG['chunk']}\r\n".encode())
        self.raw(
            chunked + b"%x\r\n%s\r\n0\r\napi-key: %s\r\n\r\n" % (len(body), body, WRONG["trailer"].encode())
        )
        self.raw(post(V1, body, key=KEY)[:-10])  # half a body
        self.raw(post(V1, b"{" + PROMPT.encode(), key=KEY))
        self.raw(b"\x16\x03\x01\x00\x30" + WRONG["malformed"].encode() * 3)  # half a TLS handshake

    def replay(self, call: str, asked: Path) -> None:
        done = self.gateway.log.count("replayed to its end")
        draft = asked.with_suffix(".draft")
        draft.write_text(json.dumps({"call": call, "edit": {}}))
        draft.replace(asked)
        self.gateway.wait_until(lambda: self.gateway.log.count("replayed to its end") > done, "replayed")


@pytest.fixture(scope="module")
def written(
    host: Host,
    tmp_path_factory: pytest.TempPathFactory,
    home: Path,
    tls: Certificates,
) -> Iterator[Written]:
    given = tmp_path_factory.mktemp(f"secrets-{host}-given")
    folder = tmp_path_factory.mktemp(f"secrets-{host}")
    simulator = Simulator(SPEC, given)
    untrusted = Simulator(
        {"untrusted": SPEC["sweden"]},
        given,
        name="untrusted",
        arguments=["--tls-cert", tls.certificate, "--tls-key", tls.private_key],
        ca=tls.ca,
    )
    asked = given / "asked.json"
    config = configuration(simulator.urls, simulator.keys)
    config["aoai"]["endpoints"].append(
        {
            "name": "untrusted",
            "url": untrusted.urls["untrusted"],
            "key": untrusted.keys["untrusted"],
            "virtual_deployments": [{"name": "secure", "standins": [{"name": "gpt-4o-ptu"}]}],
        }
    )
    config["clients"] = [
        {"name": "Tester", "key": [KEY, OLD_KEY]},
        {"name": "By token", "uses_entra_id_auth": True},
    ]
    config["breaks"] = {"default_seconds": 0.1, "floor_seconds": 0.05, "ceiling_seconds": 0.1}
    config["usage_log"] = str(folder / "usage.jsonl")
    options = ["--set", "termlog_verbosity=debug"]
    if host == "mitmdump":
        options += ["--set", "flow_detail=4", "--set", "store_streamed_bodies=true"]
    processes = [simulator, untrusted]
    try:
        gateway = Gateway(
            host,
            config,
            folder,
            home=home,
            addons=[ADDONS / "replay_on_demand.py"] if host == "mitmdump" else [],
            arguments=options,
            env={"REPLAY_ASKED": str(asked)},
        )
        processes.insert(0, gateway)
        traffic = Traffic(gateway, simulator)
        traffic.run(asked)
        assert gateway.stop() == 0
        sources = {
            path.name: path.read_bytes()
            for path in folder.rglob("*")
            if path.is_file() and path != gateway.config_path
        }
        flows: list[HTTPFlow] = []
        if gateway.dump_path is not None:
            with gateway.dump_path.open("rb") as file:
                flows = [flow for flow in FlowReader(file).stream() if isinstance(flow, HTTPFlow)]
        for number, flow in enumerate(flows):
            sources[f"flow {number}"] = text_of(flow)
        yield Written(
            {**sources, "answers to clients": traffic.answers},
            simulator.requests(),
            {**simulator.keys, **untrusted.keys},
            host,
            flows,
        )
    finally:
        for process in processes:
            process.kill()


def text_of(flow: HTTPFlow) -> bytes:
    """Everything that a flow holds, with its bodies decoded too."""
    decoded = [flow.request.get_content(strict=False)]
    if flow.response is not None:
        decoded.append(flow.response.get_content(strict=False))
    return b"\n".join([repr(flow.get_state()).encode(), *(part or b"" for part in decoded)])


def test_it_wrote_what_it_should(written: Written) -> None:
    """Or the searches below would be in vain."""
    log = written.sources["gateway.stdout"] + written.sources["gateway.stderr"]
    assert b"certificate" in log.lower()
    assert b"refuses the gateway's own credential" in log
    usage = [json.loads(line) for line in written.sources["usage.jsonl"].splitlines()]
    outcomes = {record["outcome"] for record in usage}
    assert {"ok", "rejected", "backends_out", "truncated"} <= outcomes
    assert {record["client"] for record in usage} == {"Tester", "By token", None}
    assert {"401", "404", "head_malformed", "head_too_large"} <= {record["error"] for record in usage}
    assert b"Access denied" in written.sources["answers to clients"]
    if written.host == "mitmdump":
        assert PROMPT.encode() in log
        assert sum(bool(flow.is_replay) for flow in written.flows) == 3
        assert sum("gateway_attempt" in flow.metadata for flow in written.flows) >= 6
        assert any(flow.error for flow in written.flows)
    else:
        assert PROMPT.encode() not in log
    assert PROMPT.encode() not in written.sources["usage.jsonl"]
    assert b"crashed" not in log


@pytest.mark.parametrize(
    "secret",
    [KEY, OLD_KEY, TOKEN, EXPIRED, *WRONG.values(), *OTHERS.values()],
    ids=["key", "old-key", "token", "expired-token", *(f"wrong-{name}" for name in WRONG), *OTHERS],
)
def test_no_clients_secret_is_written(written: Written, secret: str) -> None:
    search(written, secret)


@pytest.mark.parametrize("endpoint", ["sweden", "france", "untrusted"])
def test_no_backends_key_is_written(written: Written, endpoint: str) -> None:
    search(written, written.backend_keys[endpoint])


def search(written: Written, secret: str) -> None:
    looked_for = forms(secret)
    found = [
        (name, form, content[max(0, content.index(form) - 60) : content.index(form) + 40])
        for name, content in written.sources.items()
        for form in looked_for
        if form in content
    ]
    assert found == []


def test_each_backend_got_its_own_credential_and_no_other(written: Written) -> None:
    tokens = 0
    for seen in written.seen:
        headers = seen["headers"]
        if "authorization" in headers:
            tokens += 1
            assert headers["authorization"] in (f"Bearer {TOKEN}", f"Bearer {EXPIRED}")
            assert "api-key" not in headers
        else:
            assert headers["api-key"] == written.backend_keys[seen["endpoint"]]
        sent = json.dumps(seen)
        for secret in (KEY, OLD_KEY, quote(KEY, safe=""), *WRONG.values(), *OTHERS.values()):
            assert secret not in sent
    assert tokens >= 5
    assert len(written.seen) > tokens + 10
