"""The gateway's certificate, renewed while it runs; and whom it trusts."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import certifi
import pytest
from OpenSSL import SSL

from aoai_gateway.app import tls
from aoai_gateway.app.tls import ServerCertificate, bundle
from aoai_gateway.config.models import Listen
from tests.e2e.certificates import Certificates, make


@pytest.fixture
def made(tmp_path: Path) -> Certificates:
    return make(tmp_path)


def listen(made: Certificates) -> Listen:
    return Listen(certificate=made.certificate, private_key=made.private_key)


def handshake(server: SSL.Connection, ca: Path, offers: list[bytes] | None = None) -> SSL.Connection:
    """Shake hands in memory. Returns the client's side."""
    trusting = SSL.Context(SSL.TLS_CLIENT_METHOD)
    trusting.load_verify_locations(str(ca))
    trusting.set_verify(SSL.VERIFY_PEER)
    if offers:
        trusting.set_alpn_protos(offers)
    client = SSL.Connection(trusting)
    client.set_connect_state()
    for _ in range(4):
        for one, other in ((client, server), (server, client)):
            with contextlib.suppress(SSL.WantReadError):
                one.do_handshake()
            with contextlib.suppress(SSL.WantReadError):
                other.bio_write(one.bio_read(65_536))
    return client


def renew(made: Certificates, folder: Path) -> Certificates:
    """Put another certificate into the same files, at another time."""
    folder.mkdir()
    fresh = make(folder)
    for new, old in zip(fresh, made, strict=True):
        shutil.copy(new, old)
        os.utime(old, ns=(0, old.stat().st_mtime_ns + 1_000_000_000))
    return made


def serial(client: SSL.Connection) -> int:
    certificate = client.get_peer_certificate()
    assert certificate is not None
    return certificate.get_serial_number()


def test_it_shows_the_configured_certificate(made: Certificates) -> None:
    client = handshake(ServerCertificate().connection(listen(made)), made.ca)
    assert client.get_state_string() == b"SSL negotiation finished successfully"
    assert client.get_protocol_version_name() in ("TLSv1.2", "TLSv1.3")


@pytest.mark.parametrize(
    ("offers", "chosen"), [([b"h2", b"http/1.1"], b"http/1.1"), ([b"h2"], b""), (None, b"")]
)
def test_it_speaks_http_1(made: Certificates, offers: list[bytes] | None, chosen: bytes) -> None:
    client = handshake(ServerCertificate().connection(listen(made)), made.ca, offers)
    assert client.get_alpn_proto_negotiated() == chosen


def test_certificate_and_key_may_share_a_file(made: Certificates) -> None:
    both = made.certificate.with_name("both.pem")
    both.write_bytes(made.certificate.read_bytes() + made.private_key.read_bytes())
    assert handshake(ServerCertificate().connection(Listen(certificate=both)), made.ca).get_peer_certificate()


def test_a_renewed_certificate_is_shown_from_then_on(made: Certificates, tmp_path: Path) -> None:
    shown = ServerCertificate()
    before = serial(handshake(shown.connection(listen(made)), made.ca))
    assert serial(handshake(shown.connection(listen(made)), made.ca)) == before
    renew(made, tmp_path / "renewed")
    assert serial(handshake(shown.connection(listen(made)), made.ca)) != before


def test_while_its_files_do_not_fit_the_last_good_certificate_is_shown(
    made: Certificates, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shown, where = ServerCertificate(), listen(made)
    before = serial(handshake(shown.connection(where), made.ca))
    old_ca, old_key = Path(shutil.copy(made.ca, tmp_path / "old-ca.pem")), made.private_key.read_bytes()
    renew(made, tmp_path / "renewed")
    made.private_key.write_bytes(old_key)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert serial(handshake(shown.connection(where), old_ca)) == before
    assert len(caplog.records) == 1
    made.certificate.rename(tmp_path / "elsewhere.pem")
    assert serial(handshake(shown.connection(where), old_ca)) == before
    (tmp_path / "elsewhere.pem").rename(made.certificate)
    renew(made, tmp_path / "again")
    assert serial(handshake(shown.connection(where), made.ca)) != before


def test_files_that_never_fitted_are_an_error(made: Certificates, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = make(tmp_path / "other")
    with pytest.raises(SSL.Error):
        ServerCertificate().connection(Listen(certificate=made.certificate, private_key=other.private_key))


def test_the_usual_authorities_are_trusted_beside_the_given_one(made: Certificates) -> None:
    path = bundle(made.ca)
    # Each kind of connection reads the file anew.
    for _ in range(2):
        both = path.read_bytes()
        assert made.ca.read_bytes() in both
        assert Path(certifi.where()).read_bytes() in both
    for _ in range(2):
        server = ServerCertificate().connection(listen(made))
        client = handshake(server, path)
        assert client.get_state_string() == b"SSL negotiation finished successfully"


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the file goes with an orderly end")
def test_a_process_that_is_killed_leaves_no_file_of_authorities(made: Certificates, tmp_path: Path) -> None:
    (folder := tmp_path / "temporary").mkdir()
    code = (
        "import os, pathlib, signal, sys\n"
        "from aoai_gateway.app.tls import bundle\n"
        "assert bundle(pathlib.Path(sys.argv[1])).stat().st_size\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    command = [sys.executable, "-c", code, str(made.ca)]
    ended = subprocess.run(command, env={**os.environ, "TMPDIR": str(folder)}, timeout=120)
    assert ended.returncode == -signal.SIGKILL
    assert not list(folder.iterdir())


def _refused(name: str) -> int:
    raise PermissionError(errno.EACCES, "Permission denied")


@pytest.mark.parametrize("is_refused", [True, False])
def test_where_there_are_no_files_in_memory_the_authorities_are_in_a_temporary_one(
    is_refused: bool, made: Certificates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    if is_refused:
        monkeypatch.setattr(os, "memfd_create", _refused, raising=False)
    else:
        monkeypatch.setattr(tls, "DESCRIPTORS", tmp_path / "not mounted")
    path = bundle(made.ca)
    assert path.parent == tmp_path
    assert path.read_bytes() == Path(certifi.where()).read_bytes() + b"\n" + made.ca.read_bytes()
