"""Where credentials for endpoints come from: Entra ID, a file, a command. Everything here blocks."""

from __future__ import annotations

import logging
import subprocess
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from aoai_gateway.config.credentials import Identity
from aoai_gateway.config.fields import HEADER_TEXT
from aoai_gateway.identity.renewal import Fetch, FetchError, read_at_most
from aoai_gateway.wire.secrets import without_tokens

if TYPE_CHECKING:
    from collections.abc import Callable

    from aoai_gateway.config.credentials import KeySource, Source

CONNECT_SECONDS, READ_SECONDS = 3.0, 8.0
"""The times for one request to an identity endpoint. Those on this machine answer in milliseconds, Entra ID
in one."""

COMMAND_SECONDS = 10.0

LARGEST_KEY = 64 * 1024
"""Bytes that are read of a file or of a command's output."""

FILE_SECONDS = 1.0
"""How often a file is read again."""

LONGEST_TOLD = 300


@dataclass(frozen=True, slots=True)
class Secret:
    """A credential. ``seconds``: how long it is valid from now; None: until another takes its place."""

    kind: Literal["key", "token"]
    value: str = field(repr=False)
    seconds: float | None = field(default=None, compare=False)


def forget(fetch: Fetch[Secret]) -> None:
    """Have the next token be a new one: libraries keep the last one until shortly before its end."""
    if isinstance(fetch, _TokenOf):
        fetch.forget()


def fetcher(source: Source) -> Fetch[Secret]:
    """Return what gets a source's credential."""
    if isinstance(source, Identity):
        return _TokenOf(source)
    return _KeyInFile(source) if source.file is not None else _KeyOfCommand(source)


# --- keys --------------------------------------------------------------------------------------------------


class _KeyInFile:
    again_seconds = FILE_SECONDS

    def __init__(self, source: KeySource) -> None:
        assert source.file is not None
        self._file = source.file

    def __call__(self) -> Secret:
        content = read_at_most(self._file, LARGEST_KEY, "Mount the secret there.")
        return _key(content, f"{self._file}", "Put the key into it, and nothing else.")


class _KeyOfCommand:
    def __init__(self, source: KeySource) -> None:
        assert source.command is not None
        self._command = source.command
        self.again_seconds = source.every_seconds

    def __call__(self) -> Secret:
        program, remedy = self._command[0], "Run it by hand, as the gateway's user."
        try:
            ended = subprocess.run(  # noqa: S603 - the configuration names it, word by word
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                # What it says there may hold anything.
                stderr=subprocess.DEVNULL,
                timeout=COMMAND_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise FetchError(f"{program} did not end within {COMMAND_SECONDS:g} s", remedy) from None
        except (OSError, ValueError) as error:
            reason = (getattr(error, "strerror", None) or type(error).__name__).lower()
            raise FetchError(f"{program} cannot be started: {reason}", remedy) from None
        if ended.returncode:
            raise FetchError(f"{program} ended with {ended.returncode}", remedy)
        return _key(ended.stdout[: LARGEST_KEY + 1], program, "It must print the key, and nothing else.")


def _key(content: bytes, where: str, remedy: str) -> Secret:
    key = content.decode("utf-8", "replace").strip()
    if not HEADER_TEXT.fullmatch(key) or len(content) > LARGEST_KEY:
        raise FetchError(f"{where} holds {'no key' if not key else 'more than a key'}", remedy)
    return Secret("key", key)


# --- tokens ------------------------------------------------------------------------------------------------


class _TokenOf:
    again_seconds = None

    def __init__(self, identity: Identity) -> None:
        self._identity = identity
        self._credential: Any = None

    def forget(self) -> None:
        """Begin with a new credential, which has no token yet."""
        self._credential = None

    def __call__(self) -> Secret:
        identity, remedy = self._identity, REMEDIES[self._identity.type]
        try:
            credential = self._credential or _credential(identity)
            self._credential = credential
            token = credential.get_token(identity.scope)
        except Exception as error:
            # azure-identity raises its own, azure-core's, requests' and ValueError.
            raise FetchError(_in_short(error), remedy) from None
        seconds = token.expires_on - time.time()
        if seconds <= 0:
            raise FetchError("the token had expired when it came", "Set this machine's clock.")
        if not HEADER_TEXT.fullmatch(token.token):
            raise FetchError("what came is no token", remedy)
        return Secret("token", token.token, seconds)


REMEDIES = {
    "managed_identity": "Give this machine, container app or pod a managed identity with the role Cognitive "
    "Services OpenAI User; for one of several, write its client_id.",
    "workload_identity": "Label the pod azure.workload.identity/use, annotate its service account with the "
    "client id, and add a federated credential for that account.",
    "azure_cli": "Run `az login` as the gateway's user.",
    "environment": "Set AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET or "
    "AZURE_CLIENT_CERTIFICATE_PATH.",
    "default": "Run `az login`, set the AZURE_… variables, or give this machine a managed identity.",
}
"""The remedy when an identity of a type gets no token."""


def _credential(identity: Identity) -> Any:
    # Loaded only where there is an identity to be proved: it takes a third of a second.
    import azure.identity as azure

    for logger in ("azure", "msal"):
        # A failure is reported once, where the token is needed, and without the answer's content.
        logging.getLogger(logger).setLevel(logging.CRITICAL)
    # Attempts are repeated here, and spread out: the libraries' own would take minutes.
    network: dict[str, Any] = {
        "connection_timeout": CONNECT_SECONDS,
        "read_timeout": READ_SECONDS,
        "retry_total": 0,
    }
    client, tenant = identity.client_id, identity.tenant_id
    make: dict[str, Callable[[], Any]] = {
        "managed_identity": lambda: azure.ManagedIdentityCredential(client_id=client, **network),
        "workload_identity": lambda: azure.WorkloadIdentityCredential(
            client_id=client, tenant_id=tenant, **network
        ),
        "azure_cli": lambda: azure.AzureCliCredential(
            tenant_id=tenant or "", process_timeout=int(COMMAND_SECONDS)
        ),
        "environment": lambda: azure.EnvironmentCredential(**network),
        "default": lambda: azure.DefaultAzureCredential(
            managed_identity_client_id=client,
            workload_identity_client_id=client,
            workload_identity_tenant_id=tenant,
            exclude_interactive_browser_credential=True,
            exclude_broker_credential=True,
            process_timeout=int(COMMAND_SECONDS),
            **network,
        ),
    }
    return make[identity.type]()


def _in_short(error: Exception) -> str:
    """Return an exception of azure-identity as one line, without anything that looks like a secret."""
    status = getattr(error, "status_code", None)
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    text = "".join(c if c.isprintable() else " " for c in without_tokens(first))
    text = text.rstrip(". ")
    told = text if len(text) <= LONGEST_TOLD else text[:LONGEST_TOLD] + "…"
    return f"{status}: {told}" if status else told
