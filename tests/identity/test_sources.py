"""Credentials come from where the configuration says, and a failure says what to do."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from aoai_gateway.config.credentials import Identity, KeySource, source_name
from aoai_gateway.identity import sources
from aoai_gateway.identity.sources import FetchError, Secret, fetcher
from tests.e2e import certificates
from tests.identity_servers import IdentityServer, jwt

SCOPE = "https://cognitiveservices.azure.com"


def failure(source: Identity | KeySource) -> FetchError:
    with pytest.raises(FetchError) as caught:
        fetcher(source)()
    assert len(str(caught.value).splitlines()) == 1
    assert caught.value.remedy
    return caught.value


# --- managed identity --------------------------------------------------------------------------------------


def test_a_managed_identity_gets_a_token_from_imds(imds: IdentityServer) -> None:
    secret = fetcher(Identity(type="managed_identity"))()
    assert (secret.kind, secret.value) == ("token", imds.given[0])
    assert secret.seconds == pytest.approx(3600, abs=5)
    assert imds.asked[0]["resource"] == SCOPE
    assert "client_id" not in imds.asked[0]


def test_a_user_assigned_identity_and_another_scope_are_asked_for(imds: IdentityServer) -> None:
    fetcher(Identity(type="managed_identity", client_id="1111", scope="https://ai.azure.com/.default"))()
    assert (imds.asked[0]["client_id"], imds.asked[0]["resource"]) == ("1111", "https://ai.azure.com")


@pytest.mark.parametrize("status", [400, 403, 404, 410, 429, 500, 503])
def test_a_refusal_is_told_at_once_and_in_one_line(imds: IdentityServer, status: int) -> None:
    imds.status = status
    error = failure(Identity(type="managed_identity"))
    assert len(imds.asked) == 1, "to repeat it is for the renewal"
    assert "client_id" in error.remedy


@pytest.mark.parametrize("hangs", [True, False])
def test_an_endpoint_that_is_slow_or_never_answers_is_given_up(
    imds: IdentityServer, monkeypatch: pytest.MonkeyPatch, hangs: bool
) -> None:
    monkeypatch.setattr(sources, "READ_SECONDS", 0.2)
    imds.hangs, imds.delay = hangs, 20.0
    begun = time.monotonic()
    failure(Identity(type="managed_identity"))
    assert time.monotonic() - begun < 15


def test_a_short_lived_token_is_fetched_anew_each_time(imds: IdentityServer) -> None:
    imds.seconds = 60
    fetch = fetcher(Identity(type="managed_identity"))
    assert fetch().value != fetch().value


def test_the_libraries_write_no_log_of_their_own(
    imds: IdentityServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    fetcher(Identity(type="managed_identity"))()
    imds.status = 500
    failure(Identity(type="managed_identity"))
    assert imds.given[0] not in caplog.text
    assert not [record for record in caplog.records if record.name.startswith(("azure", "msal"))]


# --- workload identity, the rest ---------------------------------------------------------------------------


@pytest.fixture
def exchange(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> IdentityServer:
    made = certificates.make(tmp_path)
    server = IdentityServer((made.certificate, made.private_key))
    assertion = tmp_path / "azure-identity-token"
    assertion.write_text(jwt(sub="system:serviceaccount:ns:gateway"))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(made.ca))
    monkeypatch.setenv("AZURE_AUTHORITY_HOST", server.url)
    monkeypatch.setenv("AZURE_TENANT_ID", "my-tenant")
    monkeypatch.setenv("AZURE_CLIENT_ID", "my-client")
    monkeypatch.setenv("AZURE_FEDERATED_TOKEN_FILE", str(assertion))
    return server


def test_a_workload_identity_exchanges_its_assertion(exchange: IdentityServer) -> None:
    secret = fetcher(Identity(type="workload_identity"))()
    (asked,) = exchange.asked
    assert secret.value == exchange.given[0]
    assert asked["path"] == "/my-tenant/oauth2/v2.0/token"
    assert asked["client_id"] == "my-client"
    assert asked["scope"] == f"{SCOPE}/.default"
    assert asked["client_assertion"] == jwt(sub="system:serviceaccount:ns:gateway")


def test_the_configuration_names_client_and_tenant_before_the_environment(exchange: IdentityServer) -> None:
    fetcher(Identity(type="workload_identity", client_id="other", tenant_id="elsewhere"))()
    (asked,) = exchange.asked
    assert (asked["path"], asked["client_id"]) == ("/elsewhere/oauth2/v2.0/token", "other")


@pytest.mark.parametrize("status", [400, 401, 429, 500])
def test_a_refused_exchange_says_what_entra_id_says_but_never_the_assertion(
    exchange: IdentityServer, status: int
) -> None:
    exchange.status = status
    error = failure(Identity(type="workload_identity"))
    assert "eyJ" not in str(error)
    assert "AADSTS70000" in str(error) or status == 500
    assert "federated credential" in error.remedy


def test_without_its_surroundings_a_workload_identity_says_what_is_missing() -> None:
    error = failure(Identity(type="workload_identity"))
    assert "federated credential" in error.remedy


def test_the_azure_cli_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    az = tmp_path / "az"
    token = jwt(aud=SCOPE)
    az.write_text(
        f'#!/bin/sh\necho \'{{"accessToken": "{token}", "expires_on": {int(time.time()) + 900}}}\'\n'
    )
    az.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    secret = fetcher(Identity(type="azure_cli"))()
    assert secret.value == token
    assert secret.seconds == pytest.approx(900, abs=5)


def test_an_azure_cli_that_is_not_signed_in_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    az = tmp_path / "az"
    az.write_text("#!/bin/sh\necho 'Please run az login to setup account.' >&2\nexit 1\n")
    az.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert "az login" in failure(Identity(type="azure_cli")).remedy


def test_an_empty_environment_says_which_variables_are_needed() -> None:
    assert "AZURE_CLIENT_ID" in failure(Identity(type="environment")).remedy


def test_the_default_finds_a_managed_identity(imds: IdentityServer) -> None:
    assert fetcher(Identity(type="default"))().value == imds.given[-1]


def test_azure_identity_is_loaded_only_where_it_is_needed() -> None:
    seen = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys, aoai_gateway.app.cli; import aoai_gateway.app.addon; "
            "print('azure.identity' in sys.modules)",
        ],
        capture_output=True,
        text=True,
        check=True,
        timeout=200,
    )
    assert seen.stdout.strip() == "False"


# --- files and commands ------------------------------------------------------------------------------------


def test_a_key_is_read_from_its_file_each_time(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("first-key\n")
    fetch = fetcher(KeySource(file=file))
    assert fetch() == Secret("key", "first-key")
    file.write_text("second-key")
    assert fetch() == Secret("key", "second-key")


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"", "holds no key"), (b"two words", "more than a key"), (b"k" * 70_000, "more than a key")],
)
def test_a_file_that_holds_no_key_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    file = tmp_path / "key"
    file.write_bytes(content)
    error = failure(KeySource(file=file))
    assert said in str(error)
    assert "two" not in str(error)


def test_a_file_that_is_missing_is_named(tmp_path: Path) -> None:
    assert (
        str(failure(KeySource(file=tmp_path / "gone"))) == f"{tmp_path / 'gone'}: no such file or directory"
    )


def test_a_command_prints_the_key_and_is_no_shell(tmp_path: Path) -> None:
    assert fetcher(KeySource(command="echo the-key"))().value == "the-key"
    assert fetcher(KeySource(command=("printf", "%s", "a;b$HOME")))().value == "a;b$HOME"


def test_a_command_that_fails_tells_nothing_of_what_it_said() -> None:
    error = failure(KeySource(command="sh -c 'echo s3cr3t; echo s3cr3t >&2; exit 3'"))
    assert str(error) == "sh ended with 3"
    assert source_name(KeySource(command="vault read s3cr3t")) == "command vault"


def test_a_command_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "COMMAND_SECONDS", 0.2)
    assert "did not end" in str(failure(KeySource(command="sleep 30")))


def test_a_command_that_does_not_exist_is_named() -> None:
    assert "no-such-program cannot be started" in str(failure(KeySource(command="no-such-program")))
