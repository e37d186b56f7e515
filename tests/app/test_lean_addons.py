"""The lean host has mitmproxy's addons one by one; who wants the whole package gets it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.ports import free_port

START = "from aoai_gateway.app import lean_addons; lean_addons.install(); "


def said(program: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", START + program], capture_output=True, text=True, check=True, timeout=200
    )
    return done.stdout.strip()


def test_the_host_loads_nothing_of_the_addons_that_it_has_no_use_for() -> None:
    heavy = "('flask', 'ldap3', 'pyasn1', 'mitmproxy.addons.proxyauth', 'mitmproxy.addons.onboarding')"
    assert (
        said(
            f"import sys; from aoai_gateway.app import host; print([n for n in {heavy} if n in sys.modules])"
        )
        == "[]"
    )


def test_a_module_comes_when_it_is_asked_for() -> None:
    assert said(
        "from mitmproxy.addons import cut; import mitmproxy.addons.save as s; print(cut.Cut, s.Save)"
    ) == ("<class 'mitmproxy.addons.cut.Cut'> <class 'mitmproxy.addons.save.Save'>")


def test_the_whole_package_is_there_for_a_plugin_that_uses_it() -> None:
    program = (
        "from mitmproxy.addons import core; import mitmproxy.addons; "
        "made = mitmproxy.addons.default_addons(); "
        "print(len(made) > 30, any(type(each) is core.Core for each in made), mitmproxy.addons.core is core)"
    )
    assert said(program) == "True True True"


def test_a_name_that_is_nowhere_is_missing() -> None:
    program = (
        "import mitmproxy.addons as addons; print(hasattr(addons, 'nothing'), hasattr(addons, '__nothing__'))"
    )
    assert said(program) == "False False"


def test_a_package_that_is_there_already_stays() -> None:
    program = (
        "import mitmproxy.addons as there; " + START + "import mitmproxy.addons as now; print(now is there)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=200
    )
    assert done.stdout.strip() == "True"


PLUGIN = """
import pathlib, sys
from mitmproxy import ctx

def running():
    found = [name for name in ("flask", "ldap3") if name in sys.modules]
    pathlib.Path(__file__).with_suffix(".found").write_text(str(found))
    ctx.master.shutdown()
"""


def test_serve_is_such_a_host(tmp_path: Path) -> None:
    plugin, config = tmp_path / "look.py", tmp_path / "gateway.yaml"
    plugin.write_text(PLUGIN)
    endpoint = (
        "{name: e, url: https://e.example/, key: k, virtual_deployments: [{name: d, standins: [{name: d}]}]}"
    )
    config.write_text(
        f"admin: {{port: 0}}\naoai: {{endpoints: [{endpoint}]}}\nclients: [{{name: c, key: a-long-key-1}}]\n"
    )
    command = ["serve", "--config", str(config), "--port", str(free_port()), "--script", str(plugin)]
    program = "import sys; from aoai_gateway.app.cli import main; sys.exit(main(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", program, *command], capture_output=True, text=True, timeout=200, check=False
    )
    assert plugin.with_suffix(".found").read_text() == "[]", done.stdout + done.stderr
