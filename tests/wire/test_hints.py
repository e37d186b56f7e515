"""Hints and figures in response headers: the order of belief, and what is not believed."""

import json
import time
from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mitmproxy.http import Headers

from aoai_gateway.wire.hints import RateLimits, read_rate_limits, retry_hint

NOW = 1_780_000_000.0

# Header values as captured on real answers.
CAPTURED_429 = {
    "retry-after": "1",
    "retry-after-ms": "0",
    "x-ratelimit-limit-requests": "5",
    "x-ratelimit-limit-tokens": "5000",
    "x-ratelimit-remaining-requests": "4",
    "x-ratelimit-remaining-tokens": "0",
    "x-ratelimit-renewalperiod-requests": "60",
    "x-ratelimit-renewalperiod-tokens": "60",
    "x-ratelimit-reset-requests": "12",
    "x-ratelimit-reset-tokens": "0",
    "x-ratelimit-type": "Tokens",
}


def hint(headers: dict[str, str], body: bytes | None = None) -> float | None:
    return retry_hint(headers, body, NOW)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after-ms": "2000", "retry-after": "60"}, 2.0),
        ({"retry-after-ms": "12.5"}, 0.0125),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": " 0.25 "}, 0.25),
        ({"retry-after": "86400"}, 86400.0),
        ({"retry-after": formatdate(NOW + 30, usegmt=True)}, 30.0),
        ({"retry-after": "Thu, 28 May 2026 20:26:50 -0000"}, 10.0),
        ({"retry-after": "Thursday, 28-May-26 20:26:50 GMT"}, 10.0),
        ({"retry-after": formatdate(NOW - 30, usegmt=True)}, 0.0),
        ({"retry-after-ms": "0"}, 0.0),
        ({"retry-after-ms": "0", "retry-after": "3"}, 3.0),
        ({"x-ratelimit-reset-requests": "10"}, 10.0),
        ({"x-ratelimit-reset-requests": "2", "x-ratelimit-reset-tokens": "6m0s"}, 360.0),
        ({"x-ratelimit-reset-tokens": "1h2m3.5s"}, 3723.5),
        ({"x-ratelimit-reset-tokens": "120ms"}, 0.12),
        ({"x-ratelimit-reset-tokens": "1d"}, 86400.0),
        ({"retry-after": "4", "x-ratelimit-reset-tokens": "64"}, 4.0),
        ({"retry-after-ms": "0", "x-ratelimit-reset-tokens": "9"}, 9.0),
        # What is exhausted counts, not what resets later.
        (
            {
                "x-ratelimit-remaining-requests": "0",
                "x-ratelimit-reset-requests": "5",
                "x-ratelimit-remaining-tokens": "900",
                "x-ratelimit-reset-tokens": "50",
            },
            5.0,
        ),
    ],
)
def test_the_hint(headers: dict[str, str], seconds: float | None) -> None:
    assert hint(headers) == pytest.approx(seconds)


@pytest.mark.parametrize("name", ["retry-after-ms", "retry-after", "x-ratelimit-reset-tokens"])
@pytest.mark.parametrize(
    "junk",
    ["", " ", "-1", "-0.5", "nan", "inf", "-inf", "1e400", "1e3", "9" * 400, "soon", "1,2", "٣", "0x10", "."],
)
def test_junk_is_no_hint(name: str, junk: str) -> None:
    assert hint({name: junk}) is None
    assert hint({name: junk, "retry-after": "5"} if name != "retry-after" else {name: junk}) in (5.0, None)


def test_junk_before_a_good_hint_is_passed_over() -> None:
    assert hint({"retry-after-ms": "soon", "retry-after": "-4", "x-ratelimit-reset-tokens": "8"}) == 8.0


@pytest.mark.parametrize(
    ("name", "value", "seconds"),
    [
        ("x-rate-limit-reset-tokens", "55", 55),
        ("x-rate-limit-reset-requests", "1.5s", 1.5),
        ("x-ratelimit-reset-requests", "1h2m", 3720),
        ("x-ratelimit-reset-tokens", "6m0s", 360),
        ("x-ratelimit-reset-tokens", "350ms", 0.35),
        ("x-ratelimit-reset-tokens", "7.66s", 7.66),
        ("x-ratelimit-reset-tokens", f"{NOW + 20:.0f}", 20),
        ("x-ratelimit-reset", f"{NOW + 20:.0f}", 20),
        ("x-ratelimit-reset", f"{(NOW + 20) * 1000:.0f}", 20),
        ("x-ratelimit-reset-after", "2.5", 2.5),
        ("ratelimit-reset", "12", 12),
        ("ratelimit", '"default";r=0;t=30', 30),
        ("ratelimit", "limit=100, remaining=0, reset=31", 31),
        ("ratelimit", '"a";r=0;t=3, "b";r=0;t=9', 9),
        ("ratelimit", '"default";r=9;q=30', None),
        ("x-ms-retry-after-ms", "450", 0.45),
        ("retry-after-ms", "2s", 2),
        ("retry-after", "20s", 20),
        ("retry-after", "PT20S", 20),
        ("retry-after", "2 minutes", 120),
        ("retry-after", f"{NOW + 25:.0f}", 25),
        ("retry-after", "Thursday, 28-May-26 20:26:50 GMT", 10),
        ("retry-after", "Thu May 28 20:26:50 2026", 10),
        ("retry-after", "2026-05-28T20:26:50Z", 10),
        ("retry-after", "2026-05-28T22:26:50+02:00", 10),
        ("anthropic-ratelimit-tokens-reset", "2026-05-28T20:27:00Z", 20),
        ("anthropic-ratelimit-input-tokens-reset", "2026-05-28T20:27:00Z", 20),
        ("anthropic-ratelimit-requests-reset", "2026-05-28T20:26:40Z", None),
        ("retry-after", "2026-13-45T99:99:99Z", None),
        ("retry-after", "1s" * 40, None),
    ],
)
def test_spellings_of_headers_in_the_wild(name: str, value: str, seconds: float | None) -> None:
    assert hint({name: value}) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("error", "seconds"),
    [
        ({"details": [{"@type": "x"}, {"@type": "google.rpc.RetryInfo", "retryDelay": "20s"}]}, 20),
        ({"details": [{"metadata": {"quotaResetDelay": "1m30.5s"}}]}, 90.5),
        ({"retry_after": 7}, 7),
        ({"retry_after": 0.25}, 0.25),
        ({"retryAfterMs": 1500}, 1.5),
        ({"innererror": {"retry_after_seconds": "4"}}, 4),
        ({"retry_after": True, "innererror": {"retryAfter": "PT9S"}}, 9),
        ({"retry_after": [9], "details": "no"}, None),
        ({"retry_after": float("inf")}, None),
        ({"retry_after": -3}, None),
    ],
)
def test_spellings_in_the_error(error: dict[str, object], seconds: float | None) -> None:
    for document in ({"error": error}, error):
        body = json.dumps(document).encode()
        assert hint({}, body) == pytest.approx(seconds)
        assert hint({"retry-after": "3"}, body) == 3.0


def test_what_reads_a_hint_is_linear() -> None:
    began = time.thread_time()
    for body in (
        b"retry after " * 5_400,
        b"wait 1" * 10_900,
        b"retry after 1s and " * 3_400,
        b"retry in " + b"1" * 65_000,
    ):
        hint({"retry-after": "1s" * 30_000, "ratelimit": "t=1" * 20_000}, body)
    assert time.thread_time() - began < 0.5, "some milliseconds; a quadratic search takes minutes"


def test_zero_with_exhausted_tokens_means_until_the_window_renews() -> None:
    assert hint(CAPTURED_429) == 60.0
    assert hint(CAPTURED_429 | {"x-ratelimit-renewalperiod-tokens": "10"}) == 10.0
    assert hint({"retry-after-ms": "0", "x-ratelimit-remaining-tokens": "-27689"}) == 60.0
    assert hint({"retry-after": "0", "x-ratelimit-remaining-tokens": "0"}) == 60.0
    assert hint(CAPTURED_429 | {"retry-after": "86400"}) == 86400.0


def test_zero_with_tokens_left_means_little() -> None:
    assert hint(CAPTURED_429 | {"x-ratelimit-remaining-tokens": "10"}) == 1.0


@pytest.mark.parametrize(
    ("message", "seconds"),
    [
        ("… current OpenAI S0 pricing tier. Please retry after 60 seconds. Please go here: …", 60.0),
        ("Rate limit is exceeded. Try again in 5 seconds.", 5.0),
        ("Please retry after 1 second.", 1.0),
        ("Please retry after 250 milliseconds.", 0.25),
        ("PLEASE RETRY AFTER 2 minutes", 120.0),
        ("try again in 1.5s", 1.5),
        ("try again in 20ms", 0.02),
        ("Please try again in 6.2s. Visit …", 6.2),
        ("Please try again in 1m12.5s.", 72.5),
        ("Try again in 2 minutes", 120.0),
        ("Please retry in 29.114197034s.", 29.114197034),
        ("Please wait 3 minutes and 5 seconds.", 185.0),
        ("Quota resets in 1 hour, 2 minutes.", 3720.0),
        ("Please retry after: 4 secs", 4.0),
        ("Please retry after some time.", None),
        ("Please retry after 99999999999999 seconds.", None),
        ("I ate 60 seconds ago", None),
    ],
)
def test_the_messages_text_is_the_last_resort(message: str, seconds: float | None) -> None:
    body = json.dumps({"error": {"message": message}}).encode()
    assert hint({}, body) == pytest.approx(seconds)
    assert hint({"retry-after": "3"}, body) == 3.0


@given(st.dictionaries(st.sampled_from(sorted(CAPTURED_429)), st.text(max_size=12)), st.binary(max_size=64))
def test_any_headers_and_body_give_a_time_or_nothing(headers: dict[str, str], body: bytes) -> None:
    seconds = hint(headers, body)
    assert seconds is None or 0 <= seconds <= 1e9


def test_mitmproxys_headers_will_do() -> None:
    headers = Headers([(b"Retry-After-MS", b"1500"), (b"X-MS-Region", b"East US 2")])
    assert retry_hint(headers, None, NOW) == 1.5
    assert read_rate_limits(headers).region == "East US 2"


def test_figures_of_a_captured_answer() -> None:
    assert read_rate_limits(CAPTURED_429) == RateLimits(
        limit_tokens=5000,
        remaining_tokens=0,
        reset_tokens=0.0,
        renewal_tokens=60.0,
        limit_requests=5,
        remaining_requests=4,
        reset_requests=12.0,
        renewal_requests=60.0,
    )


def test_no_headers_no_figures() -> None:
    assert read_rate_limits({}) == RateLimits()


def test_negative_means_exhausted_and_minus_one_of_all_means_unknown() -> None:
    headers = {"x-ratelimit-remaining-tokens": "-27689", "x-ratelimit-reset-tokens": "64"}
    assert read_rate_limits(headers).remaining_tokens == -27689
    unknown = {
        "x-ratelimit-limit-tokens": "-1",
        "x-ratelimit-remaining-tokens": "-1",
        "x-ratelimit-reset-tokens": "0",
    }
    assert read_rate_limits(unknown) == RateLimits()
    assert read_rate_limits(unknown | {"x-ratelimit-limit-tokens": "1000"}).remaining_tokens == -1


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("89.3%", 0.893),
        ("104.5 %", 1.045),
        ("0%", 0.0),
        ("50", 0.5),
        ("x%", None),
        ("-1%", None),
        ("5000%", None),
        ("", None),
    ],
)
def test_utilization(text: str, value: float | None) -> None:
    limits = read_rate_limits({"azure-openai-deployment-utilization": text})
    assert limits.utilization == pytest.approx(value)
