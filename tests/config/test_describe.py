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
    key: [client-s3cr3t-number-one, short-s3cr3t]
    priority: critical
    deployments_allowed: big
    max_tokens_per_minute_in_k: {big: 5}
    max_requests_per_minute: 60
  - name: Everybody
    uses_entra_id_auth: true
    enabled: false
listen: {host: "::1", port: 0}
"""


def test_everything_that_matters_in_the_order_it_is_used(compiled: Callable[..., Loaded]):
    assert (
        describe(compiled(TEXT))
        == """\
Files
  gateway.yaml

Listens on
  http://[::1]:(a free port)

Endpoints
  sweden  https://sweden.example/
  off  https://off.example/  (switched off; takes every deployment)

Deployments, and who serves them in which order
  big
    1. ptu@sweden  (provisioned; 25% of non-streaming requests)
    2. paygo@sweden  (450,000 tokens/min)
  small
     nobody: everything that serves it is switched off

Clients
  Team  (critical; keys …-one, …; may use big; big 5k tokens/min; 60 requests/min)
  Everybody  (switched off; everybody with an Entra ID token; may use everything)

Warnings
  gateway.yaml:11: aoai.endpoints[0].virtual_deployments[1]: every standin for small is switched off: \
all requests for it will be refused
  gateway.yaml:21: clients[0].priority: classes are read and checked, but not enforced yet
  gateway.yaml:23: clients[0].max_tokens_per_minute_in_k: limits are read and checked, but not enforced yet
  gateway.yaml:24: clients[0].max_requests_per_minute: limits are read and checked, but not enforced yet
"""
    )


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
