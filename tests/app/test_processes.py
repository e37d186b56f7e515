"""When child processes are started again."""

from aoai_gateway.app.processes import STEADY_SECONDS, Backoff


def test_pauses_grow_and_begin_anew_after_a_steady_time() -> None:
    backoff = Backoff()
    pauses = [backoff.ended(0.0, 1.0) for _ in range(9)]
    assert pauses == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0]
    assert backoff.ended(5.0, STEADY_SECONDS) == 0.1
    assert backoff.due == 5.1
