"""The overview that ``check`` prints."""

from collections.abc import Callable

import pytest

from aoai_gateway.config.describe import describe, mask
from aoai_gateway.config.loader import Loaded

TEXT = """\
aoai:
  endpoints:
    - name: sweden
      url: https://sweden.example/
      key: backend-s3cr3t-backend-s3cr3t
      virtual_deployments:
        - name: big
          standins:
            - {name: ptu, provisioned: true, non_streaming_fraction: 0.25}
            - {name: paygo, tokens_per_minute: 450000}
        - name: small
          standins:
            - {name: s1, enabled: false}
    - name: off
      url: https://off.example/
      key: k
      enabled: false
clients:
  - name: Team
    key: [client-s3cr3t-number-one, short-s3cr3t-too]
    priority: critical
    deployments_allowed: big
    max_tokens_per_minute_in_k: {big: 5, total: 9}
    max_requests_per_minute: 60
    group: Standard
    when_exceeded: {action: degrade, deployment: small, max_tokens: 500}
  - name: Everybody
    uses_entra_id_auth: true
    enabled: false
groups:
  - name: Standard
    endpoints_allowed: sweden
    request_limits: {n: 1}
    dry_run: yes
listen: {host: "::1", port: 0}
state: rediss://user:state-s3cr3t@cache.example:6380/0
"""


def test_everything_that_matters_in_the_order_it_is_used(compiled: Callable[..., Loaded]):
    assert (
        describe(compiled(TEXT))
        == """\
Files
  gateway.yaml

Listens on
  http://[::1]:(a free port)
  http://127.0.0.1:8090  (status page)

Endpoints
  sweden  https://sweden.example/
  off  https://off.example/  (switched off; takes every deployment)

Deployments, and the backends that serve them, in order
  big
    1. ptu@sweden  (provisioned; 25% of non-streaming requests)
    2. paygo@sweden  (450,000 tokens/min)
  small
     none: every backend that serves it is switched off

Priorities, highest first
  critical  (waits up to 20 s)
  standard  (of clients that name none; waits up to 20 s; gets at least 10% of what comes free)
  batch  (waits up to 30 s; gets at least 5% of what comes free)

Quotas are counted in
  rediss://cache.example:6380/0, keys under aoai-gateway

Clients
  Team  (critical; keys …-one, …; group Standard; may use big; served by sweden; big 5,000 tokens/min; \
9,000 tokens/min in total; 60 requests/min; limits on each request; degraded to small or max_tokens 500 \
when exceeded; dry run: limits only report)
  Everybody  (switched off; all calls with an Entra ID token; may use everything)

Warnings
  gateway.yaml:11: aoai.endpoints[0].virtual_deployments[1]: every standin for small is switched off: \
all requests for it will be refused
  gateway.yaml:26: clients[0].when_exceeded.deployment: the client may not use small, so its requests will \
not be degraded to it; add it to "deployments_allowed"
"""
    )


def test_the_classes_in_their_order(compiled: Callable[..., Loaded]):
    classes = """\
priorities:
  - {name: high, may_use: {spill: false}}
  - {name: usual, wait: {seconds: 20}, minimum_share: 0.1}
  - {name: low, wait: {seconds: 30}, leave_free: 0.2, may_use: {provisioned: false}}
default_priority: usual
admin: {enabled: false}
"""
    said = describe(compiled(TEXT.replace("priority: critical", "priority: high") + classes))
    assert (
        """
Priorities, highest first
  high  (does not wait; only on provisioned standins, where there are some)
  usual  (of clients that name none; waits up to 20 s; gets at least 10% of what comes free)
  low  (waits up to 30 s; leaves 20% free; not on provisioned standins)
"""
        in said
    )
    assert "status page" not in said


def test_fallbacks_stand_below_their_deployment(compiled: Callable[..., Loaded]):
    virtual = (
        "[{name: big, standins: [{name: s}], fallback: {content_filter: small}}, "
        "{name: small, standins: [{name: t}]}]"
    )
    endpoint = f"{{name: a, url: 'https://a.example', key: k, virtual_deployments: {virtual}}}"
    loaded = compiled(f"clients: [{{name: T, key: b}}]\naoai: {{endpoints: [{endpoint}]}}\n")
    assert "  1. s@a\n    content_filter: falls back to small\n  small\n" in describe(loaded)


def test_endpoints_that_take_everything(compiled: Callable[..., Loaded]):
    text = (
        "aoai: {endpoints: [{name: one, url: 'https://one.example', key: k}]}\nclients: [{name: a, key: b}]\n"
    )
    assert "\n  (every deployment)\n    1. one\n" in describe(compiled(text))


def test_no_key_is_in_it(compiled: Callable[..., Loaded]):
    assert "s3cr3t" not in describe(compiled(TEXT))


@pytest.mark.parametrize(("key", "shown"), [("short", "…"), ("x" * 19, "…"), ("x" * 16 + "abcd", "…abcd")])
def test_masking(key: str, shown: str):
    assert mask(key) == shown
