"""Fixtures for tests of what becomes of usage records."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.usage.receiver import Receiver, receiving


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as made:
        yield made
