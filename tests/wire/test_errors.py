"""Errors as clients see them: each has Azure's shape, its code stands in a table, and its message helps."""

import json

import pytest

from aoai_gateway.wire import credential_errors, errors
from aoai_gateway.wire.credential_errors import invalid_token, unauthorized
from aoai_gateway.wire.gateway_error import GatewayError

EVERY_ERROR = [
    (unauthorized(), 401, "401"),
    (invalid_token(), 401, "invalid_token"),
    (errors.forbidden("No."), 403, "forbidden"),
    (errors.deployment_not_allowed("gpt-4o", ["a", "b"]), 403, "DeploymentNotAllowed"),
    (errors.no_limit_configured("gpt-4o"), 403, "no_limit_configured"),
    (errors.deployment_not_found("x", ["gpt-4o"]), 404, "DeploymentNotFound"),
    (errors.not_found("/x", "Paths begin elsewhere."), 404, "404"),
    (errors.method_not_allowed("PUT", ["POST"]), 405, "method_not_allowed"),
    (errors.not_built("files"), 501, "not_built"),
    (errors.invalid_target("No."), 400, "invalid_target"),
    (errors.invalid_body("No.", param="model"), 400, "invalid_body"),
    (errors.missing_deployment(), 400, "missing_deployment"),
    (errors.parameter_over_limit("max_tokens", 9, 5), 400, "parameter_over_limit"),
    (errors.priority_not_allowed("x", ["a", "b"]), 400, "priority_not_allowed"),
    (errors.body_too_large(100 * 2**20), 413, "request_too_large"),
    (errors.head_malformed(), 400, "head_malformed"),
    (errors.head_too_large(65536), 431, "head_too_large"),
    (errors.rate_limited("Tokens are used up.", 7, "quota_exceeded"), 429, "quota_exceeded"),
    (errors.all_backends_out("gpt-4o", 7, [("ptu", "429", 7)]), 429, "all_backends_out"),
    (errors.unavailable("The gateway is shutting down."), 503, "unavailable"),
    (errors.internal(), 500, "internal_error"),
    (errors.upstream_disconnected(), 502, "upstream_disconnected"),
    (errors.upstream_timeout(30), 504, "upstream_timeout"),
]


@pytest.mark.parametrize(("error", "status", "code"), EVERY_ERROR, ids=lambda value: str(value)[:40])
def test_every_error_has_azures_shape(error: GatewayError, status: int, code: str) -> None:
    assert error.status == status
    document = json.loads(error.body())
    assert set(document) == {"error"}
    assert set(document["error"]) == {"code", "message", "type", "param"}
    assert document["error"]["code"] == code
    assert document["error"]["message"].endswith((".", "…"))
    assert f" {code}: " in f" {error}"


@pytest.mark.parametrize(("error", "status", "code"), EVERY_ERROR, ids=lambda value: str(value)[:40])
def test_every_code_is_in_the_table(error: GatewayError, status: int, code: str) -> None:
    tables = f"{credential_errors.__doc__}{errors.__doc__}"
    assert any(line.split()[:2] == [code, str(status)] for line in tables.splitlines())


def test_an_error_can_be_raised_and_keeps_its_traceback() -> None:
    with pytest.raises(GatewayError) as caught:
        raise errors.internal()
    assert caught.value.__traceback__ is not None


def test_not_allowed_names_what_is() -> None:
    assert "gpt-4o, gpt-35-turbo" in errors.deployment_not_allowed("o3", ["gpt-4o", "gpt-35-turbo"]).message


def test_names_from_outside_are_bounded_and_printable() -> None:
    message = errors.deployment_not_found("x\r\nset-cookie: a=b\udc80" + "y" * 5000).message
    assert "\n" not in message
    assert len(message) < 300
    message.encode()


def test_not_found_never_quotes_the_query() -> None:
    assert "hunter2" not in errors.not_found("/x?api-key=hunter2", "").message


def test_all_backends_out_says_which_and_why() -> None:
    error = errors.all_backends_out(
        "gpt-4o", 0.4, [("sweden/gpt-4o-ptu", "429 RateLimitReached", 0.4), ("france", "connect", 12.2)]
    )
    assert "sweden/gpt-4o-ptu: 429 RateLimitReached, back in 1 second;" in error.message
    assert "france: connect, back in 13 seconds)" in error.message
    assert error.message.endswith("Please retry after 1 second.")
    assert dict(error.headers) == {"retry-after-ms": "400", "retry-after": "1"}
