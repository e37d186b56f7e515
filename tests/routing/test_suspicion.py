"""What it takes to hold a failure against a backend."""

from __future__ import annotations

from aoai_gateway.routing.suspicion import MOST_WITNESSES, REMEMBERED_SECONDS, Finding, Suspicions, Witness

A = ("a", "gpt")


def heard(
    here: Suspicions, call: str, client: str, content: str, at: float = 0.0, *, way: str = "fails"
) -> Finding:
    return here.hear(A, way, Witness(call, client, content.encode(), at))


def test_one_failure_is_a_suspicion() -> None:
    assert heard(Suspicions(), "1", "ann", "x") is Finding.SUSPICION


def test_another_clients_failure_is_the_witness() -> None:
    here = Suspicions()
    heard(here, "1", "ann", "x")
    assert heard(here, "2", "bob", "x") is Finding.FOR_ALL


def test_the_same_content_of_the_same_client_says_nothing_new() -> None:
    here = Suspicions()
    assert [heard(here, str(n), "ann", "x", n) for n in range(5)] == [Finding.SUSPICION] * 5


def test_other_content_of_the_same_client_convinces_that_client() -> None:
    here = Suspicions()
    heard(here, "1", "ann", "x")
    assert heard(here, "2", "ann", "y") is Finding.FOR_CLIENT
    assert heard(here, "3", "bob", "z") is Finding.FOR_ALL


def test_ways_do_not_confirm_each_other() -> None:
    here = Suspicions()
    heard(here, "1", "ann", "x", way="refuses")
    assert heard(here, "2", "bob", "y", way="fails") is Finding.SUSPICION


def test_what_was_proven_needs_no_other_witness_afterwards() -> None:
    here = Suspicions()
    assert here.hear(A, "fails", Witness("1", "ann", b"x", 0, proof=True)) is Finding.FOR_ALL
    assert heard(here, "2", "ann", "y", 1) is Finding.FOR_ALL


def test_an_answer_to_what_was_sent_later_acquits_and_one_from_before_does_not() -> None:
    here = Suspicions()
    heard(here, "1", "ann", "x", 5)
    here.acquit("a", "gpt", 4)
    assert heard(here, "2", "bob", "y", 6) is Finding.FOR_ALL
    here.acquit("a", "gpt", 7)
    assert heard(here, "3", "eve", "z", 8) is Finding.SUSPICION


def test_a_standins_answer_acquits_its_endpoint_and_no_neighbour() -> None:
    here = Suspicions()
    for scope in (A, ("a", None), ("a", "other")):
        here.hear(scope, "fails", Witness("1", "ann", b"x", 0))
    here.acquit("a", "gpt", 1)
    bob = Witness("2", "bob", b"y", 2)
    found = [here.hear(scope, "fails", bob) for scope in (A, ("a", None), ("a", "other"))]
    assert found == [Finding.SUSPICION, Finding.SUSPICION, Finding.FOR_ALL]


def test_a_call_takes_its_word_back() -> None:
    here = Suspicions()
    heard(here, "1", "ann", "x")
    here.withdraw("1")
    assert heard(here, "2", "bob", "y") is Finding.SUSPICION


def test_words_are_forgotten_in_time_and_bounded_in_number() -> None:
    here = Suspicions()
    heard(here, "1", "ann", "x")
    assert heard(here, "2", "bob", "y", REMEMBERED_SECONDS) is Finding.SUSPICION
    for n in range(10 * MOST_WITNESSES):
        heard(here, str(n), "ann", str(n), REMEMBERED_SECONDS)
    assert all(len(known) <= MOST_WITNESSES for known in here.witnesses.values())
