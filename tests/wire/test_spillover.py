"""What the headers of an answer say of Azure's spillover."""

import pytest
from mitmproxy.http import Headers

from aoai_gateway.wire.hints import RateLimits, Spillover, own_rate_limits, read_spillover


def headers(**fields: str) -> Headers:
    return Headers([(name.replace("_", "-").encode(), value.encode()) for name, value in fields.items()])


FROM = {"x_ms_spillover_from_deployment": "ptu"}
FIGURES = {"x_ratelimit_limit_tokens": "1000", "azure_openai_deployment_utilization": "50%"}


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({}, None),
        ({"x_ms_deployment_name": "ptu"}, None),
        ({"x_ms_is_spilled_over": "false"}, None),
        ({"x_ms_is_spilled_over": "True"}, Spillover()),
        (FROM, Spillover("ptu")),
        (
            FROM | {"x_ms_deployment_name": "std", "x_ms_spillover_error": "429"},
            Spillover("ptu", "std", "429"),
        ),
        (FROM | {"x_ms_spillover_error": "a long\ttext"}, Spillover("ptu")),
        ({"x_ms_spillover_from_deployment": "x" * 500}, Spillover()),
    ],
)
def test_what_it_says(fields: dict[str, str], found: Spillover | None):
    assert read_spillover(headers(**fields)) == found


def test_only_an_answer_of_its_own_has_figures_of_its_own():
    assert own_rate_limits(headers(**FIGURES)).limit_tokens == 1000
    assert own_rate_limits(headers(**FIGURES)).utilization == 0.5
    assert own_rate_limits(headers(**FIGURES, **FROM)) == RateLimits()
