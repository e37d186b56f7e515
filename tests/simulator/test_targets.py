from __future__ import annotations

import pytest

from aoai_simulator.targets import Target, parse_target

CLASSIC = "api-version=2024-10-21"


@pytest.mark.parametrize(
    ("method", "target", "expected"),
    [
        (
            "POST",
            f"/openai/deployments/gpt%2D4o/chat/completions?{CLASSIC}",
            Target("chat/completions", "POST", "2024-10-21", "gpt-4o"),
        ),
        (
            "POST",
            "/openai/deployments/a%252Fb/embeddings?x=1&api-version=2024-05-01-preview",
            Target("embeddings", "POST", "2024-05-01-preview", "a%2Fb"),
        ),
        ("POST", "/openai/v1/chat/completions", Target("chat/completions", "POST", "v1")),
        ("POST", "/openai/v1/responses?api-version=preview", Target("responses", "POST", "v1")),
        (
            "POST",
            "/openai/responses?api-version=2025-03-01-preview",
            Target("responses", "POST", "2025-03-01-preview"),
        ),
        ("GET", "/openai/v1/responses/resp_1", Target("responses", "GET", "v1", item="resp_1")),
        (
            "GET",
            "/openai/v1/responses/resp_1/input_items?limit=3",
            Target("responses", "GET", "v1", item="resp_1", part="input_items"),
        ),
        (
            "POST",
            "/openai/v1/responses/resp_1/cancel",
            Target("responses", "POST", "v1", item="resp_1", part="cancel"),
        ),
        ("DELETE", "/openai/v1/responses/resp_1", Target("responses", "DELETE", "v1", item="resp_1")),
        ("GET", f"/openai/models?{CLASSIC}", Target("models", "GET", "2024-10-21")),
        ("GET", "/openai/v1/models/gpt-4o", Target("models", "GET", "v1", item="gpt-4o")),
    ],
)
def test_targets(method: str, target: str, expected: Target) -> None:
    assert parse_target(method, target) == expected


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("POST", "/"),
        ("POST", "/openai"),
        ("POST", "openai/v1/chat/completions"),
        ("POST", "/openai/deployments/d/chat/completions"),
        ("POST", "/openai/deployments/d/chat/completions?api-version="),
        ("POST", "/openai/deployments/d/chat/completions?api-version=v1"),
        ("POST", f"/openai/deployments//chat/completions?{CLASSIC}"),
        ("POST", f"/openai/deployments/d/responses?{CLASSIC}"),
        ("POST", f"/openai/chat/completions?{CLASSIC}"),
        ("GET", f"/openai/deployments/d/chat/completions?{CLASSIC}"),
        ("PUT", "/openai/v1/responses/resp_1"),
        ("POST", "/openai/v1/responses?api-version=2024-10-21"),
        ("POST", "http://elsewhere/openai/v1/chat/completions"),
    ],
)
def test_what_is_not_found(method: str, target: str) -> None:
    assert parse_target(method, target) is None


def test_v1_counts_as_the_newest_version() -> None:
    versions = ["/openai/v1/models", "/openai/models?api-version=2025-04-01-preview"]
    newest, dated = (parse_target("GET", version) for version in versions)
    assert newest
    assert dated
    assert newest.date > dated.date == "2025-04-01"
