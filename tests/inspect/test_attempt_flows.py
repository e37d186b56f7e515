"""Failed attempts as flows of their own."""

from __future__ import annotations

from mitmproxy.addons.view import View
from mitmproxy.test import taddons, tflow

from aoai_gateway.inspect.attempt_flows import make_flow
from aoai_gateway.runtime.stream_hooks import AttemptFailed
from tests.engine_driver import NO_CONNECTION, OK, world


def test_failed_attempts_stand_below_their_call_when_calls_overlap() -> None:
    call = world("a", "b", "c").script(a=NO_CONNECTION, b=NO_CONNECTION, c=OK).call().call
    view = View()
    with taddons.context(view):
        own, other = tflow.tflow(), tflow.tflow()
        other.timestamp_created = own.timestamp_created + 0.5
        view.add([own, other])
        failed = [
            make_flow(AttemptFailed(own, call, attempt, own.request.copy(), None, own.server_conn))
            for attempt in call.attempts[:2]
        ]
        view.add([failed[0]])
        view.add([failed[1]])
        assert list(view) == [own, *failed, other]
