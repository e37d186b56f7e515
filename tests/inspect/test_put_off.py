"""What is said of a call when its flow is looked at: the same as at the call's end, and nothing is lost."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable
from types import FunctionType, MethodType, ModuleType
from typing import Any

import pytest
from mitmproxy.http import HTTPFlow
from mitmproxy.test import taddons, tflow

from aoai_gateway.config.models import Client
from aoai_gateway.engine.call import Call, Session
from aoai_gateway.inspect import put_off as putting_off
from aoai_gateway.inspect.decision_trace import Notes, follow
from aoai_gateway.inspect.inspector import Inspector
from aoai_gateway.inspect.put_off import STEP_SECONDS, PutOff, can_wait, say
from aoai_gateway.runtime.plugin_events import FLOW_HOOKS, Listeners
from aoai_gateway.wire.usage import Usage
from tests.engine_driver import NO_CONNECTION, OK, Answer, World, throttled, world

PROMPT = "Where is order 4711? " * 20
LARGEST = 10_000


class Ended:
    """A call that has ended, with its notes, and its flow."""

    def __init__(self, at: World, **how: Any) -> None:
        self.notes = Notes()
        run = at.engine.run

        def followed(engine: object, call: Call, *arguments: Any) -> Any:
            return follow(run(call, *arguments), call, self.notes)

        at.engine.run = MethodType(followed, at.engine)  # type: ignore[method-assign]  # as the proxy does
        messages = [{"role": "user", "content": PROMPT}]
        try:
            self.call = at.call(messages=messages, **how).call
        finally:
            at.engine.run = run  # type: ignore[method-assign]
        self.flow = tflow.tflow(resp=True)
        assert self.call.body is not None
        self.flow.request.headers["content-type"] = "application/json"
        self.flow.request.content = self.call.body.raw

    def put(self, put_off: PutOff) -> None:
        """Put it off, and end it as a stream does."""
        put_off.put(self.flow, self.call, self.notes, "a conversation")
        self.call.body = self.call.delivered = None

    def said(self) -> tuple[str, str, dict[str, Any]]:
        return self.flow.comment, self.flow.marked, dict(self.flow.metadata)


QUOTAS: dict[str, Any] = {"max_tokens_per_minute_in_k": {"gpt": 1}, "max_requests_per_minute": 1}


def plain() -> Ended:
    return Ended(world("a").script(a=Answer(usage=Usage(12, 30, 42))), max_tokens=7)


def replayed() -> Ended:
    at = world("ptu@a", "b", "c").script(a=throttled(retry_after="3"), b=Answer(503), c=OK)
    return Ended(at, stream=True, service_tier="priority")


def out() -> Ended:
    return Ended(world("a").script(a=NO_CONNECTION))


def over_quota() -> Ended:
    at = world("a")
    client = Client(name="Team", key="key-of-team", **QUOTAS)
    at.call(client=client)
    return Ended(at, client=client)


def counted() -> Ended:
    return Ended(world("a"), client=Client(name="Team", key="key-of-team", **QUOTAS), stream=True)


def gone() -> Ended:
    return Ended(world("a"), gone_at=1)


def keeping(ended: Ended) -> PutOff:
    """Return what puts off while the call's own configuration is in force."""
    setup = ended.call.setup
    return PutOff(lambda: setup)


SCENES = [plain, replayed, out, over_quota, counted, gone]


@pytest.mark.parametrize("scene", SCENES)
def test_the_same_is_said_as_at_once(scene: Callable[[], Ended]) -> None:
    at_once, later = scene(), scene()
    put_off = keeping(later)
    say(at_once.flow, at_once.call, at_once.notes, "a conversation")
    later.put(put_off)
    assert later.said() == ("", "", {}), "nothing is said yet"
    put_off.say(later.flow)
    assert later.said() == at_once.said()
    assert later.flow.metadata["gateway_story"]
    assert PROMPT[:20] in later.flow.comment
    assert len(put_off) == 0


def test_it_is_said_once() -> None:
    ended = plain()
    put_off = keeping(ended)
    ended.put(put_off)
    put_off.say(ended.flow)
    ended.flow.comment = "edited by hand"
    put_off.say(ended.flow)
    assert ended.flow.comment == "edited by hand"


def test_it_is_forgotten_with_its_flow() -> None:
    ended = plain()
    put_off = keeping(ended)
    ended.put(put_off)
    assert len(put_off) == 1
    del ended
    gc.collect()
    assert len(put_off) == 0


def reachable_texts(root: object) -> list[str]:
    """Return all texts that an object keeps in memory, code aside."""
    seen, left, texts = set[int](), [root], list[str]()
    while left:
        each = left.pop()
        if id(each) in seen or isinstance(each, type | ModuleType | FunctionType):
            continue
        seen.add(id(each))
        if isinstance(each, bytes):
            texts.append(each.decode(errors="replace"))
        elif isinstance(each, str):
            texts.append(each)
        else:
            left += gc.get_referents(each)
    return texts


@pytest.mark.parametrize("scene", SCENES)
def test_no_prompt_is_kept_beside_the_flow(scene: Callable[[], Ended]) -> None:
    ended = scene()
    put_off = keeping(ended)
    ended.put(put_off)
    (kept,) = put_off._unsaid.values()
    assert not [text for text in reachable_texts(kept) if PROMPT in text]


class Steps:
    """A clock by which each call takes a third of a step, and the steps that are due, which tests take."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self.due: list[tuple[float, Callable[[], None]]] = []
        monkeypatch.setattr(putting_off, "asyncio", self)

    def get_running_loop(self) -> Steps:
        return self

    def call_later(self, seconds: float, step: Callable[[], None]) -> object:
        self.due.append((seconds, step))
        return step

    def clock(self) -> float:
        self.now += STEP_SECONDS / 3
        return self.now

    def take(self) -> None:
        """Take the one step that is due."""
        ((seconds, step),) = self.due
        assert seconds > 0, "other work has its turn"
        self.due.clear()
        step()


def unsaid(calls: list[Ended]) -> int:
    return sum(each.flow.comment == "" for each in calls)


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Steps:
    return Steps(monkeypatch)


def test_no_old_configuration_is_kept_for_its_calls_and_nothing_waits_for_that(steps: Steps) -> None:
    at = world("a")
    put_off = PutOff(lambda: at.setup, steps.clock)
    old = [Ended(at) for _ in range(8)]
    for each in old:
        each.put(put_off)
    assert steps.due == []
    at.adopt(at.config)
    new = Ended(at)
    new.put(put_off)
    assert unsaid(old) == 8, "the end of a call is no place for the words of others"
    for left in (5, 2, 0):
        steps.take()
        assert unsaid(old) == left
    assert steps.due == []
    assert len(put_off) == 1
    assert new.flow.comment == ""
    assert all(PROMPT[:20] in each.flow.comment for each in old)


def test_long_streams_of_an_old_configuration_have_nothing_else_said(steps: Steps) -> None:
    at = world("a")
    put_off = PutOff(lambda: at.setup, steps.clock)
    streams = [Ended(at) for _ in range(4)]
    at.adopt(at.config)
    new = [Ended(at) for _ in range(4)]
    for stream, each in zip(streams, new, strict=True):
        each.put(put_off)
        stream.put(put_off)
        assert len(steps.due) == 1, "one chain of steps"
    for left in (1, 0):
        steps.take()
        assert (unsaid(streams), unsaid(new)) == (left, 4)
    assert steps.due == []


def test_a_call_that_cannot_be_put_into_words_keeps_no_other_from_it(
    steps: Steps, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    at = world("a")
    put_off = PutOff(lambda: at.setup, steps.clock)
    old = [Ended(at) for _ in range(2)]
    for each in old:
        each.put(put_off)
    at.adopt(at.config)
    Ended(at).put(put_off)
    annotate = putting_off.annotate

    def fails_for_one(flow: HTTPFlow, *arguments: Any) -> None:
        if flow is old[0].flow:
            raise ValueError(PROMPT)
        annotate(flow, *arguments)

    monkeypatch.setattr(putting_off, "annotate", fails_for_one)
    steps.take()
    assert [each.flow.comment == "" for each in old] == [True, False]
    assert "ValueError" in caplog.text
    assert PROMPT not in caplog.text


def no_body(ended: Ended) -> None:
    ended.flow.request.content = None


def a_large_one(ended: Ended) -> None:
    ended.flow.request.content = b"x" * (LARGEST + 1)


def a_coded_one(ended: Ended) -> None:
    ended.call = world("a").call(headers={"content-encoding": "identity"}).call


def a_session(ended: Ended) -> None:
    ended.call.session = Session()


def a_replay(ended: Ended) -> None:
    ended.flow.is_replay = "request"


@pytest.mark.parametrize("change", [no_body, a_large_one, a_coded_one, a_session, a_replay])
def test_what_cannot_be_read_again_quickly_is_said_at_once(change: Callable[[Ended], None]) -> None:
    ended = plain()
    assert can_wait(ended.flow, ended.call, LARGEST)
    change(ended)
    assert not can_wait(ended.flow, ended.call, LARGEST)


class Asks:
    """Sees flows, and asks before it reads them."""

    gateway_asks = True

    def response(self, flow: HTTPFlow) -> None: ...

    def update(self, flows: list[HTTPFlow]) -> None: ...


class Reads:
    """Sees flows, and may read them at any time."""

    def responseheaders(self, flow: HTTPFlow) -> None: ...


@pytest.mark.parametrize(("addons", "is_put_off"), [((Asks(),), True), ((Asks(), Reads()), False)])
def test_where_something_reads_flows_all_is_said_at_once(
    addons: tuple[object, ...], *, is_put_off: bool
) -> None:
    listeners, ended = Listeners(FLOW_HOOKS), plain()
    inspector = Inspector(listeners, lambda: True, lambda: ended.call.setup)
    with taddons.context(*addons, loadcore=False) as tctx:
        listeners.refresh(tctx.master.addons)
    inspector.begun(ended.call).finished(ended.flow)
    assert (ended.flow.comment == "") is is_put_off
    inspector.say(ended.flow)
    assert json.loads(ended.call.body.raw if ended.call.body else b"{}")["max_tokens"] == 7
    assert ended.flow.comment.endswith("12 tokens in, 30 out")
