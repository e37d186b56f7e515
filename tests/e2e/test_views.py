"""mitmweb, asked for what a browser would show: prompts and answers, with nothing set but the script."""

from __future__ import annotations

import copy
import json
import re
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import openai
import pytest

from tests.e2e.processes import CHECKOUT, SCRIPTS, Gateway, Simulator
from tests.e2e.settings import CLIENT_KEY, SPEC, configuration
from tests.ports import free_port

PASSWORD = "a-password-for-tests"


class Web(Gateway):
    """The gateway in mitmweb, as ``mitmweb -s addons/gateway.py`` starts it."""

    def _command(self, scripts: Any) -> list[str | Path]:
        self.web_port = free_port()
        return [
            SCRIPTS / "mitmweb", "-s", CHECKOUT / "addons" / "gateway.py", *scripts,
            "--set", f"gateway_config={self.config_path}", "--listen-port", str(self.port),
            "--no-web-open-browser", "--web-port", str(self.web_port), "--set", f"web_password={PASSWORD}",
        ]  # fmt: skip

    def fetch(self, path: str) -> bytes:
        """Get what mitmweb serves."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.web_port}{path}", headers={"authorization": f"Bearer {PASSWORD}"}
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.read()  # type: ignore[no-any-return]

    def shown(self, flow: Mapping[str, Any], part: str) -> dict[str, Any]:
        """What the automatic view makes of a flow's request or response."""
        return json.loads(self.fetch(f"/flows/{flow['id']}/{part}/content/auto.json"))  # type: ignore[no-any-return]


class Seen(NamedTuple):
    """What mitmweb shows of a call."""

    comment: str
    prompt: dict[str, Any]
    completion: dict[str, Any]


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory, home: Path) -> Iterator[Web]:
    folder = tmp_path_factory.mktemp("views")
    spec = copy.deepcopy(SPEC)
    spec["sweden"]["deployments"]["gpt-4o-ptu"]["tokens_per_second"] = 20  # or all would come in one chunk
    simulator = Simulator(spec, folder)
    web = None
    try:
        web = Web("mitmdump", configuration(simulator.urls, simulator.keys), folder, home=home)
        yield web
    finally:
        if web is not None:
            web.kill()
            print(web.log)
        simulator.kill()


@pytest.fixture(scope="module")
def seen(web: Web) -> dict[str, Seen]:
    client = openai.OpenAI(base_url=f"{web.url}/openai/v1/", api_key=CLIENT_KEY, max_retries=0)
    said = [{"role": "user", "content": "say:Hello,\n\nworld!"}]
    for _ in client.chat.completions.create(model="gpt-4o", messages=said, stream=True):  # type: ignore[call-overload]
        pass
    client.responses.create(model="gpt-4o", input="say:Hello", instructions="Be brief.\nAlways.")
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="unknown", messages=said)  # type: ignore[call-overload]
    flows = json.loads(web.fetch("/flows"))
    # mitmweb is ready before the encodings are there; until then a prompt's length is an estimate.
    web.wait_until(lambda: " · about " not in web.shown(flows[0], "request")["text"], "counting prompts")
    return {
        name: Seen(flow["comment"], web.shown(flow, "request"), web.shown(flow, "response"))
        for name, flow in zip(("stream", "response", "error"), flows, strict=True)
    }


def test_the_views_are_chosen(seen: dict[str, Seen]) -> None:
    for one in seen.values():
        assert (one.prompt["view_name"], one.completion["view_name"]) == ("Prompt", "Completion")


def test_a_prompt_is_readable_and_counted(seen: dict[str, Seen]) -> None:
    text = seen["stream"].prompt["text"]
    assert re.match(r"# Chat completion with gpt-4o · streamed · 1 message · \d+ prompt tokens", text)
    assert "- role: user\n  content: |-\n    say:Hello,\n\n    world!\n" in text
    assert "instructions: |-\n  Be brief.\n  Always.\n" in seen["response"].prompt["text"]


def test_a_stream_is_there_with_its_pace(seen: dict[str, Seen]) -> None:
    text = seen["stream"].completion["text"]
    assert re.match(r"stop · \d+ tokens in, 2 out · first token after [\d,]+ ms · gaps between chunks ", text)
    assert text.endswith("\nHello,\n\nworld!\n")


def test_an_error_says_what_the_gateway_did(seen: dict[str, Seen]) -> None:
    text = seen["error"].completion["text"]
    assert text.startswith("404 DeploymentNotFound")
    assert text.endswith(f"{seen['error'].comment}\n")


def test_mitmweb_wraps_lines(web: Web, seen: dict[str, Seen]) -> None:
    page = web.fetch("/").decode()
    sheets = re.findall(r'href="\.?/?(static/[^"]+\.css[^"]*)"', page)
    assert any(b"pre-wrap; word-break: normal" in web.fetch(f"/{sheet}") for sheet in sheets)
