"""What must hold between the parts."""

from collections.abc import Callable

import pytest

Lines = Callable[..., list[str]]

CLIENT = "clients: [{name: Team, key: k}]\n"


def endpoint(name: str, rest: str) -> str:
    return f"    - {{name: {name}, url: 'https://{name}.example', key: k-{name}, {rest}}}\n"


def aoai(*endpoints: str) -> str:
    return CLIENT + "aoai:\n  endpoints:\n" + "".join(endpoints)


BIG = "virtual_deployments: [{name: big, standins: [{name: b1}]}, {name: small, standins: [{name: s1}]}]"


def client(text: str) -> str:
    return aoai(endpoint("one", BIG)).replace(CLIENT, f"clients:\n  - {{name: Team, {text}}}\n")


@pytest.mark.parametrize("key", ["demo-key", "search-demo-key", "[mine, demo-key]"])
def test_a_key_of_the_examples_is_not_for_real_endpoints(warnings: Lines, key: str):
    (said,) = warnings(client(f"key: {key}"))
    assert said.startswith("gateway.yaml:2: clients[0].key: is the public one of the shipped examples")
    assert warnings(client("key: mine")) == []
    simulated = "simulated: {deployments: {a: {model: gpt-4o}}}"
    text = f"clients: [{{name: Team, key: {key}}}]\naoai: {{endpoints: [{{name: a, {simulated}}}]}}\n"
    assert warnings(text) == []


# --- credentials and addresses -----------------------------------------------------------------------------


def test_an_endpoint_needs_a_key_or_an_identity(problems: Lines, warnings: Lines):
    keyless = "aoai: {endpoints: [{name: a, url: 'https://a.example'%s}]%s}"
    (said,) = problems(CLIENT + keyless % ("", ""))
    assert said.startswith('gateway.yaml:2: aoai.endpoints[0]: "key" is missing, and so is "auth"')
    for way in (", auth: managed_identity", ", key: {file: the-key}", ", key: {command: vault read it}"):
        assert warnings(CLIENT + keyless % (way, "")) == []
    assert warnings(CLIENT + keyless % ("", ", auth: {type: default, client_id: c}")) == []


def test_an_endpoint_whose_callers_all_bring_their_own_token_needs_no_key(warnings: Lines):
    passed_on = "clients: [{name: c, uses_entra_id_auth: true}]\n"
    (said,) = warnings(passed_on + "aoai: {endpoints: [{name: a, url: 'https://a.example'}]}")
    assert "unverified" in said


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("key: b, auth: managed_identity", 'endpoints[0].auth: stands beside a "key"'),
        ("auth: kerberos", "auth"),
        ("auth: {type: managed_identity, tenant_id: t}", "leave it out"),
        ("auth: {type: azure_cli, client_id: t}", "leave it out"),
        ("auth: {type: azure_cli, scope: everything}", "is not a scope"),
        ("key: {}", "needs either a file or a command"),
        ("key: {file: a, command: b}", "needs either a file or a command"),
        ("key: {command: 'a \"b'}", "a quotation mark is missing"),
        ("key: {file: nowhere/key}", "is not a file in a folder that exists"),
    ],
)
def test_a_credential_that_cannot_be_meant_is_refused(problems: Lines, written: str, said: str):
    (found,) = problems(CLIENT + f"aoai: {{endpoints: [{{name: a, url: 'https://a.example', {written}}}]}}")
    assert said in found


def test_an_endpoint_needs_an_address(problems: Lines):
    (said,) = problems(CLIENT + "aoai: {endpoints: [{name: a, key: b}]}")
    assert said.startswith('gateway.yaml:2: aoai.endpoints[0]: "url" is missing')


@pytest.mark.parametrize("extra", ["url: 'https://a.example'", "key: b", "auth: default"])
def test_a_simulated_endpoint_has_no_address_and_no_key(problems: Lines, extra: str):
    simulated = "simulated: {deployments: {d: {model: gpt-4o}}}"
    (said,) = problems(CLIENT + f"aoai: {{endpoints: [{{name: a, {simulated}, {extra}}}]}}")
    assert f"aoai.endpoints[0].{extra.split(':')[0]}: a simulated endpoint has none" in said


def test_simulated_and_real_endpoints_do_not_mix_while_enabled(problems: Lines, warnings: Lines):
    simulated = "    - {{name: sim, enabled: {}, simulated: {{deployments: {{d: {{model: gpt-4o}}}}}}}}\n"
    (said,) = problems(aoai(endpoint("one", ""), simulated.format("true")))
    assert said.startswith(
        "gateway.yaml:5: aoai.endpoints[1].simulated: simulated and real endpoints are mixed (one)"
    )
    assert warnings(aoai(endpoint("one", ""), simulated.format("false"))) == []


@pytest.mark.parametrize(
    ("name", "suggestion"), [("gpt4o", 'did you mean "gpt-4o"?'), ("zzz", "it has gpt-4o")]
)
def test_a_simulated_standin_must_exist(problems: Lines, name: str, suggestion: str):
    (said,) = problems(
        CLIENT + "aoai: {endpoints: [{name: a, simulated: {deployments: {gpt-4o: {model: gpt-4o}}}, "
        f"virtual_deployments: [{{name: big, standins: [{{name: {name}}}]}}]}}]}}"
    )
    assert said == (
        "gateway.yaml:2: aoai.endpoints[0].virtual_deployments[0].standins[0].name: "
        f"is not among the deployments of this simulated endpoint; {suggestion}"
    )


def test_a_simulated_deployment_is_either_provisioned_or_pay_as_you_go(problems: Lines):
    limits = "tokens_per_minute: 5, provisioned_tokens_per_minute: 5"
    (said,) = problems(
        CLIENT
        + f"aoai: {{endpoints: [{{name: a, simulated: {{deployments: {{d: {{model: m, {limits}}}}}}}}}]}}"
    )
    assert "deployments.d.tokens_per_minute: is a limit of pay as you go" in said


@pytest.mark.parametrize(
    ("url", "warned"),
    [
        ("https://a.example/openai", True),
        ("https://a.example/team/openai/v1/", True),
        ("https://a.example/openai-team/", False),
        ("https://openai/", False),
    ],
)
def test_the_path_that_requests_bring_along_is_not_part_of_the_url(warnings: Lines, url: str, warned: bool):
    said = warnings(CLIENT + f"aoai: {{endpoints: [{{name: a, url: '{url}', key: b}}]}}")
    assert [("ends with /openai" in each) for each in said] == [True] * warned


@pytest.mark.parametrize(("path", "warned"), [("api/projects/search", True), ("", False)])
def test_a_project_of_foundry_is_not_the_resource(warnings: Lines, path: str, warned: bool):
    """Foundry's portal shows a project's address first."""
    host = "contoso.services.ai.azure.com"
    said = warnings(CLIENT + f"aoai: {{endpoints: [{{name: a, url: 'https://{host}/{path}', key: b}}]}}")
    assert [f"write the resource's: https://{host}/" in each for each in said] == [True] * warned


def test_http_is_for_this_machine_only(warnings: Lines):
    (said,) = warnings(CLIENT + "aoai: {endpoints: [{name: a, url: 'http://a.example', key: b}]}")
    assert "keys and prompts would travel unencrypted" in said
    for here in ("127.0.0.1:80", "localhost", "[::1]:5"):
        assert warnings(CLIENT + f"aoai: {{endpoints: [{{name: a, url: 'http://{here}', key: b}}]}}") == []


# --- names -------------------------------------------------------------------------------------------------


def test_names_are_unique_over_all_files(problems: Lines):
    said = problems(
        aoai(endpoint("one", ""), endpoint("one", "")), "clients:\n  - name: Team\n    key: other\n"
    )
    assert said == [
        'gateway.yaml:5: aoai.endpoints[1].name: "one" is also the name of an endpoint in gateway.yaml:4; '
        "names must differ",
        'policies/0.yaml:2: clients[1].name: "Team" is also the name of a client in gateway.yaml:1; '
        "names must differ",
    ]


def test_a_standin_stands_once_for_a_virtual_deployment(problems: Lines):
    (said,) = problems(
        aoai(endpoint("one", "virtual_deployments: [{name: big, standins: [{name: b}, {name: b}]}]"))
    )
    assert said.endswith("standins[1].name: is already a standin for big at this endpoint")


def test_a_virtual_deployment_runs_one_model(problems: Lines):
    virtual = "virtual_deployments: [{{name: big, model: {}, standins: [{{name: b}}]}}]"
    (said,) = problems(
        aoai(endpoint("one", virtual.format("gpt-4.1")), endpoint("two", virtual.format("gpt-4o")))
    )
    assert said == (
        'gateway.yaml:5: aoai.endpoints[1].virtual_deployments[0].model: big is "gpt-4.1" in gateway.yaml:4; '
        "it can only be one"
    )


# --- who is last in line -----------------------------------------------------------------------------------


def serving_big(*standins: str) -> str:
    return f"virtual_deployments: [{{name: big, standins: [{', '.join(standins)}]}}]"


HALF, WHOLE, OFF = "{name: h, non_streaming_fraction: 0.5}", "{name: w}", "{name: o, enabled: false}"


@pytest.mark.parametrize(
    ("first", "second", "path"),
    [
        (serving_big(HALF), serving_big(WHOLE), None),
        (serving_big(HALF, WHOLE), serving_big(HALF, WHOLE), None),
        (serving_big(WHOLE), serving_big(HALF), "aoai.endpoints[1].virtual_deployments[0].standins[0]"),
        (
            serving_big(HALF, OFF),
            f"enabled: false, {serving_big(WHOLE)}",
            "aoai.endpoints[0].virtual_deployments[0].standins[0]",
        ),
        ("", "non_streaming_fraction: 0.5", "aoai.endpoints[1]"),
        ("non_streaming_fraction: 0.5", "", None),
        (BIG, "non_streaming_fraction: 0.5", "aoai.endpoints[1]"),
    ],
)
def test_the_last_in_line_takes_every_non_streaming_request(
    problems: Lines, warnings: Lines, first: str, second: str, path: str | None
):
    endpoints = endpoint("one", first), endpoint("two", second)
    if path is None:
        assert warnings(aoai(*endpoints)) == []
    else:
        (said,) = problems(aoai(*endpoints))
        assert f" {path}.non_streaming_fraction: must be 1: " in said


def test_the_fraction_of_an_endpoint_with_virtual_deployments_is_not_read(warnings: Lines):
    (said,) = warnings(aoai(endpoint("one", f"non_streaming_fraction: 0.5, {BIG}")))
    assert "has no effect at an endpoint with virtual deployments" in said


def test_a_deployment_that_no_endpoint_serves(warnings: Lines):
    off = "virtual_deployments: [{name: big, standins: [{name: b, enabled: false}]}]"
    (said,) = warnings(aoai(endpoint("one", off)))
    assert "virtual_deployments[0]: every standin for big is switched off" in said
    (said,) = warnings(aoai(endpoint("one", "enabled: false")))
    assert "aoai.endpoints: every endpoint is switched off" in said


# --- clients -----------------------------------------------------------------------------------------------


def test_a_client_needs_a_key_or_entra_id(problems: Lines, warnings: Lines):
    (said,) = problems(client("description: x"))
    assert said.startswith('gateway.yaml:2: clients[0]: "key" is missing; give it a key, or "token:"')
    (said,) = problems(client("key: []"))
    assert '"key" is missing' in said
    (said,) = warnings(client("uses_entra_id_auth: true"))
    assert "everything in the shape of a token counts as this client's" in said
    assert '"verify: false" to say that this is meant' in said
    (said,) = warnings(client("uses_entra_id_auth: true, verify: false"))
    assert "this is meant" not in said


def test_a_key_belongs_to_one_client(problems: Lines):
    said = problems(aoai(endpoint("one", "")), "clients: [{name: B, key: [b, k, b]}]")
    assert said == [
        'policies/0.yaml:1: clients[1].key: the clients "Team" and "B" have the same key; '
        "a key must tell who is calling",
        "policies/0.yaml:1: clients[1].key: the same key stands here twice",
    ]


def test_one_client_for_entra_id(problems: Lines, warnings: Lines):
    (said,) = problems(client("uses_entra_id_auth: true"), "clients: [{name: B, uses_entra_id_auth: true}]")
    assert said == (
        'policies/0.yaml:1: clients[1].uses_entra_id_auth: the client "Team" has it already, and only one can'
    )
    (said,) = warnings(
        client("uses_entra_id_auth: true"), "clients: [{name: B, uses_entra_id_auth: true, enabled: false}]"
    )
    assert "unverified" in said


def test_a_gateway_without_clients_is_an_error(problems: Lines, warnings: Lines):
    (said,) = problems(aoai(endpoint("one", "")).replace(CLIENT, ""))
    assert said.startswith("gateway.yaml:1: clients: there is no client")
    (said,) = warnings(client("key: k, enabled: false"))
    assert "every client is switched off" in said


def test_allowing_what_does_not_exist(warnings: Lines):
    said = warnings(client("key: k, deployments_allowed: [bigg, zzz]"))
    assert said == [
        "gateway.yaml:2: clients[0].deployments_allowed[0]: bigg is not a virtual deployment; "
        'did you mean "big"?',
        "gateway.yaml:2: clients[0].deployments_allowed[1]: zzz is not a virtual deployment; "
        "there are big and small",
    ]
    assert warnings(aoai(endpoint("one", "")).replace("key: k}", "key: k, deployments_allowed: zzz}")) == []


@pytest.mark.parametrize("allowed", ["[]", "''", "~", ""])
def test_nothing_behind_deployments_allowed_allows_nothing(
    compiled: Callable[..., object], warnings: Lines, allowed: str
):
    text = client(f"key: k, deployments_allowed: {allowed}")
    (said,) = warnings(text)
    assert "deployments_allowed: is empty: the client may use nothing" in said
    assert compiled(text).config.clients[0].deployments_allowed == ()  # type: ignore[attr-defined]


def test_limits_that_leave_a_deployment_out(warnings: Lines):
    said = warnings(client("key: k, max_tokens_per_minute_in_k: {big: 5, bug: 1}"))
    assert said[:2] == [
        "gateway.yaml:2: clients[0].max_tokens_per_minute_in_k.bug: bug is not a virtual deployment; "
        'did you mean "big"?',
        "gateway.yaml:2: clients[0].max_tokens_per_minute_in_k: has no limit for small, which the client may "
        'use: it will be refused there; add one, or "total" for all together, or write one number for all',
    ]
    said = warnings(client("key: k, deployments_allowed: big, max_requests_per_minute: {big: 5}"))
    assert [each for each in said if "has no limit" in each] == []


@pytest.mark.parametrize("key", ["priority", "when_exceeded"])
def test_without_classes_the_built_in_ones_can_be_named(warnings: Lines, problems: Lines, key: str):
    def naming(cls: str) -> str:
        return cls if key == "priority" else f"{{action: degrade, priority: {cls}}}"

    assert warnings(client(f"key: k, {key}: {naming('batch')}")) == []
    (said,) = problems(client(f"key: k, {key}: {naming('btach')}"))
    assert said.startswith(f"gateway.yaml:2: clients[0].{key}")
    assert said.endswith('priority: is not a priority; did you mean "batch"?')


# --- the rest ----------------------------------------------------------------------------------------------


def test_a_private_key_without_its_certificate(problems: Lines, tmp_path):
    (tmp_path / "key.pem").write_text("x")
    (said,) = problems(client("key: k") + f"listen: {{private_key: '{tmp_path}/key.pem'}}\n")
    assert "listen.private_key: is of no use without a certificate" in said


def test_a_floor_below_its_ceiling(problems: Lines):
    (said,) = problems(client("key: k") + "breaks: {floor_seconds: 100}\n")
    assert said == "gateway.yaml:6: breaks.floor_seconds: is above ceiling_seconds"


# --- the admin listener ------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "'::1'", "127.1.2.3"])
def test_the_status_page_needs_no_token_at_loopback(warnings: Lines, host: str):
    assert warnings(aoai(endpoint("one", BIG)) + f"admin: {{host: {host}}}") == []


@pytest.mark.parametrize("host", ["0.0.0.0", "'::'", "10.0.0.1", "gateway.internal"])
def test_the_status_page_needs_a_token_elsewhere(problems: Lines, warnings: Lines, host: str):
    text = aoai(endpoint("one", BIG)) + f"admin: {{host: {host}, XX}}"
    (said,) = problems(text.replace(", XX", ""))
    assert "admin.token: is missing: at " in said
    assert warnings(text.replace("XX", "enabled: false")) == []
    assert warnings(text.replace("XX", "token: 0123456789abcdef")) == []


def test_a_token_that_could_be_guessed(problems: Lines):
    (said,) = problems(aoai(endpoint("one", BIG)) + "admin: {token: 0123456789abcde}")
    assert "admin.token: is shorter than 16 characters" in said
    assert "0123456789abcde" not in said


def test_one_port_for_two_listeners(warnings: Lines):
    text = aoai(endpoint("one", BIG)) + "listen: {port: 8090}\n"
    (said,) = warnings(text)
    assert "admin.port: is 8090, and so is listen.port: there will be no status page" in said
    assert warnings(text + "admin: {enabled: false}") == []


# --- strategies and weights --------------------------------------------------------------------------------


def gpt(rest: str, *, standin: str = "{name: s}") -> str:
    return f"virtual_deployments: [{{name: gpt, {rest}standins: [{standin}]}}]"


def test_a_strategy_counts_for_the_pool_whichever_endpoint_says_it(warnings: Lines):
    weighted = gpt("strategy: weighted, ", standin="{name: s, weight: 3}")
    found = warnings(aoai(endpoint("one", gpt("")), endpoint("two", weighted)))
    assert not any("strategy" in said or "weight" in said for said in found)


def test_a_strategy_can_only_be_one(problems: Lines):
    (said,) = problems(
        aoai(endpoint("one", gpt("strategy: weighted, ")), endpoint("two", gpt("strategy: ordered, ")))
    )
    assert said.startswith("gateway.yaml:5: aoai.endpoints[1].virtual_deployments[0].strategy: ")
    assert 'gpt is "weighted"' in said


def test_an_unknown_strategy_names_those_that_there_are(problems: Lines):
    (said,) = problems(aoai(endpoint("one", gpt("strategy: random, "))))
    assert "strategy" in said
    assert "most_headroom" in said


def test_a_weight_without_its_strategy_has_no_effect(warnings: Lines):
    found = warnings(aoai(endpoint("one", gpt("", standin="{name: s, weight: 3}"))))
    (said,) = [each for each in found if "weight" in each]
    assert "has no effect" in said
    assert 'write "strategy: weighted"' in said


@pytest.mark.parametrize("weight", ["0", "-1", "1e9", "much"])
def test_a_weight_is_a_positive_number(problems: Lines, weight: str):
    standin = gpt("strategy: weighted, ", standin=f"{{name: s, weight: {weight}}}")
    (said,) = problems(aoai(endpoint("one", standin)))
    assert "standins[0].weight" in said
    (said,) = problems(client(f"key: k, weight: {weight}"))
    assert "clients[0].weight" in said


# --- recorded prompts ---------------------------------------------------------------------------------------

PROMPTS = "record_prompts: {{path: {path}, clients: [{client}], redact: ['{pattern}']}}\n"


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"client": "Teem"}, 'there is no client "Teem"'),
        ({"pattern": "("}, "is not a regular expression"),
        ({"pattern": "x*"}, "matches the empty text"),
        ({"path": "usage.jsonl"}, "is the usage log"),
    ],
)
def test_recorded_prompts(problems: Lines, warnings: Lines, values: dict[str, str], said: str):
    plain = {"path": "prompts.jsonl", "client": "Team", "pattern": "x+"}
    text = aoai(endpoint("one", BIG)) + "usage_log: usage.jsonl\n"
    assert warnings(text + PROMPTS.format(**plain)) == []
    (problem,) = problems(text + PROMPTS.format(**plain | values))
    assert "record_prompts" in problem
    assert said in problem


def test_prompts_of_no_client_are_no_wish(problems: Lines):
    (problem,) = problems(aoai(endpoint("one", BIG)) + "record_prompts: {path: p, clients: []}\n")
    assert "record_prompts.clients" in problem


def test_two_logs_in_one_file_are_a_mistake(warnings: Lines):
    text = aoai(endpoint("one", BIG)) + "usage_log: usage.jsonl\nusage_sinks: {jsonl: {path: %s}}\n"
    assert warnings(text % "others.jsonl") == []
    (warning,) = warnings(text % "usage.jsonl")
    assert "every record would be in it twice" in warning
