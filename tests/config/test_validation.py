"""Errors of single values: at their line, in plain words, all at once, without secrets."""

from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import ValidationError

from aoai_gateway.config.document import Scalar
from aoai_gateway.config.fields import Model
from aoai_gateway.config.prices import Price
from aoai_gateway.config.problems import Place
from aoai_gateway.config.validation import _EXPECTED, _show
from tests.config.all_models import all_models

Problems = Callable[..., list[str]]

HEAD = """\
aoai:
  endpoints:
    - name: one
      url: https://one.example/
      key: ${SECRET}
clients:
  - name: Team
    key: team-key
"""
"""Eight lines without a problem."""


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("lissten: {}", 'lissten: unknown key; did you mean "listen"?'),
        ("Listen: {}", 'Listen: unknown key; did you mean "listen"?'),
        ("plugin: []", 'plugin: unknown key; did you mean "plugins"?'),
        ("port: 80", 'port: unknown key; it belongs under "listen"'),
        ("endpoints: []", 'endpoints: unknown key; it belongs under "aoai"'),
        ("listen: {prot: 80}", 'listen.prot: unknown key; did you mean "port"?'),
        (
            "listen: {zzz: 80}",
            "listen.zzz: unknown key; known here: host, port, certificate, private_key, client_ca",
        ),
        (
            "listen: 80",
            'listen: is "80", but a mapping is expected (lines of key: value); '
            "its keys: host, port, certificate, private_key, client_ca",
        ),
        (
            "listen: [80]",
            "listen: is a list, but a mapping is expected (lines of key: value); "
            "its keys: host, port, certificate, private_key, client_ca",
        ),
        ("listen: {port: http}", 'listen.port: is "http", but a whole number is expected'),
        ("listen: {port: 1.5}", 'listen.port: is "1.5", but a whole number is expected'),
        ("listen: {port: 65536}", 'listen.port: is "65536", but it must be at most 65535'),
        ("listen: {port: -1}", 'listen.port: is "-1", but it must be at least 0'),
        ("listen: {port: [1]}", "listen.port: is a list, but a whole number is expected"),
        ("listen: {host: [a]}", "listen.host: is a list, but a single text is expected"),
        ("listen: {host: {a: b}}", "listen.host: is a mapping, but a single text is expected"),
        ("breaks: {default_seconds: 0}", 'breaks.default_seconds: is "0", but it must be greater than 0'),
        ("breaks: {default_seconds: soon}", 'breaks.default_seconds: is "soon", but a number is expected'),
        (
            "breaks: {default_seconds: .inf}",
            'breaks.default_seconds: is ".inf", but a number is expected',
        ),
        (
            "breaks: {default_seconds: inf}",
            'breaks.default_seconds: is "inf", but a finite number is expected',
        ),
        ("limits: {body_mb: 0}", 'limits.body_mb: is "0", but it must be greater than 0'),
        (
            "prices: {gpt-4o: 5}",
            'prices.gpt-4o: is "5", but a mapping is expected (lines of key: value); '
            "its keys: " + ", ".join(Price.model_fields),
        ),
        ("breaks: {min_seconds: 1}", 'breaks.min_seconds: unknown key; did you mean "floor_seconds"?'),
        # What people write where a plain number is expected.
        ("limits: {body_mb: 5k}", 'limits.body_mb: is "5k", but a whole number is expected; write 5000'),
        ("limits: {body_mb: 16 MB}", 'limits.body_mb: is "16 MB", but a whole number is expected; write 16'),
        ("drain_seconds: 1,5", 'drain_seconds: is "1,5", but a number is expected; write 1.5'),
        ("drain_seconds: 1,500", 'drain_seconds: is "1,500", but a number is expected'),
        ("drain_seconds: 90s", 'drain_seconds: is "90s", but a number is expected; write 90'),
        ("drain_seconds: 90ms", 'drain_seconds: is "90ms", but a number is expected; write 0.09'),
        ("listen: {port: '8,080'}", 'listen.port: is "8,080", but a whole number is expected; write 8080'),
        ("listen: {port: 8.5k}", 'listen.port: is "8.5k", but a whole number is expected; write 8500'),
        ("listen: {port: 1.2345k}", 'listen.port: is "1.2345k", but a whole number is expected'),
        (
            "router_settings: {num_retries: 2}",
            "router_settings: unknown key; it is LiteLLM's; docs/howto/litellm.md says what stands for its "
            "settings here",
        ),
        (
            "usage_log: {{ LOG }}",
            "usage_log: is a placeholder of a template, {{ … }}; fill it in, or write ${NAME}",
        ),
        (
            "budget_file: {{.Values.file}}",
            "budget_file: is a placeholder of a template, {{ … }}; fill it in, or write ${NAME}",
        ),
        (
            "  - {name: B, key: key-of-client-b-16, budget_duration: 30d}",
            "clients[1].budget_duration: unknown key; leave it out: max_cost_per_day and max_cost_per_month "
            "name theirs",
        ),
        (
            "  - {name: B, key: {file: key.txt}}",
            'clients[1].key: is a mapping, but a list is expected (lines that begin with "- "); '
            "a client's key is a text, or ${NAME} of the environment, or a list of them",
        ),
        ("num_retries: 2", 'num_retries: unknown key; did you mean "replay"?'),
        ("usage_log: ''", 'usage_log: is empty; write "stdout" or the path of a file'),
        ('listen: {port: "${NOT:-x}"}', 'listen.port: is "${NOT:-x}", but a whole number is expected'),
        (
            "listen: {certificate: no.pem}",
            "listen.certificate: names a file that does not exist; looked for ",
        ),
        (
            "listen: {certificate: ~no-such-user/no.pem}",
            "listen.certificate: names a file that does not exist; looked for ",
        ),
    ],
)
def test_messages(problems: Problems, line: str, said: str):
    (problem,) = problems(HEAD + line)
    assert problem.startswith(f"gateway.yaml:9: {said}")
    assert problem == f"gateway.yaml:9: {said}" or said.endswith("for ")


def test_a_fault_of_what_a_variable_holds_names_the_variable(problems: Problems):
    text = HEAD.replace("key: team-key", "key: ${TEAM_KEY}")
    env = {"SECRET": "key-of-one\n", "TEAM_KEY": ""}
    assert problems(text, env=env) == [
        "gateway.yaml:5: aoai.endpoints[0].key: ends with a line break (the value of ${SECRET}); "
        "take it away: printf writes none, where echo does",
        "gateway.yaml:8: clients[0].key: is empty (the value of ${TEAM_KEY})",
    ]


def test_a_url_may_not_have_spaces_or_line_breaks_around_it(problems: Problems):
    (said,) = problems(HEAD.replace("url: https://one.example/", "url: >\n        https://one.example/"))
    assert said == (
        "gateway.yaml:4: aoai.endpoints[0].url: has a space or a line break before or after it; take it away"
    )


@pytest.mark.parametrize(
    ("written", "right"),
    [
        ("10k", "10"),
        ("2.5k", "2.5"),
        ("10000 tokens", "10"),
        ("2500 tpm", "2.5"),
        ("'10,000'", None),
        ("50%", None),
    ],
)
@pytest.mark.parametrize("form", ["{}", "{{gpt-4o: {}}}"])
def test_a_limit_in_thousands_is_not_told_to_be_a_thousand_times_as_much(
    problems: Problems, form: str, written: str, right: str | None
):
    limit = f"max_tokens_per_minute_in_k: {form.format(written)}"
    (problem,) = problems(f"{HEAD}  - {{name: B, key: key-of-client-b-16, {limit}}}")
    assert problem.endswith(f"write {right}" if right else "a number is expected")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("kye: x", 'kye: unknown key; did you mean "key"?'),
        ("api_key: x", 'api_key: unknown key; did you mean "key"?'),
        ("tpm: 5", 'tpm: unknown key; did you mean "max_tokens_per_minute"?'),
        ("colour: red", "colour: unknown key; known here: "),
        ("enabled: maybe", 'enabled: is "maybe", but true or false is expected'),
        (
            "max_requests_per_minute: {big: many}",
            'max_requests_per_minute.big: is "many", but a whole number is expected',
        ),
        (
            "max_requests_per_minute: many",
            'max_requests_per_minute: is "many", but a whole number is expected',
        ),
        (
            "max_requests_per_minute: [1]",
            "max_requests_per_minute: is a list, but a whole number is expected",
        ),
        (
            "deployments_allowed: {big: true}",
            'deployments_allowed: is a mapping, but a list is expected (lines that begin with "- ")',
        ),
        (
            "deployments_allowed: [big, a/b]",
            "deployments_allowed[1]: is not a deployment name: it holds a space or one of / \\ ? # %; "
            "Azure allows letters, digits, - _ and .",
        ),
    ],
)
def test_messages_about_a_client(problems: Problems, line: str, said: str):
    (problem,) = problems(f"{HEAD}    {line}\n")
    assert problem.startswith(f"gateway.yaml:9: clients[0].{said}")


def test_a_mapping_that_lacks_something_is_named_at_its_line(problems: Problems):
    assert problems(HEAD + "  - key: k\n    description: no name\n") == [
        'gateway.yaml:9: clients[1]: "name" is missing'
    ]


def test_null_counts_as_missing_at_its_own_line(problems: Problems):
    assert problems(HEAD + "  - key: k\n    name:\n") == ["gateway.yaml:10: clients[1].name: has no value"]


def test_an_empty_document(problems: Problems):
    assert problems("") == [
        'gateway.yaml:1: "aoai" is missing',
        "gateway.yaml:1: clients: there is no client, so every call would be refused; "
        'write "clients:" in this file or in a file of the folder policies',
    ]


def test_no_endpoints(problems: Problems):
    assert problems("aoai: {endpoints: []}\nclients: [{name: a, key: b}]") == [
        "gateway.yaml:1: aoai.endpoints: is empty: at least one entry is needed"
    ]


@pytest.mark.parametrize(
    ("litellm", "here"),
    [
        ("max_budget", "max_cost_per_month"),
        ("tpm_limit", "max_tokens_per_minute"),
        ("rpm_limit", "max_requests_per_minute"),
        ("models", "deployments_allowed"),
        ("team_id", "group"),
    ],
)
def test_what_litellm_calls_it(problems: Problems, litellm: str, here: str):
    (said,) = problems(HEAD + f"    {litellm}: 5\n")
    assert said == f'gateway.yaml:9: clients[0].{litellm}: unknown key; did you mean "{here}"?'


@pytest.mark.parametrize(
    ("litellm", "said"),
    [
        ("api_version", "leave it out: each request brings its own, which goes on to Azure"),
        ("azure_ad_token", 'did you mean "auth"?'),
        ("tenant_id", 'it belongs under "auth"'),
    ],
)
def test_what_litellm_says_of_a_resource(problems: Problems, litellm: str, said: str):
    endpoint = HEAD.replace("      key: ${SECRET}\n", f"      key: ${{SECRET}}\n      {litellm}: x\n")
    assert problems(endpoint) == [f"gateway.yaml:6: aoai.endpoints[0].{litellm}: unknown key; {said}"]


def test_a_list_item_of_the_wrong_kind(problems: Problems):
    assert problems(HEAD + "  - Team 2\n") == [
        'gateway.yaml:9: clients[1]: is "Team 2", but a mapping is expected (lines of key: value); '
        'write "- name: Team 2"'
    ]


def test_an_unset_variable_is_said_once(problems: Problems):
    said = problems(HEAD, env={})
    assert said == [
        "gateway.yaml:5: aoai.endpoints[0].key: the environment variable SECRET is not set; "
        "set it, or write ${SECRET:-default}"
    ]


def test_everything_wrong_comes_at_once_also_what_lies_between_the_parts(problems: Problems):
    said = problems(
        """\
        aoai:
          endpoints:
            - name: one
              urll: https://one.example/
              key: [a]
              non_streaming_fraction: much
              virtual_deployments:
                - name: big
                  standins:
                    - {name: ptu, non_streaming_fraction: 0.2}
                    - {nam: paygo}
            - name: one
              url: ftp://two.example
              key: some s3cr3t
        clients:
          - name: Team
            key: ${NOT_SET}
          - name: Team
            key: shared-s3cr3t
            enabled: maybe
          - name: Other
            key: [own, shared-s3cr3t]
        port: 80
        """
    )
    assert said == [
        'gateway.yaml:4: aoai.endpoints[0].urll: unknown key; did you mean "url"?',
        "gateway.yaml:5: aoai.endpoints[0].key: is a list, but a single text is expected",
        'gateway.yaml:6: aoai.endpoints[0].non_streaming_fraction: is "much", but a number is expected',
        'gateway.yaml:11: aoai.endpoints[0].virtual_deployments[0].standins[1]: "name" is missing',
        "gateway.yaml:11: aoai.endpoints[0].virtual_deployments[0].standins[1].nam: unknown key; "
        'did you mean "name"?',
        'gateway.yaml:12: aoai.endpoints[1].name: "one" is also the name of an endpoint in gateway.yaml:3; '
        "names must differ",
        "gateway.yaml:13: aoai.endpoints[1].url: does not begin with https:// (or http://); "
        "write it like https://contoso.openai.azure.com/",
        "gateway.yaml:14: aoai.endpoints[1].key: holds a space or a character that an HTTP header cannot "
        "carry",
        "gateway.yaml:17: clients[0].key: the environment variable NOT_SET is not set; "
        "set it, or write ${NOT_SET:-default}",
        'gateway.yaml:18: clients[1].name: "Team" is also the name of a client in gateway.yaml:16; '
        "names must differ",
        'gateway.yaml:20: clients[1].enabled: is "maybe", but true or false is expected',
        'gateway.yaml:22: clients[2].key: the clients "Team" and "Other" have the same key; '
        "a key must tell who is calling",
        'gateway.yaml:23: port: unknown key; it belongs under "listen"',
    ]


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("twenty-characters-xx", True),
        ("one-more-than-twenty-", False),
        ("${SECRET}", True),
        ("${NOT_SET:-x}", True),
        ("${NOT_SET:-a-long-default-value}", False),
    ],
)
def test_a_long_value_may_be_a_key_in_the_wrong_line_and_is_not_repeated(
    problems: Problems, value: str, shown: bool
):
    (said,) = problems(HEAD + f"drain_seconds: {value}\n")
    expected = f'is "{value}", but a number is expected' if shown else "a number is expected"
    assert said == f"gateway.yaml:9: drain_seconds: {expected}"


@pytest.mark.parametrize(
    "line",
    [
        "uses_entra_id_auth: s3cr3t-s3cr3t-s3cr3t-s3cr3t",
        "key: [s3cr3t, s3cr3t]",
        "key: {s3cr3t: 1}",
        "key: s3cr3t with a space",
        "key: [s3cr3t, '']",
        "key: [[s3cr3t]]",
        "uses_entra_id_auth: ${SECRET}",
        "max_requests_per_minute: ${SECRET}",
        "max_requests_per_minute: {big: '${SECRET}'}",
        "deployments_allowed: [[${SECRET:-x}]]",
    ],
)
def test_no_secret_is_ever_said(problems: Problems, line: str):
    line = line.replace("key: {s3cr3t: 1}", "key: {a: s3cr3t}").replace("[[${SECRET:-x}]]", '[["${SECRET}"]]')
    said = problems(HEAD.replace("    key: team-key\n", "") + f"    {line}\n")
    assert said
    assert "s3cr3t" not in "\n".join(said)


def test_a_key_is_not_shown_even_if_short():
    scalar = Scalar(Place(Path("gateway.yaml"), 1, 1), "short")
    assert _show(scalar, ("clients", 0, "key")) is None
    assert _show(scalar, ("clients", 0, "key", 1)) is None
    assert _show(scalar, ("clients", 0, "enabled")) == '"short"'


WRONG: list[object] = ["x", "", "-1", "0.5", "1e99", "nan", "9" * 30, None, [], ["x"], [[]], {}, {"x": "y"}]


@pytest.mark.parametrize("model", list(all_models()), ids=lambda model: model.__name__)
def test_every_error_that_pydantic_can_find_has_words_of_ours(model: type[Model]):
    kinds = set()
    for name in model.model_fields:
        for value in (*WRONG, *([each] for each in WRONG), *({"x": each} for each in WRONG)):
            try:
                model.model_validate({name: value})
            except ValidationError as error:
                kinds |= {each["type"] for each in error.errors()}
    assert kinds <= {*_EXPECTED, "config", "extra_forbidden", "missing", "too_short"}
