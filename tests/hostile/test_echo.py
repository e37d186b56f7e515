"""A backend that spreads secrets, and clients that show theirs in odd places: none of them gets anywhere.

One gateway per host gets all of it. Then everything that it has written, shown and answered is searched.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from mitmproxy.http import HTTPFlow
from mitmproxy.io import FlowReader

from tests.coded_streams import CODINGS
from tests.e2e.processes import Answer, Gateway, Host, request
from tests.e2e.raw import Connection
from tests.e2e.test_capture import Capturing
from tests.e2e.test_secrets import forms, text_of
from tests.hostile.echoing_backend import Backend
from tests.ports import free_port

V1 = "/openai/v1/chat/completions"

BACKEND_KEY = "Bq7/w+Zr93=xPLk2VbTs81Nn"
OTHER_BACKEND_KEY = "0d9f3c5b7a1e48629c0d1e2f3a4b5c6d"
CLIENT_KEY = "Cq5%w&Yr84~mQKj3"
SECOND_KEY = "SecondClientsKey77Zu"
ADMIN_TOKEN = "Adm1nT0ken/of+this=one"
TOKEN = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJub2JvZHkifQ.c2lnbmF0dXJlLTc3LXNpZ25hdHVyZQ"
SECRETS = {
    "backend's key": BACKEND_KEY,
    "other backend's key": OTHER_BACKEND_KEY,
    "client's key": CLIENT_KEY,
    "other client's key": SECOND_KEY,
    "admin's token": ADMIN_TOKEN,
}

WAYS = [
    "json",
    "gzip",
    *(f"id-{n}" for n in range(3)),
    *(f"header-{n}" for n in range(5)),
    *(f"reason-{n}" for n in range(3)),
    "reason404",
    "location",
    "interim",
    "malformed",
    "nohttp",
    "unasked",
    *(f"status-{s}" for s in (400, 401, 403, 404, 408, 429, 500, 503)),
    *(f"status-{s}-gzip" for s in (400, 404, 429, 500)),
    "failed",
    "failed-gzip",
    "misnamed",
]
STREAMS = [
    *(f"cut-{'x' * n}" for n in range(len(BACKEND_KEY) + 1)),
    "bytes",
    *(f"coded-{name}" for name in CODINGS),
    "half",
    "badchunk",
    "trailer",
    "refusal",
    "refusalcode",
]

ODD_PLACES: list[tuple[str, dict[str, str]]] = [
    ("?api_key={}", {}),
    ("?token={}", {}),
    ("?nobody-expects-it=x{}y", {}),
    ("?a=1&b={}&c=3", {}),
    (";api-key={}", {}),
    ("/{}", {}),
    ("", {"x-auth-token": "{}"}),
    ("", {"openai-api-key": "{}"}),
    ("", {"x-api-key": "{}"}),
    ("", {"x-nobody-expects-it": "it is {}!"}),
    ("", {"cookie": "a=1; k={}"}),
    ("", {"user-agent": "tool/1 ({})"}),
    ("", {"{}": "1"}),
]


@dataclass
class Found:
    """All that there is after the traffic, by where it is."""

    sources: dict[str, bytes]
    seen: list[bytes]
    """The heads that the backend got."""
    records: list[dict[str, Any]]


def with_decoded(answer: bytes) -> bytes:
    """Return an answer, followed by its body decoded where it came coded."""
    head, _, body = answer.partition(b"\r\n\r\n")
    return answer + gzip.decompress(body) if b"content-encoding: gzip" in head.lower() else answer


def quoted(text: str) -> str:
    return text.replace("%", "%25").replace("&", "%26")


class Traffic:
    def __init__(self, gateway: Gateway, admin: str) -> None:
        self.gateway = gateway
        self.admin = admin
        self.answers: dict[str, bytes] = {}

    def ask(self, name: str, path: str = V1, *, stream: bool = False, **headers: str) -> None:
        body = {"model": "gpt-4o", "stream": stream, "messages": [{"role": "user", "content": "Hi"}]}
        data = json.dumps(body).encode()
        sent = {"content-type": "application/json", "content-length": str(len(data)), **headers}
        lines = [f"POST {path} HTTP/1.1", "host: gw", *(f"{n}: {v}" for n, v in sent.items())]
        with Connection(self.gateway) as connection:
            connection.send("\r\n".join([*lines, "connection: close", "", ""]).encode() + data)
            self.answers[name] = with_decoded(connection.rest())
        self.answers[f"health after {name}"] = self.gateway.request("GET", "/health/ready").body

    def status(self) -> Answer:
        return request(f"{self.admin}/api/status", headers={"authorization": f"Bearer {ADMIN_TOKEN}"})

    def run(self) -> None:
        known = {"api-key": CLIENT_KEY}
        for way in WAYS:
            self.ask(way, **known, **{"x-spread": way})
            self.ask(f"{way} by token", authorization=f"Bearer {TOKEN}", **{"x-spread": way})
        self.answers["status"] = self.status().body
        for way in STREAMS:
            self.ask(way, stream=True, **known, **{"x-spread": way})
            self.ask(f"{way} by token", stream=True, authorization=f"Bearer {TOKEN}", **{"x-spread": way})
        self.answers["status after streams"] = self.status().body
        for number, (where, fields) in enumerate(ODD_PLACES):
            path = V1 + where.format(quoted(CLIENT_KEY))
            odd = {n.format(SECOND_KEY): v.format(CLIENT_KEY) for n, v in fields.items()}
            self.ask(f"odd {number}", path, **known, **odd)
            self.ask(f"odd {number} alone", path, **odd)
        reason = json.dumps({"name": "one", "seconds": 1, "reason": f"\x1b[31mred\x1b[0m {BACKEND_KEY}"})
        opened = request(
            f"{self.admin}/api/breaks/open",
            "POST",
            headers={"authorization": f"Bearer {ADMIN_TOKEN}", "content-type": "application/json"},
            body=reason.encode(),
        )
        assert opened.status == 200
        self.answers["status at the end"] = self.status().body


@pytest.fixture(scope="module", params=["serve", "mitmdump"])
def found(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Found]:
    host: Host = request.param
    folder, given = tmp_path_factory.mktemp(f"echo-{host}"), tmp_path_factory.mktemp("home")
    backends = [Backend(list(SECRETS.values())) for _ in range(2)]
    admin = free_port()
    standins = [{"name": "gpt-4o", "standins": [{"name": "gpt-4o"}]}]
    config = {
        "aoai": {
            "endpoints": [
                {"name": name, "url": backend.url, "key": key, "virtual_deployments": standins}
                for name, backend, key in zip(
                    ("one", "two"), backends, (BACKEND_KEY, OTHER_BACKEND_KEY), strict=True
                )
            ]
        },
        "clients": [
            {"name": "Tester", "key": CLIENT_KEY},
            {"name": "Second", "key": SECOND_KEY},
            {"name": "By token", "uses_entra_id_auth": True},
        ],
        "admin": {"port": admin, "token": ADMIN_TOKEN},
        "breaks": {"default_seconds": 1e-6, "floor_seconds": 1e-6, "ceiling_seconds": 1e-6},
        "usage_log": str(folder / "usage.jsonl"),
    }
    arguments = ["--set", "termlog_verbosity=debug"]
    if host == "mitmdump":
        arguments += ["--set", "flow_detail=4", "--set", "store_streamed_bodies=true"]
    gateway = None
    try:
        gateway = Capturing(
            host, config, folder, home=given, arguments=arguments, capture=folder / "calls.flows"
        )
        traffic = Traffic(gateway, f"http://127.0.0.1:{admin}")
        traffic.run()
        assert gateway.stop() == 0
        files = [p for p in folder.rglob("*") if p.is_file() and p != gateway.config_path]
        sources = {p.name: p.read_bytes() for p in files}
        captured = gateway.dump_path or folder / "calls.flows"
        with captured.open("rb") as file:
            flows = [flow for flow in FlowReader(file).stream() if isinstance(flow, HTTPFlow)]
        sources |= {
            f"flow {n} ({f.request.headers.get('x-spread')})": text_of(f) for n, f in enumerate(flows)
        }
        sources |= {f"answer to {name}": body for name, body in traffic.answers.items()}
        records = [json.loads(line) for line in sources["usage.jsonl"].splitlines()]
        yield Found(sources, [head for backend in backends for head in backend.seen], records)
    finally:
        if gateway is not None:
            gateway.kill()
        for backend in backends:
            backend.close()


def test_everything_was_tried(found: Found) -> None:
    """Or the searches would be in vain."""
    answers = {name: body for name, body in found.sources.items() if name.startswith("answer to ")}
    assert all(body.startswith((b"HTTP/1.1 ", b"{")) for body in answers.values())
    starred = [name for name, body in answers.items() if b"********" in body]
    assert len(starred) > 50
    assert b'"content":"*****' in answers["answer to json"]
    assert b"200 OK" in answers["answer to odd 0"]
    for name in CODINGS:
        for answer in (answers[f"answer to coded-{name}"], answers[f"answer to coded-{name} by token"]):
            assert b'"content":"*****' in answer
            assert b"data: [DONE]\n\n" in answer
            assert b"content-encoding" not in answer.lower()
    assert b"401" in answers["answer to odd 7 alone"].split(b"\r\n")[0]
    assert len(found.records) > 100
    assert {"ok", "truncated", "rejected"} <= {record["outcome"] for record in found.records}
    assert sum(name.startswith("flow ") for name in found.sources) > 100
    log = found.sources["gateway.stdout"] + found.sources["gateway.stderr"]
    assert b"By hand: one: a break of 1 s was opened" in log


@pytest.mark.parametrize("secret", [*SECRETS, "token"])
def test_no_secret_gets_anywhere(found: Found, secret: str) -> None:
    looked_for = forms(SECRETS.get(secret, TOKEN))
    leaks = {
        (name, form): content[max(0, content.index(form) - 80) : content.index(form) + 40]
        for name, content in found.sources.items()
        for form in looked_for
        if form in content
    }
    assert leaks == {}


def test_no_clients_key_reaches_a_backend(found: Found) -> None:
    for secret in (CLIENT_KEY, SECOND_KEY, ADMIN_TOKEN):
        for form in forms(secret):
            assert not [head for head in found.seen if form in head]


def test_no_reason_paints_a_terminal(found: Found) -> None:
    log = found.sources["gateway.stdout"] + found.sources["gateway.stderr"]
    assert b"\x1b[31mred" not in log
    assert b"[31mred" in log, "it is there, and no terminal obeys it"
    assert b"u001b" not in found.sources["answer to status at the end"]


def test_a_stranger_is_told_states_only(found: Found) -> None:
    health = [body for name, body in found.sources.items() if name.startswith("answer to health")]
    for body in health:
        for backend in json.loads(body)["backends"]:
            assert backend.keys() == {"name", "available"}


def test_a_code_that_is_a_secret_is_no_reason(found: Found) -> None:
    attempts = [attempt for record in found.records for attempt in record["attempts"]]
    reasons = {attempt["reason"] for attempt in attempts if attempt["reason"]}
    assert {"429", "500", "401"} <= reasons
    assert not [reason for reason in reasons if "*" in reason]
