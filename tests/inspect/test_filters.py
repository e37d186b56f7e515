"""The filters that docs/ shows, against mitmproxy's own parser and flows as the gateway leaves them."""

from __future__ import annotations

import re

import pytest
from mitmproxy import flowfilter
from mitmproxy.http import HTTPFlow, Response
from mitmproxy.test import tflow

from aoai_gateway.config.models import Client
from aoai_gateway.engine.call import Notice
from aoai_gateway.inspect.annotate import annotate, annotate_attempt, annotate_refusal
from aoai_gateway.wire import errors
from aoai_gateway.wire.credential_errors import unauthorized
from aoai_gateway.wire.usage import Usage
from tests.e2e.processes import CHECKOUT
from tests.engine_driver import Answer, throttled, world

CALL = "6a83217e-30e6-47f1-a3db-6062495963af"


def shown() -> dict[str, HTTPFlow]:
    """Make one flow of each kind, by name."""
    usage = Usage(12_000, 30, 12_030)
    at = world("ptu@sweden", "gpt@france").script(sweden=throttled(), france=Answer(takes=12, usage=usage))
    replayed = at.call(stream=True, prompt_cache_key="resp_1").call
    replayed.id, replayed.first_content = CALL, replayed.started + 1.5
    plain = world("gpt@france").call(client=Client(name="Demo", key="demo")).call
    waited = world("a").call().call
    waited.waited = 2.0
    degraded = world("a").call().call
    degraded.note(Notice.DEGRADED, "deployment a -> b")
    flows = {name: tflow.tflow() for name in ("replayed", "attempt", "plain", "waited", "degraded")}
    flows["refused"], flows["over quota"] = tflow.tflow(), tflow.tflow()
    annotate(flows["replayed"], replayed, "resp_1")
    annotate_attempt(flows["attempt"], replayed, replayed.attempts[0])
    for name, call in (("plain", plain), ("waited", waited), ("degraded", degraded)):
        annotate(flows[name], call)
    annotate_refusal(flows["refused"], unauthorized())
    over = world("a").call().call
    over.error, over.attempts = errors.rate_limited("", 3.0), []
    annotate(flows["over quota"], over)
    flows["over quota"].request.path = "/openai/v1/chat/completions"
    flows["over quota"].response = Response.make(429)
    return flows


FITS = {
    '~meta "gateway_client: Demo"': {"plain"},
    '~meta "gateway_conversation: resp_1"': {"replayed"},
    f"~meta {CALL}": {"replayed", "attempt"},
    '~meta "gateway_backend: .*@france"': {"replayed", "plain"},
    "~meta gateway_reason:": {"attempt"},
    "!~meta gateway_reason:": {"replayed", "plain", "waited", "degraded", "refused", "over quota"},
    "~comment replayed": {"replayed"},
    "~comment 429": {"replayed", "attempt", "over quota"},
    "~meta gateway_waited_ms:": {"waited"},
    "~meta gateway_degraded:": {"degraded"},
    '~meta "gateway_duration_ms: [0-9]{5}"': {"replayed"},
    '~meta "gateway_first_content_ms: [0-9]{4}"': {"replayed"},
    '~meta "gateway_tokens_in: [0-9]{5}"': {"replayed"},
    "~marker no_entry_sign": {"refused"},
    "~c 429 & ~u chat": {"over quota"},
}


def filters(page: str) -> list[str]:
    text = (CHECKOUT / "docs" / page).read_text(encoding="utf-8")
    return re.findall(r"^    (!?~\S.*?)  +\S", text, re.MULTILINE)


def test_every_filter_of_the_documentation_is_tried() -> None:
    assert filters("reference/flow-metadata.md") == list(FITS)
    assert set(filters("howto/inspect.md")) <= set(FITS)


@pytest.mark.parametrize("written", FITS)
def test_a_filter_finds_what_it_says(written: str) -> None:
    wanted = flowfilter.parse(written)
    assert wanted is not None
    assert {name for name, flow in shown().items() if wanted(flow)} == FITS[written]
