"""Checks of this machine for a configuration: writable files, a certificate that is valid, free addresses.

The loader judges the text; these look at the machine. `check` reports all of it, and a start that
could not keep its promises is refused with the same words.
"""

from __future__ import annotations

import errno
import http.client
import os
import socket
import ssl
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from aoai_gateway.command_line import installs
from aoai_gateway.config.fields import is_loopback
from aoai_gateway.config.shared_store import SharedStore
from aoai_gateway.config.sinks import CsvSink, JsonLinesSink
from aoai_gateway.state.affinity_file import AffinityFileError, check
from aoai_gateway.state.budget_file import decode
from aoai_gateway.usage.sinks import missing_extra
from aoai_gateway.wire.authority import reachable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cryptography import x509

    from aoai_gateway.config.models import Config

EXPIRES_SOON = timedelta(days=14)

PROBE_SECONDS = 1.0


def errors(config: Config, now: datetime | None = None, *, workers: int = 1) -> list[str]:
    """Return the faults that keep a gateway with this configuration from serving, at the time ``now``."""
    found = list(_certificate(config, now or datetime.now(UTC)))
    if config.workbench.enabled and workers > 1:
        found.append(
            "workbench: shows the calls of one process, and not those of several workers; leave --workers "
            "out, or set workbench: false and run a gateway of its own for it"
        )
    if config.usage_log not in (None, "stdout"):
        found += _writable("usage_log", config.usage_log)
    found += _sinks(config)
    if config.budget_file is not None and config.store is None:
        found += _writable("budget_file", config.budget_file)
        found += _budgets(config.budget_file)
    if config.affinity_path is not None and config.store is None:
        found += _writable("affinity_file", config.affinity_path)
        found += _affinity(config.affinity_path)
    found += _trusted(config)
    found += _store(config)
    return found


def ports(config: Config) -> tuple[list[str], list[str]]:
    """Return the errors and the warnings about the addresses that it is to listen on.

    One that a gateway has is no error: that may be the very one whose changed file is checked.
    """
    errors: list[str] = []
    warnings: list[str] = []
    listen, admin = config.listen, config.admin
    found = refusal(listen.host, listen.port) if listen.port else None
    tls = listen.certificate is not None
    if found and found.in_use and has_gateway(listen.host, listen.port, tls=tls):
        warnings.append(
            f"listen.port: a gateway runs at {listen.host}:{listen.port}; a second one needs another port"
        )
    elif found:
        errors.append(f"listen.port: {found.message}")
    found = refusal(admin.host, admin.port) if admin.enabled and admin.port else None
    if found and not (found.in_use and has_gateway(admin.host, admin.port)):
        # The gateway serves without its status page.
        warnings.append(
            f"admin.port: {admin.host}:{admin.port} cannot be listened on, so there will be no status page; "
            "name another port"
        )
    return errors, warnings


def warnings(config: Config, now: datetime | None = None) -> list[str]:
    """Return what will keep it from serving before long."""
    now = now or datetime.now(UTC)
    found = []
    if config.workbench.enabled and not config.admin.enabled:
        found.append("workbench: is served on the admin listener, which admin.enabled: false turns off")
    certificate = _read(config)
    if certificate is not None and now < certificate.not_valid_after_utc <= now + EXPIRES_SOON:
        end = certificate.not_valid_after_utc
        found.append(f"listen.certificate: expires on {_day(end)}, in {(end - now).days} days; renew it")
    for what, end in config.expiring():
        if end <= now:
            found.append(f"clients: {what} does not count since {_day(end)}; replace it, or take it out")
        elif end <= now + EXPIRES_SOON:
            left = (end - now).days
            found.append(f"clients: {what} counts for {left} days more, until {_day(end)}; replace it")
    for variable, names in _past_a_proxy(config).items():
        found.append(
            f"aoai.endpoints: these endpoints are reached directly, past the proxy that {variable} names: "
            f"{', '.join(names)}; if that is right, list their hosts in NO_PROXY"
        )
    return found


def _past_a_proxy(config: Config) -> dict[str, list[str]]:
    """Return the endpoints that others would reach through a proxy here, by the variable that names it."""
    found: dict[str, list[str]] = {}
    not_through = os.environ.get("no_proxy", os.environ.get("NO_PROXY", ""))
    for endpoint in config.aoai.endpoints:
        if endpoint.url is None or not endpoint.enabled:
            continue
        url = urlsplit(endpoint.url)
        host, port = url.hostname or "", url.port or (443 if url.scheme == "https" else 80)
        variable = _proxy_variable(url.scheme)
        if variable and not is_loopback(host) and not _is_listed(host, port, not_through):
            found.setdefault(variable, []).append(endpoint.name)
    return found


def _proxy_variable(scheme: str) -> str | None:
    """Return the variable that names the proxy for a scheme. Lower case goes first, even if empty."""
    for lower in (f"{scheme}_proxy", "all_proxy"):
        name = lower if lower in os.environ else lower.upper()
        if os.environ.get(name):
            return name
    return None


def _is_listed(host: str, port: int, listed: str) -> bool:
    """Whether NO_PROXY has a host: as its name, a domain, an address or a network, with or without a port."""
    for entry in listed.lower().replace(",", " ").split():
        name, of_port = entry, ""
        if entry.startswith("["):
            name, _, of_port = entry[1:].partition("]")
        elif entry.count(":") == 1:
            name, _, of_port = entry.partition(":")
        if of_port.lstrip(":") not in ("", str(port)):
            continue
        domain = name.removeprefix("*").lstrip(".")
        if name == "*" or host == domain or host.endswith(f".{domain}") or _is_in(host, domain):
            return True
    return False


def _is_in(host: str, network: str) -> bool:
    try:
        return ip_address(host) in ip_network(network, strict=False)
    except ValueError:  # one of them is a name
        return False


def expiries(config: Config) -> dict[str, float]:
    """Return what is valid for a time only, by its key in the configuration: until when, since the epoch."""
    found = {what: end.timestamp() for what, end in config.expiring()}
    certificate = _read(config)
    if certificate is not None:
        found["listen.certificate"] = certificate.not_valid_after_utc.timestamp()
    return found


def _certificate(config: Config, now: datetime) -> Iterator[str]:
    listen = config.listen
    if listen.certificate is None:
        return
    # Loaded only where there is a certificate: a check is to be quick.
    from OpenSSL import SSL

    from aoai_gateway.app.tls import server_context

    try:
        server_context(listen.certificate, listen.private_key or listen.certificate, listen.client_ca)
    except (SSL.Error, OSError):
        yield "listen.certificate: does not fit its private key; both must be PEM files that belong together"
        return
    certificate = _read(config)
    if certificate is None:
        return
    if now >= certificate.not_valid_after_utc:
        yield f"listen.certificate: expired on {_day(certificate.not_valid_after_utc)}; renew it"
    elif now < certificate.not_valid_before_utc:
        yield (
            f"listen.certificate: is not valid before {_day(certificate.not_valid_before_utc)}; "
            "is this machine's clock right?"
        )


def _sinks(config: Config) -> Iterator[str]:
    for name, sink in config.usage_sinks.named().items():
        key = f"usage_sinks.{name}"
        extra = missing_extra(name)
        if extra is not None:
            yield f"{key}: needs more packages: {installs(extra)}"
        if isinstance(sink, JsonLinesSink):
            yield from _writable(key, sink.path)
        if isinstance(sink, CsvSink):
            yield from _writable(key, sink.folder)
    if config.record_prompts is not None:
        yield from _private("record_prompts.path", config.record_prompts.path)


def _private(key: str, file: Path) -> Iterator[str]:
    yield from _writable(key, file)
    try:
        mode = file.stat().st_mode
    except OSError:
        return
    if os.name == "posix" and mode & 0o077:
        yield f"{key}: others than its owner may read {file}; chmod 600 it"


def _read(config: Config) -> x509.Certificate | None:
    if config.listen.certificate is None:
        return None
    from cryptography import x509

    try:
        return x509.load_pem_x509_certificate(config.listen.certificate.read_bytes())
    except (OSError, ValueError):
        return None


def _writable(key: str, file: Path | str) -> Iterator[str]:
    """Look whether a file can be appended to, without making it."""
    path = os.fspath(file)
    folder = os.path.dirname(path) or "."
    if os.path.exists(path):
        if not os.access(path, os.W_OK):
            yield f"{key}: {path} cannot be written by this user"
    elif not os.access(folder, os.W_OK | os.X_OK):
        yield f"{key}: the folder {folder} cannot be written by this user"


def _budgets(path: Path) -> Iterator[str]:
    try:
        decode(path.read_bytes())
    except FileNotFoundError:
        return
    except (OSError, ValueError, KeyError, TypeError):
        yield f"budget_file: {path} is not a budget file; repair it, or remove it to start with nothing spent"


def _affinity(path: Path) -> Iterator[str]:
    try:
        check(path)
    except AffinityFileError as error:
        yield f"affinity_file: {error}"


def _trusted(config: Config) -> Iterator[str]:
    named = [("aoai.trusted_ca", config.aoai.trusted_ca)]
    named += [(f"tokens[{index}].trusted_ca", each.trusted_ca) for index, each in enumerate(config.tokens)]
    for path, file in named:
        if file is None:
            continue
        try:
            ssl.create_default_context(cafile=str(file))
        except OSError:  # ssl.SSLError is one
            yield f"{path}: is not a PEM file of certificates"


def _store(config: Config) -> Iterator[str]:
    """Look at the certificates for the store: with a wrong one it would just never be there."""
    if not isinstance(config.store, SharedStore):
        return
    tls = config.store.tls
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if tls.ca is not None:
        try:
            context.load_verify_locations(tls.ca)
        except OSError:
            yield "state.tls.ca: is not a PEM file of certificates"
    if tls.certificate is not None:
        try:
            # A key with a password would have Python ask at the terminal.
            context.load_cert_chain(tls.certificate, tls.private_key, password="")
        except OSError:
            yield (
                "state.tls.certificate: does not fit its private key; both must be PEM files that belong "
                "together, and the key without a password"
            )


def _day(time: datetime) -> str:
    return time.strftime("%Y-%m-%d")


# --- addresses -------------------------------------------------------------------------------------------


class Refusal(NamedTuple):
    """Why an address cannot be listened on."""

    message: str
    in_use: bool = False


def refusal(host: str, port: int) -> Refusal | None:
    """Bind once and let go; None if that works. mitmproxy tells of a busy port only deep in its log."""
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        return Refusal(f"can't listen on {host}: {error.strerror}.")
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(where)
        except OSError as error:
            return _refusal(f"{host}:{port}", port, error)
    return None


def _refusal(place: str, port: int, error: OSError) -> Refusal:
    if error.errno == errno.EADDRINUSE:
        other = (port + 1) % 65535 + 1  # after 8080, not 8081: mitmweb has its page there
        return Refusal(
            f"{place} is in use by another process. Stop that one, or choose another port: --port {other}",
            in_use=True,
        )
    if error.errno == errno.EACCES:
        return Refusal(
            f"not allowed to listen on {place}: ports below 1024 need privileges. Choose another: --port 8080"
        )
    return Refusal(f"can't listen on {place}: {os.strerror(error.errno or 0)}.")


def has_gateway(host: str, port: int, *, tls: bool = False) -> bool:
    """Return whether a gateway answers there, as it does to probes; within `PROBE_SECONDS` for each step."""
    near = reachable(host)
    connection: http.client.HTTPConnection
    if tls:
        # Whose certificate it is does not matter: nothing is told to the peer.
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        connection = http.client.HTTPSConnection(near, port, timeout=PROBE_SECONDS, context=context)
    else:
        connection = http.client.HTTPConnection(near, port, timeout=PROBE_SECONDS)
    try:
        connection.request("GET", "/health/live")
        return connection.getresponse().read(100) == b'{"status": "alive"}'
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
