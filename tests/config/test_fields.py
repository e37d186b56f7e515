"""Single values: URLs, keys, names, files."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from aoai_gateway.config import fields


def message(kind: object, value: object, **context: object) -> str:
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(kind).validate_python(value, context=context)
    (error,) = caught.value.errors()
    return error["msg"]


@pytest.mark.parametrize(
    ("url", "scheme", "host", "port", "path"),
    [
        ("https://contoso.openai.azure.com/", "https", "contoso.openai.azure.com", None, "/"),
        ("https://Contoso.openai.azure.com", "https", "contoso.openai.azure.com", None, ""),
        ("https://apim.example:8443/team-a/", "https", "apim.example", 8443, "/team-a/"),
        ("http://127.0.0.1:9999", "http", "127.0.0.1", 9999, ""),
        ("http://[::1]:9999/x", "http", "::1", 9999, "/x"),
        ("http://localhost", "http", "localhost", None, ""),
    ],
)
def test_urls(url: str, scheme: str, host: str, port: int | None, path: str):
    parts = fields.split_url(url)
    assert (parts.scheme, parts.hostname, parts.port, parts.path) == (scheme, host, port, path)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("", "does not begin with https://"),
        ("contoso.openai.azure.com", "does not begin with https://"),
        ("ftp://contoso.openai.azure.com", "does not begin with https://"),
        ("https:///x", "names no host"),
        ("https://u:p@contoso.openai.azure.com/", "holds a user name or password"),
        ("https://contoso.openai.azure.com/?a=b", "holds a query or a fragment"),
        ("https://contoso.openai.azure.com/#", "holds a query or a fragment"),
        ("___", "is still a placeholder"),
        ("<will be set by deployment script>", "is still a placeholder"),
        ("https://___.openai.azure.com/", "is still a placeholder"),
        ("https://<name>.openai.azure.com/", "is still a placeholder"),
        ("https://con toso.openai.azure.com/", "names a host that cannot exist"),
        ("https://-contoso.azure.com/", "names a host that cannot exist"),
        ("https://contoso..azure.com/", "names a host that cannot exist"),
        ("https://contoso.openai.azure.com:0/", "is not a URL"),
        ("https://contoso.openai.azure.com:99999/", "is not a URL"),
        ("https://contoso.openai.azure.com/a b", "is not a URL"),
        ("https://[::1", "is not a URL"),
    ],
)
def test_what_is_no_url_of_an_endpoint(url: str, said: str):
    assert message(fields.Url, url).startswith(said)


@given(st.text(max_size=40).map(lambda rest: f"https://user:s3cr3t@{rest}"))
def test_a_password_in_a_url_is_never_repeated(url: str):
    assert "s3cr3t" not in message(fields.Url, url)


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("", "is empty"),
        ("___", "is still a placeholder"),
        ("<will be set by deployment script>", "is still a placeholder"),
        ("two words", "holds a space"),
        ("schlüssel", "holds a space or a character that an HTTP header cannot carry"),
        ("line\nbreak", "holds a space"),
        # As `echo` writes secrets, and as a block (key: |) is read.
        ("a-key-of-a-secret\n", "ends with a line break"),
        ("a-key-of-a-secret\r\n", "ends with a line break"),
        ("\u201ctypographic-quotes\u201d", "holds a space or a character that an HTTP header cannot carry"),
        # Not the variable, and no secret: as a client's key, anyone could guess it.
        ("os.environ/AZURE_KEY", "names a variable in another program's way"),
        ("$AZURE_KEY", "names a variable in another program's way"),
        ("$env:AZURE_KEY", "names a variable in another program's way"),
        ("$(AZURE_KEY)", "names a variable in another program's way"),
        ("%AZURE_KEY%", "names a variable in another program's way"),
        ("#{AZURE_KEY}#", "names a variable in another program's way"),
    ],
)
def test_keys_that_no_header_can_carry(key: str, said: str):
    told = message(fields.Key, key)
    assert told.startswith(said)
    assert not key or key not in told


@pytest.mark.parametrize("key", ["$2b$10$N9qo8uLOickgx2ZMRZoMye", "a$B", "pa%ss%", "$lower", "%41%42"])
def test_a_key_may_hold_what_variables_are_written_with(key: str):
    assert TypeAdapter(fields.Key).validate_python(key).get_secret_value() == key


@pytest.mark.parametrize(
    "path",
    [
        "/openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21",
        "/team/openai/deployments/gpt-4o/",
        "/openai/v1/responses",
        "/openai/responses?api-version=2025-04-01-preview",
        "/models/chat/completions?api-version=2024-05-01-preview",
        "/anthropic/v1/messages",
    ],
)
def test_the_address_of_one_operation_as_the_portal_shows_it(path: str):
    assert message(fields.Url, f"https://a.example{path}").startswith("is the address of one operation")


def test_one_key_or_a_list():
    keys = TypeAdapter(fields.Keys)
    assert [key.get_secret_value() for key in keys.validate_python("a")] == ["a"]
    assert [key.get_secret_value() for key in keys.validate_python(["a", "b"])] == ["a", "b"]


@pytest.mark.parametrize("name", ["a/b", "a b", "a?b", "a#b", "a%2Fb", "a\\b"])
def test_a_deployment_name_is_one_segment_of_a_path(name: str):
    assert message(fields.DeploymentName, name).startswith("is not a deployment name")


def test_deployments_as_text_or_list():
    names = TypeAdapter(fields.DeploymentPatterns)
    assert names.validate_python(" gpt-4o,gpt-35-turbo , ") == ("gpt-4o", "gpt-35-turbo")
    assert names.validate_python(["gpt-4o*", "o?"]) == ("gpt-4o*", "o?")
    assert names.validate_python("") == ()
    assert message(fields.DeploymentPattern, "gpt-4o o3").endswith("it holds a space")


def test_a_header_pattern_ignores_case_as_powerproxy_does():
    pattern = TypeAdapter(fields.HeaderPattern).validate_python("(?!x-)")
    assert pattern.match("Content-Type")
    assert not pattern.match("X-Forwarded-For")
    assert message(fields.HeaderPattern, "(").startswith("is not a regular expression")


def test_files_count_from_the_folder_of_the_configuration(tmp_path: Path):
    (tmp_path / "ca.pem").write_text("x")
    file = TypeAdapter(fields.ExistingFile)
    assert file.validate_python("ca.pem", context={"folder": tmp_path}) == tmp_path / "ca.pem"
    assert message(fields.ExistingFile, "no.pem", folder=tmp_path) == "names a file that does not exist"
    log = TypeAdapter(fields.LogTarget)
    assert log.validate_python("usage.jsonl", context={"folder": tmp_path}) == str(tmp_path / "usage.jsonl")
    assert log.validate_python("stdout", context={"folder": tmp_path}) == "stdout"
    assert log.validate_python(f"{tmp_path}/u", context={"folder": Path("elsewhere")}) == f"{tmp_path}/u"
    for wrong in (".", "no-such-folder/usage.jsonl"):
        assert message(fields.LogTarget, wrong, folder=tmp_path) == "is not a file in a folder that exists"


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "1e999"])
def test_seconds_are_positive_and_finite(value: str):
    message(fields.Seconds, value)


@given(st.text(max_size=30))
def test_a_name_that_passes_can_be_shown_in_one_line(text: str):
    try:
        name = TypeAdapter(fields.Name).validate_python(text)
    except ValidationError:
        return
    assert name == text
    assert not re.search(r"[\x00-\x1f\x7f]", name)


@pytest.mark.parametrize("pattern", ["a/*", "a b?", "*#", ""])
def test_a_pattern_of_deployments_is_one_segment_but_for_its_wildcards(pattern: str):
    message(fields.DeploymentPattern, pattern)


def test_a_file_that_is_kept_needs_not_exist_yet(tmp_path: Path):
    file = TypeAdapter(fields.KeptFile)
    assert file.validate_python("spent", context={"folder": tmp_path}) == tmp_path / "spent"
    for wrong in (".", "no-such-folder/spent"):
        assert message(fields.KeptFile, wrong, folder=tmp_path) == "is not a file in a folder that exists"
