"""How long a client's answers are, of what they may be, and how long it waits for them, from its hang-ups."""

from __future__ import annotations

import pytest

from aoai_gateway.routing import client_habits
from aoai_gateway.routing.client_habits import HANG_UPS, HANG_UPS_NEEDED, AnswerLengths, Patience
from aoai_gateway.routing.responsiveness import SAMPLES_NEEDED, Speed


def taught(*parts: float, client: str = "team") -> AnswerLengths:
    here = AnswerLengths()
    for part in parts:
        here.learn(client, "gpt", part * 1000, 1000)
    return here


def test_at_first_an_answer_may_be_as_long_as_its_bound() -> None:
    assert taught(*[0.1] * (SAMPLES_NEEDED - 1)).likely("team", "gpt", 1000) == 1000
    assert taught(*[0.1] * SAMPLES_NEEDED).likely("team", "gpt", 1000) == 100


def test_the_longest_counts_and_not_the_usual_one() -> None:
    assert taught(*[0.1] * 20, 0.5, 0.1).likely("team", "gpt", 1000) == pytest.approx(490)


def test_what_nothing_bounds_is_not_foretold() -> None:
    assert taught(*[0.1] * 10).likely("team", "gpt", None) is None


def test_clients_and_deployments_are_apart() -> None:
    here = taught(*[0.1] * 10)
    for _ in range(SAMPLES_NEEDED):
        here.learn("other", "gpt", 500, 1000)
    assert here.likely("team", "gpt", 1000) == 100
    assert here.likely("other", "gpt", 1000) == 500
    assert here.likely("team", "mini", 1000) == 1000


def test_of_an_unknown_client_the_others_tell() -> None:
    here = taught(0.1, 0.1, 0.4, client="a")
    here.learn("b", "gpt", 100, 1000)
    here.learn("c", "gpt", 100, 1000)
    assert here.likely("new", "gpt", 1000) == pytest.approx(385, abs=1)


def test_an_answer_that_was_cut_off_counts_as_twice_as_long_as_what_came_and_never_shorter() -> None:
    here = taught(*[0.1] * 10)
    here.cut_off("team", "gpt", 300, 1000)
    assert here.likely("team", "gpt", 1000) == 600
    here.cut_off("team", "gpt", 200, 1000)
    assert here.likely("team", "gpt", 1000) == 600
    here.cut_off("team", "gpt", 600, 1000)
    assert here.likely("team", "gpt", 1000) == 1000


@pytest.mark.parametrize(("tokens", "lost"), [(220, 1), (300, 1), (600, 2), (1_500, 3), (4_096, 5)])
def test_a_client_whose_answers_become_longer_loses_few_calls_of_a_standing_queue(
    tokens: int, lost: int
) -> None:
    """Each call is sent when as much time is left as the longest answer takes, as far as is known then."""
    here, speed = AnswerLengths(), Speed()
    bound, per_token, allowed = 4_096, 0.02, 60.0
    for _ in range(20):
        speed.learn_answer(200 * per_token, 200)
        here.learn("team", "gpt", 200, bound)
    speed.answer.raise_to(90)
    cut_off = 0
    for _ in range(200):
        expected = speed.answered_within(here.likely("team", "gpt", bound))
        assert expected is not None
        # Where not even all of its patience is enough, a call does not wait.
        left = expected if expected <= allowed else 90
        if tokens * per_token <= left:
            here.learn("team", "gpt", tokens, bound)
            speed.learn_answer(tokens * per_token, tokens)
        else:
            cut_off += 1
            here.cut_off("team", "gpt", speed.written_within(left), bound)
    assert cut_off <= lost


def test_hang_ups_alone_teach_nothing() -> None:
    here = AnswerLengths()
    for _ in range(10):
        here.cut_off("team", "gpt", 100, 1000)
    assert here.likely("team", "gpt", 1000) == 1000


def test_answers_that_are_as_long_under_any_bound_are_not_foretold_to_be_a_part_of_a_small_one() -> None:
    here = AnswerLengths()
    for _ in range(SAMPLES_NEEDED):
        here.learn("team", "gpt", 400, 16_000)
    assert here.likely("team", "gpt", 16_000) == 400
    assert here.likely("team", "gpt", 400) == 400
    assert here.likely("team", "gpt", 2_000) == 400
    assert here.likely("team", "gpt", 100) == 100
    assert here.likely("team", "gpt", 64_000) == 1_600


def test_the_longest_answer_fades_as_its_part_does() -> None:
    here = AnswerLengths()
    here.learn("team", "gpt", 800, 16_000)
    for _ in range(100):
        here.learn("team", "gpt", 100, 16_000)
    assert here.likely("team", "gpt", 1_000) == pytest.approx(800 * 0.98**100, abs=1)


def test_under_bounds_of_its_size_a_clients_answers_tell_alone() -> None:
    here = AnswerLengths()
    for _ in range(SAMPLES_NEEDED):
        here.learn("team", "gpt", 3_200, 4_000)
        here.learn("team", "gpt", 160, 200)
    assert here.likely("team", "gpt", 200) == 160
    assert here.likely("team", "gpt", 400) == 400, "none was of this size"
    here.cut_off("team", "gpt", 90, 200)
    assert here.likely("team", "gpt", 200) == 180


def test_an_answer_beyond_its_bound_is_as_long_as_that() -> None:
    assert taught(*[1.3] * 10).likely("team", "gpt", 1000) == 1000


def test_the_table_of_lengths_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_habits, "MOST_CLIENTS", 10)
    here = AnswerLengths()
    for number in range(100):
        here.learn(f"client {number}", "gpt", 500, 1000)
    assert len(here._longest) == 10


def test_one_hang_up_says_nothing() -> None:
    here = Patience()
    for _ in range(HANG_UPS_NEEDED - 1):
        here.hung_up("team", "batch", False, 30)
    assert here.of("team", "batch", False) is None


def test_most_of_a_clients_hang_ups_come_by_its_patience() -> None:
    here = Patience()
    for waited in (30.0, 30.1, 29.9, 30.0, 2.0):
        here.hung_up("team", "batch", False, waited)
    assert here.of("team", "batch", False) == 30.0


def test_streams_are_apart() -> None:
    here = Patience()
    for _ in range(5):
        here.hung_up("team", "batch", True, 8)
    assert here.of("team", "batch", True) == 8
    assert here.of("team", "batch", False) is None


def test_of_an_unknown_client_its_class_tells() -> None:
    here = Patience()
    for client in ("a", "b", "c"):
        here.hung_up(client, "batch", False, 30)
    assert here.of("new", "batch", False) == 30
    assert here.of("new", "critical", False) is None


def test_a_client_that_changes_its_time_out_is_learned_anew() -> None:
    here = Patience()
    for waited in [10.0] * HANG_UPS + [60.0] * HANG_UPS:
        here.hung_up("team", "batch", False, waited)
    assert here.of("team", "batch", False) == 60


def test_the_table_of_hang_ups_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_habits, "MOST_CLIENTS", 10)
    here = Patience()
    for number in range(100):
        here.hung_up(f"client {number}", "batch", False, 30)
    assert len(here._waits) <= 10
    assert here.of("client 0", "batch", False) == 30, "by its class"
