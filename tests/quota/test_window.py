"""The sliding window by itself: expiry to the microsecond, buckets, debt, exact waits."""

from hypothesis import given, settings
from hypothesis import strategies as st

from aoai_gateway.quota.window import (
    GRAIN,
    SPAN,
    Window,
    advance,
    book,
    correct,
    microseconds,
    room,
    wait,
)
from tests.examples import examples

T = microseconds(1_772_000_000.0)


def filled(*admissions: tuple[int, int]) -> Window:
    """A window with (stamp, tokens) booked, one request each."""
    window = Window()
    for stamp, tokens in admissions:
        window, _ = book(advance(window, stamp, None), stamp, tokens, 1)
    return window


def test_an_admission_counts_for_exactly_sixty_seconds():
    window = filled((T, 40))
    assert room(advance(window, T + SPAN - 1, 100), 100, "tokens") == 60
    assert room(advance(window, T + SPAN, 100), 100, "tokens") == 100
    assert room(advance(window, T + SPAN, 100), 5, "requests") == 5


def test_a_bucket_ages_with_its_newest_member():
    window = filled((T, 10), (T + GRAIN - 1, 20))
    assert len(window.buckets) == 1
    assert advance(window, T + SPAN, 100).tokens == 30
    assert advance(window, T + GRAIN - 1 + SPAN, 100).tokens == 0


def test_admissions_further_apart_age_apart():
    window = filled((T, 10), (T + GRAIN, 20))
    assert advance(window, T + SPAN, 100).tokens == 20


@settings(max_examples=examples(10))
@given(st.lists(st.integers(0, 400_000), min_size=900, max_size=1500))
def test_memory_is_bounded_under_any_traffic(pauses):
    window, now = Window(), T
    for pause in pauses:
        now += pause
        window, _ = book(advance(window, now, None), now, 1, 1)
        assert len(window.buckets) <= SPAN // GRAIN + 1


def test_a_correction_is_free_at_once_and_an_empty_bucket_goes():
    window, number = book(filled((T, 50)), T + SPAN // 2, 30, 1)
    now = T + SPAN // 2 + 5
    assert correct(window, number, -20, 0, now, 100).tokens == 60
    assert correct(window, number, -30, -1, now, 100).buckets == filled((T, 50)).buckets


def test_a_correction_of_what_has_left_changes_nothing():
    window = advance(filled((T, 50), (T + SPAN // 2, 20)), T + SPAN, 100)
    assert correct(window, 1, -30, -1, T + SPAN, 100) == window


def test_an_excess_is_owed_even_when_its_admission_has_left():
    window = advance(filled((T, 50)), T + 2 * SPAN, 100)
    window = correct(window, 1, 130, 0, T + 2 * SPAN, 100)
    assert (window.tokens, window.debt) == (100, 30)


def test_debt_is_paid_when_room_comes_up_and_not_when_it_is_looked_at():
    window = correct(filled((T, 60), (T + 1_000_000, 40)), 1, 80, 0, T + 2_000_000, 100)
    assert (window.tokens, window.debt) == (100, 80)
    late = advance(window, T + SPAN + 30_000_000, 100)
    assert [(b.last, b.tokens) for b in late.buckets] == [(T + SPAN, 60), (T + SPAN + 1_000_000, 20)]
    assert (late.tokens, late.debt) == (80, 0)


def test_a_raised_limit_pays_debt_at_once():
    window = correct(filled((T, 100)), 1, 50, 0, T + 1, 100)
    window = advance(window, T + 2, 200)
    assert (window.tokens, window.debt) == (150, 0)


@given(
    admissions=st.lists(st.tuples(st.integers(0, 20_000_000), st.integers(0, 60)), min_size=1, max_size=12),
    excess=st.integers(0, 2000),
    limit=st.integers(50, 120),
    looks=st.lists(st.integers(0, 400_000_000), max_size=6),
)
def test_how_often_one_looks_makes_no_difference(admissions, excess, limit, looks):
    """Advancing in one step, whole cycles skipped, equals advancing in many."""
    window, now = Window(), T
    for pause, tokens in admissions:
        now += pause
        window = advance(window, now, limit)
        if room(window, limit, "tokens") >= tokens:
            window, _ = book(window, now, tokens, 1)
    owing = correct(window, 0, excess, 0, now, limit)
    end = now + 400_000_000
    stepwise = owing
    for look in [*sorted(looks), *range(0, 400_000_000, 1_000_000)]:
        if stepwise.buckets and now + look < stepwise.buckets[-1].last:
            continue
        stepwise = advance(stepwise, now + look, limit)
    at_once, stepwise = advance(owing, end, limit), advance(stepwise, end, limit)
    assert [b[1:] for b in at_once.buckets] == [b[1:] for b in stepwise.buckets]
    assert (at_once.tokens, at_once.debt) == (stepwise.tokens, stepwise.debt)


@given(
    admissions=st.lists(st.tuples(st.integers(0, 20_000_000), st.integers(0, 60)), max_size=12),
    excess=st.integers(0, 1000),
    limit=st.integers(50, 120),
    asked=st.integers(0, 120),
)
def test_a_wait_is_exact_and_bookings_never_exceed_the_limit(admissions, excess, limit, asked):
    asked = min(asked, limit)
    window, now = Window(), T
    charged = 0
    for pause, tokens in admissions:
        now += pause
        window = advance(window, now, limit)
        if room(window, limit, "tokens") >= tokens:
            window, _ = book(window, now, tokens, 1)
            charged += tokens
        window = correct(window, 0, excess // 10, 0, now, limit)
        assert window.tokens <= limit
        assert window.tokens == sum(b.tokens for b in window.buckets)
        assert window.requests == sum(b.requests for b in window.buckets)
        assert not window.debt or window.tokens == limit
    time = wait(window, now, limit, asked, "tokens")
    if time:
        assert room(advance(window, now + time - 1, limit), limit, "tokens") < asked
    assert room(advance(window, now + time, limit), limit, "tokens") >= asked


def test_a_clock_set_back_keeps_what_counts_for_sixty_seconds_from_then():
    window = advance(filled((T, 70)), T - 3_600_000_000, 100)
    assert wait(window, T - 3_600_000_000, 100, 40, "tokens") == SPAN
    assert advance(window, T - 3_600_000_000 + SPAN, 100).tokens == 0
