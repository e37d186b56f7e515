"""A PowerProxy file loads unchanged; what it says is honoured, named as ignored, or refused with a reason."""

from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from aoai_gateway.config.credentials import Identity
from aoai_gateway.config.loader import Loaded

Lines = Callable[..., list[str]]

WHOLE = """\
clients:
  - name: Team 1
    description: An example team.
    key: 28ef59ae30342978
    deployments_allowed: gpt-35-turbo, gpt-4o
    max_tokens_per_minute_in_k:
      gpt-35-turbo: 20
      gpt-4o: 5
  - name: Team 2
    key: 1113456789012345
    deployments_allowed:
      - gpt-35-turbo
      - gpt-4o
    max_tokens_per_minute_in_k: 30
  - name: Entra ID Auth Client
    uses_entra_id_auth: true
    deployments_allowed: gpt-35-turbo, gpt-4o
    max_tokens_per_minute_in_k: 10
plugins:
  - name: AllowDeployments
  - name: LimitUsage
    redis:
      redis_host: contoso.redis.cache.windows.net
      redis_password: redis-s3cr3t
  - name: LogUsageToConsole
  - name: LogUsageToCsvFile
  - name: LogUsageToLogAnalytics
    log_ingestion_endpoint: https://contoso.ingest.monitor.azure.com
    data_collection_rule_id: dcr-0
    credential_tenant_id: t
    credential_client_id: c
    credential_client_secret: log-s3cr3t
aoai:
  forward_http_header_only_if_name_matches: (?!x-)
  endpoints:
    - name: Some Endpoint
      url: https://contoso.openai.azure.com/
      key: backend-s3cr3t
      non_streaming_fraction: 1
      connections:
        limits:
          max_connections: 100
          max_keepalive_connections: 20
          keepalive_expiry: 5
        timeouts:
          connect: 7
          read: 120
          write: 120
          pool: 120
      virtual_deployments:
        - name: gpt-35-turbo
          standins:
            - name: gpt-35-turbo-ptu
              non_streaming_fraction: 0.2
            - name: gpt-35-turbo-paygo
        - name: gpt-4o
          standins:
            - name: gpt-4o-ptu
            - name: gpt-4o-paygo
azure_subscription_id: 0000
region: westeurope
resource_group: PowerProxy-AOAI
unique_prefix: abcde
user_assigned_managed_identity_client_id: <will be set by deployment script>
"""

SMALL = """\
aoai: {endpoints: [{name: one, url: 'https://one.example', key: k}]}
clients: [{name: Team, key: t, deployments_allowed: big, max_tokens_per_minute_in_k: 1}]
"""


def test_the_whole_vocabulary_loads(compiled: Callable[..., Loaded]):
    loaded = compiled(WHOLE)
    config = loaded.config
    assert [client.name for client in config.clients] == ["Team 1", "Team 2", "Entra ID Auth Client"]
    assert config.clients[0].deployments_allowed == ("gpt-35-turbo", "gpt-4o")
    assert config.clients[0].max_tokens_per_minute_in_k == {"gpt-35-turbo": 20, "gpt-4o": 5}
    found = config.client_for_key("1113456789012345")
    assert found is not None
    assert found.name == "Team 2"
    assert config.usage_log == "stdout"
    timeouts = config.aoai.endpoints[0].connections.timeouts
    assert (timeouts.connect, timeouts.read) == (7, 120)
    assert config.aoai.forward_http_header_only_if_name_matches is not None
    assert [backend.name for backend in config.pool("gpt-35-turbo")] == [
        "gpt-35-turbo-ptu@Some Endpoint",
        "gpt-35-turbo-paygo@Some Endpoint",
    ]


def test_what_has_no_meaning_is_named_in_one_warning(warnings: Lines):
    (said,) = [each for each in warnings(WHOLE) if "without meaning" in each]
    assert said == (
        "gateway.yaml:60: accepted for PowerProxy's sake, but without meaning here: azure_subscription_id, "
        "region, resource_group, unique_prefix, user_assigned_managed_identity_client_id, "
        "connections.limits, connections.timeouts.write and connections.timeouts.pool"
    )


KEYLESS = """\
clients: [{name: Team, key: 3f0c2a7d9b5e4168}]
aoai: {endpoints: [{name: one, url: 'https://one.example'}, {name: two, url: 'https://two.example', key: k}]}
user_assigned_managed_identity_client_id: """


def test_endpoints_without_a_key_are_reached_with_the_managed_identity(compiled: Callable[..., Loaded]):
    loaded = compiled(KEYLESS + "11111111-2222-3333-4444-555555555555\n")
    one, two = loaded.config.aoai.endpoints
    assert one.auth == Identity(type="managed_identity", client_id="11111111-2222-3333-4444-555555555555")
    assert two.auth is None
    assert loaded.warnings == ()


@pytest.mark.parametrize("key", ["key: ''", "key: ", "key: null"])
def test_an_empty_key_is_none_there(compiled: Callable[..., Loaded], key: str):
    text = KEYLESS.replace("url: 'https://one.example'", f"url: 'https://one.example', {key}")
    assert compiled(text + "1111\n").config.aoai.endpoints[0].auth == Identity(
        type="managed_identity", client_id="1111"
    )


@pytest.mark.parametrize("nothing", ["<will be set by deployment script>", "", "___"])
def test_without_an_id_it_is_the_system_assigned_one(
    compiled: Callable[..., Loaded], warnings: Lines, nothing: str
):
    one, _ = compiled(KEYLESS + nothing + "\n").config.aoai.endpoints
    assert one.auth == Identity(type="managed_identity")
    (said,) = warnings(KEYLESS + nothing + "\n")
    assert "user_assigned_managed_identity_client_id: names no identity" in said


def test_what_the_endpoints_say_of_identities_counts_before(compiled: Callable[..., Loaded]):
    text = KEYLESS.replace("aoai: {", "aoai: {auth: azure_cli, ") + "1111\n"
    assert compiled(text).config.aoai.endpoints[0].auth == Identity(type="azure_cli")


def test_the_plugins_that_log_usage_are_sinks(compiled: Callable[..., Loaded], warnings: Lines):
    sinks = compiled(WHOLE).config.usage_sinks.named()
    assert list(sinks) == ["csv", "log_analytics"]
    analytics = sinks["log_analytics"]
    assert sinks["csv"].folder.name == "logs"
    assert analytics.endpoint == "https://contoso.ingest.monitor.azure.com"
    assert (analytics.rule_id, analytics.stream) == ("dcr-0", "Custom-AzureOpenAIUsage_PP_CL")
    assert (analytics.tenant_id, analytics.client_id) == ("t", "c")
    assert analytics.client_secret.get_secret_value() == "log-s3cr3t"
    assert "log-s3cr3t" in compiled(WHOLE).config.secrets
    assert [each for each in warnings(WHOLE) if "plugins" in each] == []


def test_log_analytics_takes_the_managed_identity_where_there_is_no_secret(compiled: Callable[..., Loaded]):
    settings = "log_ingestion_endpoint: 'https://x.example', data_collection_rule_id: d"
    plugin = f"{{name: LogUsageToLogAnalytics, {settings}}}"
    text = SMALL + f"user_assigned_managed_identity_client_id: mi-1\nplugins: [{plugin}]\n"
    loaded = compiled(text)
    sink = loaded.config.usage_sinks.log_analytics
    assert (sink.client_id, sink.client_secret) == ("mi-1", None)
    assert not [each for each in loaded.warnings if "mi-1" in str(each) or "user_assigned" in str(each)]
    unwritten = text.replace("mi-1", "<will be set by deployment script>")
    assert compiled(unwritten).config.usage_sinks.log_analytics.client_id is None


def test_a_sink_that_is_written_wins_over_a_plugins(compiled: Callable[..., Loaded]):
    text = SMALL + "plugins: [{name: LogUsageToCsvFile}]\nusage_sinks: {csv: {folder: mine}, stdout: true}\n"
    sinks = compiled(text).config.usage_sinks
    assert (sinks.csv.folder.name, sinks.stdout) == ("mine", True)


def test_the_redis_of_limit_usage_is_the_state(compiled: Callable[..., Loaded]):
    assert compiled(WHOLE).config.store == "rediss://:redis-s3cr3t@contoso.redis.cache.windows.net:6380/0"
    assert compiled(WHOLE + "state: memory\n").config.store is None
    assert compiled(SMALL + "plugins: [{name: LimitUsage}]\n").config.store is None


def test_a_redis_password_may_hold_any_character(compiled: Callable[..., Loaded]):
    redis = "{redis_host: h, redis_password: '${SECRET}'}"
    text = SMALL + f"plugins: [{{name: LimitUsage, redis: {redis}}}]\n"
    url = compiled(text, env={"SECRET": "a/b@c:d?e#f="}).config.store
    parts = urlsplit(url)
    assert (unquote(parts.password or ""), parts.hostname, parts.port) == ("a/b@c:d?e#f=", "h", 6380)


@pytest.mark.parametrize(
    ("redis", "missing"),
    [
        ("{}", "redis_host and redis_password are missing"),
        ("on", "redis_host and redis_password are missing"),
        ("{redis_host: h}", "redis_password is missing"),
        ("{redis_password: p}", "redis_host is missing"),
        ("{redis_host: [h], redis_password: p}", "redis_host is missing"),
    ],
)
def test_a_redis_that_is_not_told_of(problems: Lines, redis: str, missing: str):
    (said,) = problems(SMALL + f"plugins: [{{name: LimitUsage, redis: {redis}}}]\n")
    assert said.startswith(f"gateway.yaml:3: plugins[0].redis: {missing}; write it; or, for a server without")


def test_a_placeholder_of_a_redis_is_a_problem_and_an_unset_variable_is_one_problem(problems: Lines):
    text = SMALL + "plugins: [{name: LimitUsage, redis: {redis_host: h, redis_password: PASSWORD}}]\n"
    (said,) = problems(text.replace("PASSWORD", "<will be set by deployment script>"))
    assert said.startswith("gateway.yaml:3: plugins[0].redis.redis_password: is still a placeholder; write ")
    (said,) = problems(text.replace("PASSWORD", "'${NOT_SET}'"))
    assert "NOT_SET" in said


def test_placeholders_of_a_log_are_told_by_the_names_that_are_written(problems: Lines):
    text = SMALL + (
        "plugins:\n  - name: LogUsageToLogAnalytics\n"
        "    log_ingestion_endpoint: <will be set by deployment script>\n"
        "    data_collection_rule_id: ___\n"
    )
    said = "is still a placeholder; write the real one, or remove the plugin if its rows are not wanted"
    assert problems(text) == [
        f"gateway.yaml:5: plugins[0].log_ingestion_endpoint: {said}",
        f"gateway.yaml:6: plugins[0].data_collection_rule_id: {said}",
    ]


@pytest.mark.parametrize("key", ["max_tokens_per_minute_in_k: 1", "max_tokens_per_minute: 1000"])
def test_what_a_plugin_requires_may_be_the_groups(compiled: Callable[..., Loaded], key: str):
    loaded = compiled(
        SMALL + "plugins: [{name: AllowDeployments}, {name: LimitUsage}]\n",
        f"groups: [{{name: G, deployments_allowed: big, {key}}}]\nclients: [{{name: B, key: b, group: G}}]\n",
    )
    assert loaded.config.clients[1].deployments_allowed == ("big",)


def test_no_secret_of_a_plugin_is_said(warnings: Lines):
    assert "s3cr3t" not in "\n".join(warnings(WHOLE))


def test_a_file_without_warnings_has_no_powerproxy_words(warnings: Lines):
    assert [each for each in warnings(SMALL) if "PowerProxy" in each or "plugins" in each] == []


def test_an_explicit_usage_log_wins(compiled: Callable[..., Loaded], tmp_path: Path):
    text = SMALL + "plugins: [{name: LogUsageToConsole}]\n"
    assert compiled(text).config.usage_log == "stdout"
    assert compiled(text + f"usage_log: {tmp_path}/usage\n").config.usage_log == f"{tmp_path}/usage"


@pytest.mark.parametrize(
    ("plugin", "key"),
    [("AllowDeployments", "deployments_allowed"), ("LimitUsage", "max_tokens_per_minute_in_k")],
)
def test_what_a_plugin_requires_of_each_client(problems: Lines, plugin: str, key: str):
    (said,) = problems(SMALL + f"plugins: [{{name: {plugin}}}]\n", "clients:\n  - {name: B, key: b}\n")
    assert said.startswith(
        f'policies/0.yaml:2: clients[1]: "{key}" is missing: the plugin {plugin} requires it; say '
    )


def test_one_number_for_several_deployments_is_a_smaller_share_here(warnings: Lines):
    clients = """\
clients:
  - {name: B, key: b, deployments_allowed: "gpt, o3", max_tokens_per_minute_in_k: 30}
  - {name: C, key: c, deployments_allowed: "gpt,", max_tokens_per_minute_in_k: 30}
  - {name: D, key: d, deployments_allowed: [gpt, o3], max_tokens_per_minute_in_k: {gpt: 30, o3: 30}}
  - {name: E, key: e, deployments_allowed: [gpt, o3], max_tokens_per_minute_in_k: 30}
  - {name: F, key: f, deployments_allowed: [gpt, o3], max_tokens_per_minute: 30000}
  - {name: G, key: g, max_tokens_per_minute_in_k: 1}
"""
    endpoint = "aoai: {endpoints: [{name: a, url: 'https://a.example', key: b}]}\n"
    said = warnings(endpoint + clients + "plugins: [{name: LimitUsage}]\n")
    assert (
        "gateway.yaml:3: clients[0].max_tokens_per_minute_in_k: is for all deployments together, not for "
        "each as in PowerProxy (at B, E and G); write a mapping (deployment: limit) for one each" in said
    )
    said = warnings(endpoint + clients + "plugins: [{name: LogUsageToConsole}]\n")
    assert not any("for all deployments together" in each for each in said), "no limit was in force there"


def test_allowed_deployments_are_enforced_with_or_without_the_plugin(warnings: Lines):
    said = warnings(SMALL + "plugins: [{name: LimitUsage}]\n")
    assert (
        "gateway.yaml:3: plugins: AllowDeployments is not listed, but deployments_allowed is always "
        in said[0]
    )


@pytest.mark.parametrize(
    ("line", "path", "said"),
    [
        ("fixed_client: Team", "fixed_client", "give one client uses_entra_id_auth: true"),
        ("FIXED_CLIENT: Team", "FIXED_CLIENT", "give one client uses_entra_id_auth: true"),
        ("plugins: [{name: LimitUsgae}]", "plugins[0].name", 'did you mean "LimitUsage"?'),
        ("plugins: [{name: OurOwn}]", "plugins[0].name", "write it as a mitmproxy addon"),
        ("plugins: [{name: LimitUsage, rediss: {}}]", "plugins[0].rediss", 'did you mean "redis"?'),
        ("plugins: [LimitUsage]", "plugins[0]", 'a plugin is written as "name: …"'),
        ("plugins: LimitUsage", "plugins", "a list is expected"),
    ],
)
def test_what_would_be_lost_is_a_problem(problems: Lines, line: str, path: str, said: str):
    (problem,) = problems(SMALL + line)
    assert problem.startswith(f"gateway.yaml:3: {path}: ")
    assert said in problem


def test_a_mock_response_points_to_the_simulator(problems: Lines):
    said = problems(
        "clients: [{name: a, key: b}]\n"
        "aoai:\n  mock_response:\n    ms_to_wait_before_return: 10\n    json: {id: x}\n"
    )
    assert said[-1].startswith("gateway.yaml:3: aoai.mock_response: canned answers are not supported; ")
    assert '"simulated:"' in said[-1]


def test_empty_plugins_are_none(warnings: Lines):
    assert [each for each in warnings(SMALL + "plugins:\n") if "plugins" in each] == []
