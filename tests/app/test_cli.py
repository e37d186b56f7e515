"""The command line, without starting a proxy: what is passed on, what is refused, and how it is said."""

from __future__ import annotations

import json
import os
import re
import shlex
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from aoai_gateway.app import cli, serving, start_checks
from aoai_gateway.config.clients import digest_of
from aoai_gateway.config.models import Client
from tests.ports import free_port

DEMO = """\
aoai:
  endpoints:
    - name: here
      simulated:
        deployments:
          gpt-4o: {model: gpt-4o}
clients:
  - {name: Demo, key: demo-key}
"""

AZURE = """\
aoai:
  endpoints:
    - {name: contoso, url: "https://contoso.openai.azure.com/", key: endpoint-secret}
clients:
  - {name: Team, key: client-secret}
"""


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def demo(tmp_path: Path) -> Path:
    path = tmp_path / "demo.yaml"
    path.write_text(DEMO)
    return path


@pytest.fixture
def _own_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have all ports free, beside any process that runs here."""
    monkeypatch.setattr(start_checks, "ports", lambda config: ([], []))


class Hosts:
    """Stands in for the hosts: remembers what they were started with."""

    def __init__(self) -> None:
        self.served: list[dict[str, Any]] = []
        self.web: list[tuple[list[str], list[str]]] = []
        self.exit_code = 0

    def serve(self, config: Path, **how: Any) -> int:
        self.served.append({"config": config, **how})
        return self.exit_code

    def run_mitmweb(self, arguments: list[str], *, settings: list[str], addons: list[Any]) -> int:
        self.web.append((arguments, settings))
        return self.exit_code


@pytest.fixture
def hosts(monkeypatch: pytest.MonkeyPatch) -> Hosts:
    stand_in = Hosts()
    module = ModuleType("aoai_gateway.app.host")
    vars(module).update(serve=stand_in.serve, run=lambda code: code)
    monkeypatch.setitem(sys.modules, "aoai_gateway.app.host", module)
    monkeypatch.setattr(serving, "run_mitmweb", stand_in.run_mitmweb)
    return stand_in


# --- which command ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        "serve --config {config} --port {port}",
        "--config {config} --port {port}",
        "--config {config} serve --port {port}",
        "--config={config} serve --port {port}",
        "--port {port} --config {config} serve",
    ],
)
def test_serve_is_what_happens_when_no_command_is_named(
    hosts: Hosts, demo: Path, port: int, words: str
) -> None:
    assert cli.main(shlex.split(words.format(config=demo, port=port))) == 0
    assert hosts.served == [
        {"config": demo, "host": None, "port": port, "addons": [], "options": [], "capture": None}
    ]


def test_a_word_behind_an_option_is_its_value(
    hosts: Hosts,
    demo: Path,
    port: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # The file is made where the command runs.
    monkeypatch.chdir(tmp_path)
    assert cli.main(["--config", str(demo), "--port", str(port), "--capture", "report"]) == 0
    assert Path(hosts.served[0]["capture"]).name == "report"
    assert cli.main(["--config", str(demo), "--port", str(port), "--", "check"]) == 2
    assert "mitmproxy has no option 'check'" in capsys.readouterr().err


def test_the_host_decides_about_the_exit_code(hosts: Hosts, demo: Path, port: int) -> None:
    hosts.exit_code = 1
    assert cli.main(["--config", str(demo), "--port", str(port)]) == 1


def test_a_misspelt_command_is_corrected(hosts: Hosts, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["srve"]) == 2
    assert capsys.readouterr().err == "aoai-gateway: there is no command 'srve'; did you mean \"serve\"?\n"


def test_a_command_answers_to_its_earlier_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["replay"]) == cli.main(["rerun"]) == 2
    earlier, now = capsys.readouterr().err.split("old name ends with this version.\n")
    assert earlier == "aoai-gateway: `replay` is now `rerun`; the "
    assert now.count("aoai-gateway: name a captured session") == 2


def test_a_strange_command_is_answered_with_the_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["42"]) == 2
    assert "report, export, backtest, benchmark, simulator and test" in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["--version", "-V"])
def test_version_names_what_matters_in_a_bug_report(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([flag]) == 0
    words = capsys.readouterr().out.split()
    assert words[0] == "aoai-gateway"
    assert "mitmproxy" in words
    assert words[-1] == ".".join(map(str, sys.version_info[:3]))


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_lists_every_command(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([flag]) == 0
    out = capsys.readouterr().out
    assert all(f"\n  {command} " in out for command in cli.COMMANDS)


def test_help_and_check_do_not_wait_for_mitmproxy(demo: Path) -> None:
    program = (
        "import sys; from aoai_gateway.app import cli; cli.main(['--help']); "
        f"cli.main(['check', {str(demo)!r}]); sys.exit('mitmproxy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# --- serve and web: arguments -------------------------------------------------------------------------------


def test_everything_that_serve_takes_is_passed_on(
    hosts: Hosts, demo: Path, port: int, tmp_path: Path
) -> None:
    one, two = tmp_path / "one.py", tmp_path / "two.py"
    one.touch()
    two.touch()
    words = f"serve --config {demo} --host localhost --port {port} -s {one} --script {two} -- -k --set a=b -v"
    assert cli.main(shlex.split(words)) == 0
    assert hosts.served == [
        {
            "config": demo,
            "host": "localhost",
            "port": port,
            "addons": [str(one), str(two)],
            "options": ["a=b", "ssl_insecure=true", "termlog_verbosity=debug"],
            "capture": None,
        }
    ]


def test_web_loads_the_addon_and_shows_streamed_bodies(hosts: Hosts, demo: Path, port: int) -> None:
    words = (
        f"web --config {demo} --port {port} -s {demo} -- --web-port 9999 --set store_streamed_bodies=false"
    )
    assert cli.main(shlex.split(words)) == 0
    ((arguments, said),) = hosts.web
    assert arguments[:4] == ["--scripts", str(cli.CHECKOUT / "addons" / "gateway.py"), "--scripts", str(demo)]
    settings = arguments[5::2]
    assert settings[:3] == [f"gateway_config={demo}", "listen_host=127.0.0.1", f"listen_port={port}"]
    assert sorted(settings[3:]) == ["store_streamed_bodies=false", "web_port=9999"]
    assert said == ["store_streamed_bodies=false", "web_port=9999"]


def test_web_needs_a_folder_for_mitmproxys_settings(
    hosts: Hosts,
    demo: Path,
    port: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # A file in its place keeps root, too, from making mitmproxy's folder there.
    home = tmp_path / "home"
    home.touch()
    monkeypatch.setenv("HOME", str(home))
    words = ["web", "--config", str(demo), "--port", str(port)]
    assert cli.main(words) == 1
    assert f"settings in {home}/.mitmproxy, which cannot be written; name another" in capsys.readouterr().err
    assert not hosts.web
    assert cli.main([*words, "--", "--set", f"confdir={tmp_path}"]) == 0
    assert hosts.web


def test_web_stores_streamed_bodies_unless_told_otherwise(hosts: Hosts, demo: Path, port: int) -> None:
    assert cli.main(["web", "--config", str(demo), "--port", str(port)]) == 0
    assert "store_streamed_bodies=true" in hosts.web[0][0]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--port 65536", "'65536' is no port"),
        ("--port http", "'http' is no port"),
        ("--port -1", "-1"),
        ("--confg x", "unrecognized arguments: --confg"),
        ("--conf x", "unrecognized arguments: --conf"),
        ("serve extra", "unrecognized arguments: extra"),
        ("--config /nowhere/gateway.yaml", "/nowhere/gateway.yaml does not exist"),
        ("--config /", "the configuration / is a directory"),
        ("--config ~no-such-user/gateway.yaml", "~no-such-user/gateway.yaml does not exist"),
        ("-s ~no-such-user/addon.py", "-s ~no-such-user/addon.py: there is no such file"),
        ("--capture ~no-such-user/calls", "~no-such-user/calls cannot be written"),
        ("-s /nowhere/addon.py", "-s /nowhere/addon.py: there is no such file"),
        ("-- --ssl-insecur", "no option '--ssl-insecur'; did you mean \"--ssl-insecure\"?"),
        ("-- stray", "no option 'stray'"),
        ("-- --listen-port 80", "say --port before the --"),
        ("-- --set listen_host=::1", "say --host before the --"),
        ("-- --set gateway_config=x", "say --config before the --"),
        ("-- -s addon.py", "say -s ADDON before the --"),
        ("-- --options", "run `mitmdump` itself"),
        ("-- --web-port x", "--web-port: invalid int value"),
    ],
)
@pytest.mark.parametrize("command", ["serve", "web"])
def test_a_wrong_command_line_ends_with_2_and_a_sentence(
    hosts: Hosts,
    demo: Path,
    command: str,
    words: str,
    says: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    own = [] if words.startswith("--config ") else ["--config", str(demo)]
    assert cli.main([command, *own, *shlex.split(words.removeprefix("serve "))]) == 2
    err = capsys.readouterr().err
    assert says in err
    assert err.startswith("aoai-gateway: ")
    assert not hosts.served
    assert not hosts.web


# --- serve and web: what may stop the start -----------------------------------------------------------------


@pytest.mark.parametrize("command", ["serve", "web"])
def test_every_error_of_the_configuration_is_said_and_nothing_starts(
    hosts: Hosts, tmp_path: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text(AZURE.replace("url:", "urll:").replace("clients:", "clientz:"))
    assert cli.main([command, "--config", str(path)]) == 1
    err = capsys.readouterr().err
    assert f"{path}:3: aoai.endpoints[0].urll:" in err
    assert f"{path}:4: clientz:" in err
    assert err.endswith("errors in the configuration.\n")
    assert "secret" not in err
    assert not hosts.served
    assert not hosts.web


@pytest.mark.parametrize("command", ["serve", "web"])
def test_a_port_in_use_is_said(
    hosts: Hosts, demo: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert cli.main([command, "--config", str(demo), "--port", str(port)]) == 1
    err = capsys.readouterr().err
    assert f"127.0.0.1:{port} is in use by another process" in err
    # The next one after 8080 is the page's of mitmweb.
    assert err.endswith(f"--port {(port + 1) % 65535 + 1}\n")
    assert not hosts.served
    assert not hosts.web


def test_a_host_that_is_not_of_this_machine_is_said(
    hosts: Hosts, demo: Path, port: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["--config", str(demo), "--host", "192.0.2.1", "--port", str(port)]) == 1
    assert f"can't listen on 192.0.2.1:{port}" in capsys.readouterr().err
    assert not hosts.served


# --- what a newcomer reads ----------------------------------------------------------------------------------


def test_the_demo_says_how_to_try_it(
    hosts: Hosts, demo: Path, port: int, capsys: pytest.CaptureFixture[str]
) -> None:
    cli.main(["--config", str(demo), "--port", str(port)])
    out, err = capsys.readouterr()
    assert out == ""  # usage records may go there
    assert f"curl http://127.0.0.1:{port}/openai/v1/chat/completions -H 'api-key: demo-key'" in err
    assert f'OpenAI(base_url="http://127.0.0.1:{port}/openai/v1/", api_key="demo-key")' in err
    assert "`./run.sh web`" in err


def test_outside_a_checkout_the_commands_begin_with_the_program(
    hosts: Hosts,
    demo: Path,
    port: int,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(serving, "CHECKOUT", tmp_path)
    cli.main(["--config", str(demo), "--port", str(port)])
    assert "`aoai-gateway web`" in capsys.readouterr().err


def test_the_printed_curl_line_is_valid_shell_and_json(
    hosts: Hosts, demo: Path, port: int, capsys: pytest.CaptureFixture[str]
) -> None:
    cli.main(["--config", str(demo), "--port", str(port)])
    err = capsys.readouterr().err
    line = err[err.index("curl http") :].split("\n\n")[0].replace("\\\n", " ")
    words = shlex.split(line)
    assert json.loads(words[words.index("-d") + 1])["model"] == "gpt-4o"


def test_a_real_configuration_shows_no_key(
    hosts: Hosts, tmp_path: Path, port: int, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text(AZURE)
    cli.main(["--config", str(path), "--port", str(port)])
    err = capsys.readouterr().err
    assert f"listening  http://127.0.0.1:{port}" in err
    assert "secret" not in err
    assert "demo" not in err


@pytest.mark.parametrize(
    ("address", "url"),
    [
        (serving.Address("127.0.0.1", 8080, False), "http://127.0.0.1:8080"),
        (serving.Address("0.0.0.0", 80, True), "https://127.0.0.1:80"),
        (serving.Address("::", 8080, False), "http://[::1]:8080"),
        (serving.Address("fe80::1", 8080, False), "http://[fe80::1]:8080"),
        (serving.Address("gateway.example", 443, True), "https://gateway.example:443"),
    ],
)
def test_an_address_is_shown_as_a_client_would_use_it(address: serving.Address, url: str) -> None:
    assert address.url == url


# --- check, simulator, test ---------------------------------------------------------------------------------


@pytest.mark.usefixtures("_own_machine")
@pytest.mark.parametrize("words", ["check {}", "check --config {}"])
def test_check_of_a_good_file(demo: Path, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(shlex.split(words.format(demo))) == 0
    out = capsys.readouterr().out
    assert "here" in out
    assert "Demo" in out
    assert "demo-key" not in out


def test_check_of_a_bad_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text("aoai: {endpoints: []}\nclient: []\n")
    assert cli.main(["check", str(path)]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert f'{path}:2: client: unknown key; did you mean "clients"?' in err


@pytest.mark.usefixtures("_own_machine")
def test_check_tells_beside_errors_of_warnings_and_of_what_the_machine_lacks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "gateway.yaml"
    (tmp_path / "pem").touch()
    path.write_text(
        "aoai: {endpoints: [{name: a, url: 'http://a.example/openai/v1', key: k}]}\n"
        "clients: [{name: a, key: key-of-a-0123456789}]\ndrain_seconds: soon\nlisten: {certificate: pem}\n"
    )
    assert cli.main(["check", str(path)]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 5
    assert lines[0].startswith(f"{path}:3: drain_seconds: ")
    assert lines[1].startswith(f"warning: {path}:1: aoai.endpoints[0].url: ends with /openai")
    assert lines[2].startswith(f"warning: {path}:1: aoai.endpoints[0].url: keys and prompts")
    assert lines[3].startswith("listen.certificate: ")
    assert lines[4] == "aoai-gateway: 2 errors in the configuration."


def test_check_of_a_port_that_is_taken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "gateway.yaml"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        path.write_text(f"{DEMO}\nlisten: {{port: {port}}}\nadmin: {{enabled: false}}\n")
        assert cli.main(["check", str(path)]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert f"aoai-gateway: listen.port: 127.0.0.1:{port} is in use by another process." in err


@pytest.mark.parametrize("command", ["check --config {}", "serve --config {} --port 0"])
def test_several_workers_have_no_workbench(
    demo: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    demo.write_text(f"{demo.read_text()}\nworkbench: true\n")
    words = shlex.split(command.format(demo))
    assert cli.main([*words, "--workers", "2"]) == 1
    assert "aoai-gateway: workbench: shows the calls of one process" in capsys.readouterr().err
    if words[0] == "check":
        assert cli.main([*words, "--workers", "1"]) == 0


def test_a_workbench_without_the_admin_listener_is_a_warning(
    demo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    demo.write_text(f"{demo.read_text()}\nworkbench: true\nadmin: {{enabled: false}}\n")
    assert cli.main(["check", str(demo)]) == 0
    assert "aoai-gateway: warning: workbench: is served on the admin listener" in capsys.readouterr().err


def test_check_takes_one_file(demo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["check", str(demo), "--config", str(demo)]) == 2
    assert "say the same" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "passed_on"),
    [
        (["--spec", "x.json", "--port-base", "9000"], ["--spec", "x.json", "--port-base", "9000"]),
        (["--config=x.yaml"], ["--config=x.yaml"]),
        (["--help"], ["--help"]),
        (["--gzip"], ["--config", str(cli.CHECKOUT / "gateway.yaml"), "--gzip"]),
    ],
)
def test_simulator_passes_its_arguments_on(
    monkeypatch: pytest.MonkeyPatch, words: list[str], passed_on: list[str]
) -> None:
    seen: list[list[str]] = []

    def main(arguments: list[str]) -> int:
        seen.append(arguments)
        return 3

    monkeypatch.setattr("aoai_simulator.command.main", main)
    assert cli.main(["simulator", *words]) == 3
    assert seen == [passed_on]


@pytest.fixture
def fake_pytest(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], list[tuple[list[str], str]]]:
    calls: list[tuple[list[str], str]] = []

    def answer(code: int) -> list[tuple[list[str], str]]:
        def main(words: list[str]) -> int:
            calls.append((words, os.getcwd()))
            return code

        monkeypatch.setattr(pytest, "main", main)
        return calls

    return answer


def test_test_runs_pytest_in_the_checkout(
    fake_pytest: Callable[[int], list[tuple[list[str], str]]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    calls = fake_pytest(5)
    assert cli.main(["test", "-k", "sse", "tests/wire"]) == 5
    assert calls == [(["-k", "sse", "tests/wire"], str(cli.CHECKOUT))]


def test_without_arguments_tests_run_on_all_cores_and_those_that_measure_alone(
    fake_pytest: Callable[[int], list[tuple[list[str], str]]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    parts: list[tuple[list[str], Path]] = []
    results = iter((3, 0))

    def run(command: list[str], *, check: bool) -> subprocess.CompletedProcess[str]:
        parts.append((command, Path.cwd()))
        return subprocess.CompletedProcess(command, next(results))

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(subprocess, "run", run)
    assert cli.main(["test"]) == 3
    (together, here), (alone, there) = parts
    assert together[:4] == alone[:4] == [sys.executable, "-P", "-m", "pytest"]
    assert together[together.index("-n") + 1] == "auto"
    assert together[-2:] == ["-m", "not serial"]
    assert alone[4:] == ["-m", "serial"]
    assert here == there == cli.CHECKOUT
    assert fake_pytest(0) == []


def test_test_needs_a_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "CHECKOUT", tmp_path)
    assert cli.main(["test"]) == 1
    assert "part of the checkout" in capsys.readouterr().err


# --- as a process -------------------------------------------------------------------------------------------


def test_a_reader_that_leaves_early_is_no_error(demo: Path) -> None:
    command = f"{shlex.quote(sys.executable)} -m aoai_gateway.app.cli check {shlex.quote(str(demo))} | true"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr


def made(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[str, Client]:
    assert cli.main(["key", "new", *words]) == 0
    out = capsys.readouterr().out
    (key,) = re.findall(r"^  (gw-\S{43})$", out, re.MULTILINE)
    (written,) = yaml.safe_load(out[out.index("  - name:") :])
    return key, Client.model_validate({n: str(v) if n == "not_after" else v for n, v in written.items()})


def test_a_key_is_printed_once_with_the_lines_that_know_it(capsys: pytest.CaptureFixture[str]) -> None:
    key, client = made(capsys, 'The "odd": one')
    assert client.name == 'The "odd": one'
    assert list(client.digests()) == [(digest_of(key), None)]


def test_every_key_is_another(capsys: pytest.CaptureFixture[str]) -> None:
    assert len({made(capsys, "x")[0] for _ in range(20)}) == 20


def test_a_key_can_end_at_a_date(capsys: pytest.CaptureFixture[str]) -> None:
    _, client = made(capsys, "x", "--not-after", "2027-12-31")
    assert client.not_after is not None
    assert client.not_after.isoformat() == "2028-01-01T00:00:00+00:00"


@pytest.mark.parametrize("words", [["new"], ["old", "x"], [], ["new", "x", "--not-after", "soon"]])
def test_words_for_a_key_that_are_not_understood_are_refused(
    capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    assert cli.main(["key", *words]) == 2
    assert "gw-" not in capsys.readouterr().out


def as_process(words: list[str], *, around: str = "", **env: str) -> subprocess.CompletedProcess[str]:
    """Run the program; `around` is what the shell adds to its command."""
    command = shlex.join([sys.executable, "-m", "aoai_gateway.app.cli", *words])
    return subprocess.run(
        ["bash", "-c", f"{command} {around}"],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


def test_names_that_the_terminal_has_no_characters_for_are_escaped(tmp_path: Path) -> None:
    path = tmp_path / "names.yaml"
    path.write_text(DEMO.replace("name: here", "name: Zürich"), encoding="utf-8")
    done = as_process(["check", str(path)], PYTHONIOENCODING="ascii")
    assert (done.returncode, "Traceback" in done.stderr) == (0, False)
    assert "Z\\xfcrich" in done.stdout


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_standard_files_may_be_closed(demo: Path, tmp_path: Path, closed: str) -> None:
    words = ["check", str(demo)]
    assert as_process(words, around=closed).returncode == 0
    # The first file that is opened would have the number of standard output, and get what is printed.
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(DEMO.replace("model:", "modell:"))
    assert as_process(["check", str(wrong)], around=closed).returncode == 1
    assert wrong.read_text() == DEMO.replace("model:", "modell:")
