"""Some seconds of the soak, with one process and with two; `python -m tests.soak.soak` runs hours of it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.redis_server import require_redis
from tests.soak.soak import soaking

ROUND_SECONDS = float(os.environ.get("AOAI_SOAK_SECONDS", "12")) / 3


@pytest.mark.timeout(900)
@pytest.mark.parametrize(("workers", "https"), [(1, True), (2, False)])
def test_what_calls_hold_is_given_back(
    workers: int, https: bool, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    require_redis()
    with soaking(tmp_path, tmp_path_factory.mktemp("home"), workers, https=https) as soak:
        rounds = [soak.round(ROUND_SECONDS, seed) for seed in range(3)]
        # What is loaded with the first calls is there after the first round.
        soak.check(rounds[0], rounds[-1])
