"""The class of a request: its client's, or a lower one by header."""

from __future__ import annotations

import pytest

from aoai_gateway.config.priorities import Priority
from aoai_gateway.quota.priority import class_of
from aoai_gateway.wire.gateway_error import GatewayError
from tests.engine_driver import config

NAMES = ("critical", "standard", "batch")
CONFIG = config("a", priorities=tuple(Priority(name=name) for name in NAMES), default_priority="standard")


@pytest.mark.parametrize(
    ("own", "asked", "expected"),
    [
        ("critical", None, "critical"),
        ("critical", "batch", "batch"),
        ("critical", " standard ", "standard"),
        ("batch", "batch", "batch"),
        (None, None, "standard"),
        (None, "batch", "batch"),
    ],
)
def test_a_request_has_its_clients_class_or_a_lower_one(own: str | None, asked: str | None, expected: str):
    assert class_of(CONFIG, own, asked).name == expected


@pytest.mark.parametrize("asked", ["critical", "Batch", "", "x\r\ny"])
def test_a_higher_class_or_an_unknown_one_is_refused_with_what_is_allowed(asked: str):
    with pytest.raises(GatewayError) as caught:
        class_of(CONFIG, None, asked)
    assert (caught.value.status, caught.value.code) == (400, "priority_not_allowed")
    assert "standard, batch" in caught.value.message
    assert "\r" not in caught.value.message


def test_without_priorities_the_header_means_nothing():
    assert class_of(config("a"), "critical", "batch").name == "default"
