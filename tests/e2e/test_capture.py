"""A captured session: complete, without secrets, and good for answers when no backend can be asked."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import openai
import pytest
from mitmproxy.http import HTTPFlow
from mitmproxy.io import FlowReader

from tests.e2e.conftest import Sdk
from tests.e2e.processes import CHECKOUT, SCRIPTS, Gateway, Host, Simulator
from tests.e2e.raw import Connection, post
from tests.e2e.settings import CLIENT_KEY, SPEC, configuration

V1 = "/openai/v1/chat/completions"
QUESTION: dict[str, Any] = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello"}]}
TOKEN = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJub2JvZHkifQ.c2lnbmF0dXJl"
COOKIE = "session-cookie-61aa"


class Session(NamedTuple):
    """What was captured, and what the clients saw."""

    path: Path
    flows: list[HTTPFlow]
    secrets: list[str]
    plain: str
    streamed: str
    streamed_body: bytes
    interrupted: bytes


def text_of(stream: openai.Stream[Any]) -> str:
    return "".join(c.choices[0].delta.content or "" for c in stream if c.choices)


def record(host: Host, folder: Path, home: Path) -> Session:
    """Capture one call of each kind, the last of which is under way when the gateway is told to stop."""
    spec = json.loads(json.dumps(SPEC))
    spec["sweden"]["deployments"]["gpt-4o-mini"] |= {"first_token_seconds": 0.5, "tokens_per_second": 20}
    simulator = Simulator(spec, folder)
    path = folder / "calls.flows"
    gateway = None
    try:
        config = configuration(
            simulator.urls,
            simulator.keys,
            clients=[
                {"name": "Tester", "key": CLIENT_KEY},
                {"name": "By token", "uses_entra_id_auth": True},
            ],
            breaks={"default_seconds": 1e-6, "floor_seconds": 1e-6, "ceiling_seconds": 1e-6},
        )
        # mitmdump's own -w is among its usual arguments here.
        arguments = ["--set", "store_streamed_bodies=true"] if host == "mitmdump" else []
        gateway = Capturing(host, config, folder, home=home, arguments=arguments, capture=path)
        sdk = Sdk()
        client, azure = sdk(gateway), sdk(gateway, "azure")
        plain = client.chat.completions.create(**QUESTION, extra_headers={"cookie": COOKIE})
        simulator.fault("429", deployment="gpt-4o-ptu", retry_after_seconds=1)
        streamed = text_of(azure.chat.completions.create(**QUESTION, stream=True))
        client.embeddings.create(model="text-embedding-3-small", input="Hello")
        simulator.fault("429", times=3)
        with pytest.raises(openai.RateLimitError):
            client.chat.completions.create(**QUESTION, user="nobody has room")
        with pytest.raises(openai.AuthenticationError):
            sdk(gateway, key="unknown-key-88d1").models.list()
        gateway.request("POST", V1, headers={"authorization": f"Bearer {TOKEN}"}, json_body=QUESTION)
        raw = gateway.request(
            "POST", V1, key=CLIENT_KEY, json_body={**QUESTION, "stream": True, "user": "raw"}
        )
        sdk.close()
        with Connection(gateway) as connection:
            slow = {**QUESTION, "model": "gpt-4o-mini", "stream": True, "max_tokens": 30}
            connection.send(post(V1, json.dumps(slow).encode(), key=CLIENT_KEY))
            gateway.wait_until(lambda: simulator.active()["in_flight"] == 1, "calling the backend")
            gateway.send()
            interrupted = connection.reply().body
        assert gateway.wait() == 0, gateway.log
        assert "Traceback" not in gateway.log
    finally:
        if gateway is not None:
            gateway.kill()
        simulator.kill()
    saved = gateway.dump_path or path
    with saved.open("rb") as file:
        flows = [flow for flow in FlowReader(file).stream() if isinstance(flow, HTTPFlow)]
    secrets = [CLIENT_KEY, "unknown-key-88d1", TOKEN, TOKEN.split(".")[2], COOKIE, *simulator.keys.values()]
    answer = plain.choices[0].message.content or ""
    return Session(saved, flows, secrets, answer, streamed, raw.body, interrupted)


class Capturing(Gateway):
    """A gateway whose host writes what passes."""

    def __init__(self, host: Host, *rest: Any, capture: Path, **how: Any) -> None:
        self._capture = capture
        super().__init__(host, *rest, **how)

    def _command(self, scripts: Any) -> list[str | Path]:
        command = super()._command(scripts)
        if self.host == "serve":
            command[command.index("serve") + 1 : command.index("serve") + 1] = ["--capture", self._capture]
        return command


@pytest.fixture(scope="module", params=["mitmdump", "serve"])
def session(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, home: Path) -> Session:
    return record(request.param, tmp_path_factory.mktemp("capture"), home)


def test_every_call_and_every_attempt_is_in_it(session: Session) -> None:
    story = [
        (f.metadata.get("gateway_attempt"), f.response.status_code if f.response else None)
        for f in session.flows
    ]
    assert story == [
        (None, 200),
        (1, 429), (None, 200),
        (None, 200),
        (1, 429), (2, 429), (3, 429), (None, 429),
        (None, 401),
        # With an Entra ID token, which went on to the backend.
        (None, 200),
        (None, 200),
        (None, 200),
    ]  # fmt: skip


def test_bodies_are_in_it_streamed_ones_too(session: Session) -> None:
    for flow in session.flows:
        assert flow.response is not None
        assert flow.response.raw_content
        if flow.request.method == "POST":
            assert b"Hello" in (flow.request.raw_content or b"")
    raw = session.flows[-2]
    assert raw.response is not None
    assert raw.response.raw_content == session.streamed_body
    assert session.streamed_body.endswith(b"data: [DONE]\n\n")


def test_a_call_that_ends_while_the_gateway_does_is_in_it(session: Session) -> None:
    last = session.flows[-1]
    assert last.response is not None
    assert last.response.raw_content == session.interrupted
    assert session.interrupted.endswith(b"data: [DONE]\n\n")
    assert last.metadata["gateway_outcome"] == "ok"


def test_no_secret_is_in_it(session: Session) -> None:
    raw = session.path.read_bytes()
    assert b"Hello" in raw
    for secret in session.secrets:
        assert secret.encode() not in raw, secret


def test_only_its_owner_may_read_it(session: Session) -> None:
    if session.path.name == "calls.flows":
        assert stat.S_IMODE(session.path.stat().st_mode) == 0o600


# --- offline -------------------------------------------------------------------------------------------


class Offline(Gateway):
    """mitmdump as docs/howto/captures.md has it, before resources that are not there."""

    def __init__(self, flows: Path, *rest: Any, **how: Any) -> None:
        self._flows = flows
        super().__init__("mitmdump", *rest, **how)

    def _command(self, scripts: Any) -> list[str | Path]:
        return [
            SCRIPTS / "mitmdump", "-s", CHECKOUT / "addons" / "gateway.py",
            "--set", f"gateway_config={self.config_path}",
            "--listen-host", "127.0.0.1", "--listen-port", str(self.port),
            "--server-replay", self._flows, "--set", "server_replay_reuse=true",
            "--set", "server_replay_extra=404",
        ]  # fmt: skip


@pytest.fixture(scope="module")
def offline(session: Session, tmp_path_factory: pytest.TempPathFactory, home: Path) -> Iterator[Gateway]:
    nowhere = dict.fromkeys(("sweden", "france"), "https://127.0.0.1:9/")
    config = configuration(nowhere, dict.fromkeys(nowhere, "offline-key-0"))
    gateway = Offline(session.path, config, tmp_path_factory.mktemp("offline"), home=home)
    try:
        yield gateway
        assert gateway.stop() == 0
    finally:
        gateway.kill()


def test_a_recorded_prompt_gets_the_recorded_answer(session: Session, offline: Gateway, sdk: Sdk) -> None:
    client = sdk(offline)
    for _ in range(2):
        answer = client.chat.completions.create(**QUESTION)
        assert answer.choices[0].message.content == session.plain
    assert len(client.embeddings.create(model="text-embedding-3-small", input="Hello").data) == 1


def test_a_recorded_stream_is_a_stream(session: Session, offline: Gateway, sdk: Sdk) -> None:
    # Beside it, the failed attempt has the same path but for the deployment, and is no answer.
    stream = sdk(offline, "azure").chat.completions.create(**QUESTION, stream=True)
    assert stream.response.headers["content-type"].startswith("text/event-stream")
    assert text_of(stream) == session.streamed


def test_the_order_of_keys_does_not_matter(session: Session, offline: Gateway) -> None:
    turned = json.dumps(dict(reversed(QUESTION.items())), indent=1).encode()
    headers = {"content-type": "application/json"}
    answer = offline.request("POST", V1, key=CLIENT_KEY, headers=headers, body=turned)
    assert answer.json()["choices"][0]["message"]["content"] == session.plain


def test_a_call_that_was_not_recorded_is_reported_and_not_sent(offline: Gateway, sdk: Sdk) -> None:
    with pytest.raises(openai.NotFoundError) as refused:
        sdk(offline).chat.completions.create(**{**QUESTION, "temperature": 0.3})
    assert refused.value.code == "not_recorded"
    # A 429 that the gateway had given itself is no answer either.
    with pytest.raises(openai.NotFoundError):
        sdk(offline).chat.completions.create(**QUESTION, user="nobody has room")
    assert " failed: " not in offline.stdout


def test_who_may_not_come_in_gets_no_recorded_answer_either(offline: Gateway, sdk: Sdk) -> None:
    with pytest.raises(openai.AuthenticationError):
        sdk(offline, key="unknown-key-88d1").chat.completions.create(**QUESTION)
