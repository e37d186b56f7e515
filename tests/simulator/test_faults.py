from __future__ import annotations

import pytest

from aoai_simulator.faults import KINDS, Fault, FaultError, FaultQueue, read_fault, replacement, spoiled
from aoai_simulator.replies import Frames, Refused

WHO = Refused("d", "gpt-4o", "Sweden Central", "chat/completions", "2024-10-21")


def taken(queue: FaultQueue, *calls: tuple[str, str | None]) -> list[str | None]:
    return [fault.kind if (fault := queue.take(*call)) else None for call in calls]


def test_faults_strike_in_order_and_as_often_as_they_were_told_to() -> None:
    queue = FaultQueue([Fault("500", times=2), Fault("503")])
    assert taken(queue, *[("e", "d")] * 4) == ["500", "500", "503", None]
    assert len(queue) == 0


def test_a_fault_for_ever_stays_until_it_is_cleared() -> None:
    queue = FaultQueue([Fault("500", times=-1)])
    assert taken(queue, *[("e", "d")] * 3) == ["500"] * 3
    queue.clear()
    assert taken(queue, ("e", "d")) == [None]


def test_faults_are_aimed() -> None:
    queue = FaultQueue()
    queue.add(Fault("500", endpoint="e", deployment="d"))
    queue.add(Fault("502", deployment="d"))
    queue.add(Fault("503", endpoint="e"))
    assert taken(queue, ("f", "c"), ("e", None), ("f", "d"), ("e", "d")) == [None, "503", "502", "500"]


def test_a_fault_before_the_body_waits_for_a_head() -> None:
    queue = FaultQueue([Fault("500", parameters={"before_body": True})])
    assert queue.take("e", "d") is None
    fault = queue.take("e", "d", before_body=True)
    assert fault
    assert fault.kind == "500"


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_good_defaults_and_survives_the_control_planes_form(kind: str) -> None:
    fault = Fault(kind, endpoint="e", times=3)
    assert read_fault(fault.as_dict()) == fault


def test_a_wrong_parameter_names_the_right_ones() -> None:
    with pytest.raises(FaultError, match="it has: events, mid_event, how"):
        read_fault({"fault": "cut", "evnts": 3})


REPLACING = {
    "429": 429,
    "429-no-hints": 429,
    "429-ms-zero": 429,
    "429-late-body": 429,
    "retry-after-86400": 429,
    "401": 401,
    "403": 403,
    "408": 408,
    "500": 500,
    "502": 502,
    "503": 503,
    "504": 504,
    "529": 529,
    "content_filter": 400,
    "huge-error-body": 500,
}


@pytest.mark.parametrize("kind", KINDS)
def test_which_kinds_replace_the_answer(kind: str) -> None:
    reply = replacement(Fault(kind), WHO)
    assert (reply.status if reply else None) == REPLACING.get(kind)


@pytest.mark.parametrize("events", [0, 1, 4, 99])
def test_a_stream_that_is_cut_keeps_its_order(events: int) -> None:
    whole = Frames((), tuple(b"data: %d\n\n" % number for number in range(6)), 1, 2, 4)
    cut = spoiled(whole, Fault("cut", parameters={"events": events}))
    assert cut.frames == whole.frames[: min(events, 5)]
    assert cut.early <= cut.first <= cut.last <= len(cut.frames)
    half = spoiled(whole, Fault("cut", parameters={"events": events, "mid_event": True}))
    assert half.frames[:-1] == cut.frames
    assert whole.frames[len(cut.frames)].startswith(half.frames[-1])
    assert not half.frames[-1].endswith(b"\n\n")
