"""What the headless host loads."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from mitmproxy.exceptions import OptionsError
from mitmproxy.hooks import RunningHook
from mitmproxy.test import taddons

from aoai_gateway.app.host import LeanTlsConfig
from tests.e2e import certificates


def test_the_headless_host_loads_neither_the_inspector_nor_the_simulator() -> None:
    program = (
        "import sys, aoai_gateway.app.host; "
        "unwanted = ('aoai_gateway.inspect', 'aoai_simulator'); "
        "print(*sorted(name for name in sys.modules if name.startswith(unwanted)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=200, check=True
    )
    assert done.stdout.split() == []


def test_its_home_folder_may_be_one_that_cannot_be_written(tmp_path: Path) -> None:
    # A file in its place keeps root, too, from making mitmproxy's folder there.
    home = tmp_path / "home"
    home.touch()
    tls = LeanTlsConfig()
    with taddons.context(tls, loadcore=False) as context:
        context.options.update(confdir=str(home / ".mitmproxy"))
        context.master.addons.invoke_addon_sync(tls, RunningHook())
        with pytest.raises(OptionsError, match="Invalid ECDH curve"):
            context.options.update(tls_ecdh_curve_server="none")


def test_certificates_of_mitmproxys_own_options_are_taken(tmp_path: Path) -> None:
    made = certificates.make(tmp_path)
    both = tmp_path / "both.pem"
    both.write_bytes(made.private_key.read_bytes() + made.certificate.read_bytes())
    tls = LeanTlsConfig()
    with taddons.context(tls, loadcore=False) as context:
        context.options.update(confdir=str(tmp_path / "home"), certs=[f"*={both}"])
    assert "*" in tls.certstore.certs
