import pytest
from hypothesis import given
from hypothesis import strategies as st

from aoai_gateway.tokens.correction import HIGHEST, LOWEST, Correction
from aoai_gateway.tokens.counting import ESTIMATE, Count


def estimated(tokens: int, encoding: str = ESTIMATE) -> Count:
    return Count(tokens, exact=False, encoding=encoding)


def test_at_first_nothing_is_corrected() -> None:
    assert Correction().tokens(estimated(1000)) == 1000


def test_it_approaches_what_usage_says() -> None:
    correction = Correction()
    errors = []
    for _ in range(60):
        correction = correction.learned(estimated(1000), 600)
        errors.append(correction.tokens(estimated(1000)) - 600)
    assert errors == sorted(errors, reverse=True)
    assert errors[0] == 360
    assert abs(errors[-1]) < 5


def test_one_odd_answer_moves_it_by_a_tenth_of_the_bound() -> None:
    assert Correction().learned(estimated(100), 10**9).tokens(estimated(100)) == 130
    assert Correction().learned(estimated(10**9), 100).tokens(estimated(1000)) == 925


def test_ways_of_counting_are_corrected_apart() -> None:
    correction = Correction().learned(estimated(1000), 500)
    assert correction.tokens(estimated(1000)) == 950
    assert correction.tokens(estimated(1000, "o200k_base")) == 1000


@pytest.mark.parametrize(
    ("count", "actual"),
    [
        (Count(1000, exact=True, encoding="o200k_base"), 500),
        (Count(1000, exact=False, encoding="o200k_base", partial=True), 50_000),
        (estimated(10), 500),
        (estimated(1000), 3),
        (estimated(0), 0),
        (estimated(1000), -5),
    ],
    ids=["exact", "partial", "tiny estimate", "tiny usage", "nothing", "nonsense"],
)
def test_what_teaches_nothing(count: Count, actual: int) -> None:
    correction = Correction({ESTIMATE: 0.7, "o200k_base": 1.1})
    assert correction.learned(count, actual) is correction


def test_an_exact_count_is_never_corrected() -> None:
    count = Count(1000, exact=True, encoding="o200k_base")
    assert Correction({"o200k_base": 2.0}).tokens(count) == 1000


@given(st.lists(st.tuples(st.integers(0, 10**12), st.integers(-10, 10**12))))
def test_the_ratio_stays_within_its_bounds(answers: list[tuple[int, int]]) -> None:
    correction = Correction()
    for tokens, actual in answers:
        correction = correction.learned(estimated(tokens), actual)
    assert LOWEST * 1000 <= correction.tokens(estimated(1000)) <= HIGHEST * 1000
