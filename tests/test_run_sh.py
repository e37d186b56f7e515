"""run.sh, with real virtual environments and a real pip, but a project that needs nothing from a network.

The checkout of these tests has the real run.sh. Its pyproject.toml names a build backend that lies in the
checkout, and stubs stand in for the dependencies; every installation is counted. Unpacking pip takes most of
the time that an environment costs, so only one of them gets its own; some are lent that of another. And pip
takes most of what is left: where it is not about what pip does, a program with its options stands in for it.
"""

from __future__ import annotations

import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from tests.e2e.processes import eventually

RUN_SH = Path(__file__).parents[1] / "run.sh"

PYTHON = Path(sys._base_executable)  # type: ignore[attr-defined]
"""The interpreter that the tests' own environment was made with."""

TOOLS = ("bash", "env", "dirname", "readlink", "cksum", "rm")
"""All that run.sh may use beside Python: every system has these."""

PYPROJECT = """\
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]

[project]
name = "aoai-gateway"
version = "1"
"""

BACKEND = '''\
"""Builds an editable wheel whose .pth file points at addons/; says so in installs.log."""
import base64, hashlib, locale, os, pathlib, time, zipfile

HERE = pathlib.Path(__file__).resolve().parent

def build_editable(folder, config_settings=None, metadata_directory=None):
    with (HERE / "installs.log").open("a") as log:
        log.write(os.environ.get("PIP_INDEX_URL", "-") + "\\n")
    if (HERE / "broken").exists():
        raise SystemExit("this build is broken on purpose")
    while (HERE / "slow").exists():
        time.sleep(0.01)
    str(HERE).encode(locale.getencoding())  # as setuptools writes the .pth file
    info = "aoai_gateway-1.dist-info"
    files = {
        "aoai_gateway.pth": f"{HERE / 'addons'}\\n",
        f"{info}/METADATA": "Metadata-Version: 2.1\\nName: aoai-gateway\\nVersion: 1\\n"
        "Provides-Extra: test\\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\\nGenerator: x\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n",
    }
    def digest(text):
        return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
    record = "".join(f"{name},sha256={digest(text)},{len(text.encode())}\\n" for name, text in files.items())
    name = "aoai_gateway-1-py3-none-any.whl"
    with zipfile.ZipFile(os.path.join(folder, name), "w") as wheel:
        for path, text in {**files, f"{info}/RECORD": record + f"{info}/RECORD,,\\n"}.items():
            wheel.writestr(path, text)
    return name
'''

QUICK_VENV = '''\
"""Makes environments as the real module does, except that they are lent a pip instead of given one."""
import os, pathlib, sys

if __name__ == "__main__":
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [path for path in sys.path if os.path.abspath(path or ".") != here]
    import venv
    target = pathlib.Path(sys.argv[-1])
    venv.EnvBuilder(clear="--clear" in sys.argv, symlinks=True).create(target)
    (packages,) = target.glob("lib/python*/site-packages")
    (packages / "pip.pth").write_text(os.environ["LENT_PIP"] + "\\n")
'''

QUICK_PIP = '''\
"""Installs what there is in these tests: nothing from a lock file, and the project by its backend."""
import argparse, os, pathlib, sys, sysconfig, tempfile, zipfile

parser = argparse.ArgumentParser(prog="pip", allow_abbrev=False)
parser.add_argument("command", choices=["install"])
for flag in ("quiet", "disable-pip-version-check", "require-hashes", "no-deps", "no-build-isolation"):
    parser.add_argument(f"--{flag}", action="store_true")
what = parser.add_mutually_exclusive_group(required=True)
what.add_argument("--requirement", type=pathlib.Path)
what.add_argument("--editable", type=pathlib.Path)
words = parser.parse_args()
if words.requirement:
    words.requirement.read_text()
else:
    os.chdir(words.editable)
    sys.path.insert(0, os.getcwd())
    import backend
    with tempfile.TemporaryDirectory() as folder:
        wheel = os.path.join(folder, backend.build_editable(folder))
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(sysconfig.get_path("purelib"))
'''

CLI = """\
import os, sys
print("cli", *sys.argv[1:], "in", os.getcwd())
"""


NEEDED = re.findall(r"[a-z_.]+", re.search(r"aoai_gateway (mitmproxy [a-z_. ]+)", RUN_SH.read_text())[1])  # type: ignore[index]
"""The modules that run.sh looks for."""


class Checkout:
    """A folder with run.sh in it; `env` is what its runs find in the environment."""

    def __init__(self, root: Path, env: Mapping[str, str]) -> None:
        self.root = root
        self.env = env
        package = root / "addons" / "aoai_gateway"
        (package / "app").mkdir(parents=True)
        shutil.copy(RUN_SH, root)
        (root / "pyproject.toml").write_text(PYPROJECT)
        (root / "backend.py").write_text(BACKEND)
        (package / "__init__.py").touch()
        (package / "app" / "__init__.py").touch()
        (package / "app" / "cli.py").write_text(CLI)
        # Nothing is locked, since nothing may be fetched.
        for lock in ("requirements.lock", "requirements-dev.lock"):
            (root / lock).touch()
        for stub in (*NEEDED, "pytest"):
            module = root / "addons" / f"{stub.replace('.', '/')}.py"
            module.parent.mkdir(exist_ok=True)
            module.touch()

    def start(
        self, *words: str, path: Path, cwd: Path | None = None, env: Mapping[str, str] | None = None
    ) -> subprocess.Popen[str]:
        """Start ``run.sh`` with nothing on PATH but `path`."""
        return subprocess.Popen(
            [path / "bash", self.root / "run.sh", *words],
            cwd=cwd or self.root,
            env={
                "PATH": str(path),
                "HOME": str(path),
                "PIP_NO_INDEX": "1",
                "PIP_DISABLE_PIP_VERSION_CHECK": "1",
                "PIP_CONFIG_FILE": os.devnull,
                **self.env,
                **(env or {}),
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    @property
    def installs(self) -> list[str]:
        """What PIP_INDEX_URL was, for each installation so far."""
        log = self.root / "installs.log"
        return log.read_text().splitlines() if log.exists() else []

    @property
    def stamp(self) -> Path:
        return self.root / ".venv" / "set-up-for"


@pytest.fixture(scope="session")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A PATH without any Python."""
    folder = tmp_path_factory.mktemp("tools")
    for tool in TOOLS:
        found = shutil.which(tool)
        assert found, f"{tool} is missing on this machine"
        (folder / tool).symlink_to(found)
    return folder


@pytest.fixture(scope="session")
def path(tools: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A PATH with the Python of these tests as python3."""
    folder = tmp_path_factory.mktemp("path")
    for tool in tools.iterdir():
        (folder / tool.name).symlink_to(tool.readlink())
    script(folder / "python3", f'exec "{PYTHON}" "$@"')
    return folder


def script(path: Path, body: str) -> None:
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def run(path: Path) -> Run:
    def run_it(checkout: Checkout, *words: str, **how: object) -> subprocess.CompletedProcess[str]:
        process = checkout.start(*words, **{"path": path, **how})  # type: ignore[arg-type]
        out, err = process.communicate(timeout=200)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    return run_it


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, run: Run) -> Checkout:
    """A checkout that has been set up; tests that share it leave it so."""
    checkout = Checkout(tmp_path_factory.mktemp("with spaces") / "it's here", {})
    first = run(checkout, "--version")
    assert first.returncode == 0, first.stderr
    assert checkout.installs == ["-"]
    return checkout


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Variables under which environments are made, and the project is installed, in no time."""
    folder = tmp_path_factory.mktemp("quick")
    pip = folder / "lent" / "pip"
    pip.mkdir(parents=True)
    (pip / "__init__.py").touch()
    (pip / "__main__.py").write_text(QUICK_PIP)
    (folder / "modules").mkdir()
    (folder / "modules" / "venv.py").write_text(QUICK_VENV)
    return {"PYTHONPATH": str(folder / "modules"), "LENT_PIP": str(pip.parent)}


@pytest.fixture
def fresh(tmp_path: Path, quick: dict[str, str]) -> Checkout:
    """A checkout that was never set up."""
    return Checkout(tmp_path / "check out", quick)


def test_a_checkout_with_letters_that_the_locale_lacks(
    tmp_path: Path, quick: dict[str, str], run: Run
) -> None:
    checkout = Checkout(tmp_path / "Über uns", {**quick, "LC_ALL": "POSIX"})
    done = run(checkout, "--version")
    assert done.returncode == 0, done.stderr
    assert len(checkout.installs) == 1


@pytest.fixture
def with_pip(fresh: Checkout, made: Checkout, tmp_path: Path) -> Checkout:
    """The same, with the real pip."""
    (pip,) = made.root.glob(".venv/lib/python*/site-packages/pip")
    packages = tmp_path / "lent"
    packages.mkdir()
    (packages / "pip").symlink_to(pip)
    fresh.env = {**fresh.env, "LENT_PIP": str(packages)}
    return fresh


# --- what a set-up makes ------------------------------------------------------------------------------------


def work_of_children() -> float:
    """Return the processor's seconds of all commands so far: a busy machine adds nothing to them."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_a_second_run_is_quiet_and_quick(made: Checkout, run: Run) -> None:
    starts = []  # how many starts of Python are as much work as a run
    for _ in range(5):
        before = work_of_children()
        again = run(made, "check", "a b", "--", "*")
        between = work_of_children()
        subprocess.run([PYTHON, "-c", ""], check=True)
        starts.append((between - before) / (work_of_children() - between))
        assert (again.returncode, again.stderr) == (0, "")
        assert again.stdout == f"cli check a b -- * in {made.root}\n"
    assert made.installs == ["-"]
    # Its own part is two starts of Python and a checksum; pip alone would be many more.
    print(starts)
    assert min(starts) < 6


def test_it_works_from_any_folder_and_keeps_it(made: Checkout, run: Run, tmp_path: Path) -> None:
    # Neither a module there nor one on PYTHONPATH's empty entry may stand in for the real ones.
    (tmp_path / "yaml.py").write_text("raise SystemExit('the wrong yaml')")
    (tmp_path / "aoai_gateway.py").write_text("raise SystemExit('the wrong gateway')")
    done = run(made, cwd=tmp_path)
    assert done.stdout == f"cli in {tmp_path}\n"
    assert done.stderr == ""


def test_it_works_through_symbolic_links(made: Checkout, path: Path, tmp_path: Path) -> None:
    (tmp_path / "relative").symlink_to(os.path.relpath(made.root / "run.sh", tmp_path))
    link = tmp_path / "link"
    link.symlink_to("relative")
    done = subprocess.run(
        [path / "bash", link], env={"PATH": str(path)}, cwd="/", capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "cli in /\n")
    assert made.installs == ["-"]


def test_without_a_network_and_without_any_python_on_path_it_still_runs(
    made: Checkout, run: Run, tools: Path
) -> None:
    assert run(made, path=tools).returncode == 0
    assert made.installs == ["-"]


def test_the_exit_code_is_the_commands(made: Checkout, run: Run) -> None:
    cli = made.root / "addons" / "aoai_gateway" / "app" / "cli.py"
    cli.write_text("raise SystemExit(7)")
    try:
        assert run(made).returncode == 7
    finally:
        cli.write_text(CLI)


# --- when it is made again ----------------------------------------------------------------------------------


def test_a_changed_lock_installs_again(with_pip: Checkout, run: Run) -> None:
    assert run(with_pip, "--version").returncode == 0
    with (with_pip.root / "requirements.lock").open("a") as file:
        file.write("# another version\n")
    assert run(with_pip, "--version").returncode == 0
    assert len(with_pip.installs) == 2


def test_a_missing_lock_is_named(fresh: Checkout, run: Run) -> None:
    (fresh.root / "requirements.lock").unlink()
    done = run(fresh, "--version")
    assert done.returncode == 1
    assert "requirements.lock is missing" in done.stderr


def test_the_newest_versions_are_installed_where_that_is_asked_for(with_pip: Checkout, run: Run) -> None:
    (with_pip.root / "requirements.lock").unlink()
    done = run(with_pip, "--version", env={"AOAI_GATEWAY_LOCK": "none"})
    assert done.returncode == 0, done.stderr
    assert len(with_pip.installs) == 1


def test_a_changed_pyproject_installs_again(fresh: Checkout, run: Run) -> None:
    run(fresh)
    with (fresh.root / "pyproject.toml").open("a") as file:
        file.write("# changed\n")
    again = run(fresh)
    assert again.returncode == 0
    assert "installing" in again.stderr
    assert len(fresh.installs) == 2
    assert run(fresh).stderr == ""


def test_the_tests_extra_is_installed_once_and_kept(fresh: Checkout, run: Run) -> None:
    run(fresh)
    assert fresh.stamp.read_text().splitlines()[1] == ""
    tested = run(fresh, "test", "-k", "x")
    assert tested.stdout == f"cli test -k x in {fresh.root}\n"
    assert fresh.stamp.read_text().splitlines()[1] == "[test]"
    assert run(fresh, "test").stderr == ""
    with (fresh.root / "pyproject.toml").open("a") as file:
        file.write("# changed\n")
    run(fresh)
    assert fresh.stamp.read_text().splitlines()[1] == "[test]"
    assert len(fresh.installs) == 3


def test_a_checkout_that_moved_is_set_up_anew(fresh: Checkout, run: Run, tmp_path: Path) -> None:
    run(fresh)
    old = fresh.root
    fresh.root = old.rename(tmp_path / "moved")
    done = run(fresh)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"cli in {fresh.root}\n"
    assert str(old) not in (fresh.root / ".venv" / "bin" / "activate").read_text()
    assert run(fresh).stderr == ""


@pytest.mark.parametrize("damage", ["python is gone", "python dangles", "stamp is garbage"])
def test_a_broken_environment_is_repaired(fresh: Checkout, run: Run, damage: str) -> None:
    run(fresh)
    venv = fresh.root / ".venv"
    match damage:
        case "python is gone":
            shutil.rmtree(venv / "bin")
        case "python dangles":
            for name in ("python", "python3", PYTHON.name):
                (venv / "bin" / name).unlink(missing_ok=True)
            (venv / "bin" / "python").symlink_to("/nowhere/python3")
        case "stamp is garbage":
            fresh.stamp.write_bytes(b"\xff\0\n\n")
    repaired = run(fresh)
    assert (repaired.returncode, repaired.stdout) == (0, f"cli in {fresh.root}\n"), repaired.stderr
    assert len(fresh.installs) == 2
    assert run(fresh).stderr == ""


def test_a_module_that_is_gone_is_installed_again(with_pip: Checkout, run: Run) -> None:
    run(with_pip)
    (pth,) = with_pip.root.glob(".venv/lib/python*/site-packages/aoai_gateway.pth")
    pth.unlink()
    repaired = run(with_pip)
    assert (repaired.returncode, repaired.stdout) == (0, f"cli in {with_pip.root}\n"), repaired.stderr
    assert len(with_pip.installs) == 2
    assert run(with_pip).stderr == ""


def test_a_set_up_that_was_killed_is_made_anew(fresh: Checkout, run: Run, path: Path) -> None:
    (fresh.root / "slow").touch()
    process = fresh.start(path=path)
    eventually(lambda: fresh.installs, "an installation under way")
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert fresh.stamp.read_text() == "half-made\n"
    leftover = fresh.root / ".venv" / "leftover"
    leftover.touch()
    (fresh.root / "slow").unlink()

    repaired = run(fresh)
    assert (repaired.returncode, repaired.stdout) == (0, f"cli in {fresh.root}\n"), repaired.stderr
    assert not leftover.exists()


def test_an_environment_that_a_user_made_is_used_as_it_is(fresh: Checkout, run: Run) -> None:
    making = [PYTHON, "-m", "venv", fresh.root / ".venv"]
    subprocess.run(making, check=True, env={**os.environ, **fresh.env})
    mine = fresh.root / ".venv" / "mine"
    mine.touch()
    assert run(fresh).returncode == 0
    assert mine.exists()


def test_a_failed_installation_leaves_what_worked(with_pip: Checkout, run: Run) -> None:
    run(with_pip)
    good = (with_pip.root / "pyproject.toml").read_text()
    with (with_pip.root / "pyproject.toml").open("a") as file:
        file.write("# changed\n")
    (with_pip.root / "broken").touch()
    failed = run(with_pip)
    assert failed.returncode == 1
    assert "the installation failed" in failed.stderr
    assert failed.stdout == ""
    # Back to the old one: nothing needs to be installed.
    (with_pip.root / "pyproject.toml").write_text(good)
    assert run(with_pip).stderr == ""


def test_a_first_installation_that_failed_is_tried_again(fresh: Checkout, run: Run) -> None:
    (fresh.root / "broken").touch()
    assert run(fresh).returncode == 1
    (fresh.root / "broken").unlink()
    assert run(fresh).returncode == 0


def test_two_at_once_set_up_once(fresh: Checkout, path: Path) -> None:
    (fresh.root / "slow").touch()
    one = fresh.start("one", path=path)
    eventually(lambda: fresh.installs, "an installation under way")
    two = fresh.start("two", path=path)
    assert two.stderr is not None
    said = two.stderr.readline()  # at the latest, it ends with the process
    (fresh.root / "slow").unlink()
    ends = [process.communicate(timeout=200) for process in (one, two)]
    assert "waiting for another set-up" in said, ends
    assert [one.returncode, two.returncode] == [0, 0], ends
    assert [out.split()[1] for out, _ in ends] == ["one", "two"]
    assert "waiting" not in ends[0][1]
    assert ends[1][1] == "", "it found what it had waited for"
    assert len(fresh.installs) == 1


# --- the environment's variables ----------------------------------------------------------------------------


def test_pips_own_variables_are_respected(with_pip: Checkout, run: Run) -> None:
    run(with_pip, env={"PIP_INDEX_URL": "https://pip.invalid/simple"})
    assert with_pip.installs == ["https://pip.invalid/simple"]


def test_the_environment_may_be_elsewhere(fresh: Checkout, run: Run, tmp_path: Path) -> None:
    assert run(fresh, env={"AOAI_GATEWAY_VENV": str(tmp_path / "other")}).returncode == 0
    assert (tmp_path / "other" / "bin" / "python").exists()
    assert not (fresh.root / ".venv").exists()
    # Relative to the current folder, as paths are.
    again = run(fresh, cwd=tmp_path, env={"AOAI_GATEWAY_VENV": "other"})
    assert (again.returncode, again.stderr) == (0, "")


def test_the_python_may_be_named(fresh: Checkout, run: Run, tools: Path) -> None:
    named = {"AOAI_GATEWAY_PYTHON": str(PYTHON)}
    assert run(fresh, path=tools, env=named).returncode == 0


@pytest.mark.parametrize("named", ["/nowhere/python", "/bin/false"])
def test_a_named_python_that_will_not_do_is_an_error(fresh: Checkout, run: Run, named: str) -> None:
    done = run(fresh, env={"AOAI_GATEWAY_PYTHON": named})
    assert done.returncode == 1
    assert f"AOAI_GATEWAY_PYTHON={named} is no Python >= 3.12" in done.stderr
    assert not (fresh.root / ".venv").exists()


# --- finding a Python ---------------------------------------------------------------------------------------


@pytest.fixture
def bare(tools: Path, tmp_path: Path) -> Path:
    """A PATH of the test's own, without any Python."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for tool in tools.iterdir():
        (folder / tool.name).symlink_to(tool.readlink())
    return folder


REFUSES = "echo 'pyenv: python3.12: command not found' >&2; exit 127"
TOO_OLD = "exit 1"  # what the probe of a Python before 3.12 ends with
WITHOUT_VENV = "echo 'without venv'"


def test_no_python_at_all(fresh: Checkout, run: Run, bare: Path) -> None:
    done = run(fresh, path=bare)
    assert done.returncode == 1
    assert "no Python >= 3.12 was found on PATH, in pyenv or in uv" in done.stderr
    assert "uv python install" in done.stderr
    assert not (fresh.root / ".venv").exists()


def test_only_old_ones(fresh: Checkout, run: Run, bare: Path) -> None:
    script(bare / "python3", TOO_OLD)
    done = run(fresh, path=bare)
    assert done.returncode == 1
    assert "no Python >= 3.12" in done.stderr


def test_one_that_cannot_make_environments(fresh: Checkout, run: Run, bare: Path) -> None:
    script(bare / "python3.12", WITHOUT_VENV)
    done = run(fresh, path=bare)
    assert done.returncode == 1
    assert "python3.12 is new enough, but cannot make virtual environments" in done.stderr
    assert "python3-venv" in done.stderr


def test_a_version_on_pyenvs_disk_though_its_shim_refuses(fresh: Checkout, run: Run, bare: Path) -> None:
    for name in ("python3.13", "python3.12"):
        script(bare / name, REFUSES)
    script(bare / "python3", TOO_OLD)
    pyenv = bare.parent / "py env"
    for version, body in (("3.12.1", f'exec "{PYTHON}" "$@"'), ("3.11.7", TOO_OLD)):
        (pyenv / "versions" / version / "bin").mkdir(parents=True)
        script(pyenv / "versions" / version / "bin" / "python", body)
    done = run(fresh, path=bare, env={"PYENV_ROOT": str(pyenv)})
    assert done.returncode == 0, done.stderr
    assert "pyenv:" not in done.stderr


def test_a_python_of_uv(fresh: Checkout, run: Run, bare: Path) -> None:
    script(bare / "uv", f'[ "$1 $2" = "python find" ] && echo "{PYTHON}"')
    assert run(fresh, path=bare).returncode == 0


def test_uv_without_a_python(fresh: Checkout, run: Run, bare: Path) -> None:
    script(bare / "uv", "echo 'error: No interpreter found' >&2; exit 2")
    done = run(fresh, path=bare)
    assert done.returncode == 1
    assert "No interpreter found" not in done.stderr


def test_a_tested_version_is_preferred(fresh: Checkout, run: Run, bare: Path) -> None:
    script(bare / "python3", f'echo "the wrong one" >&2; exec "{PYTHON}" "$@"')
    script(bare / "python3.12", f'exec "{PYTHON}" "$@"')
    done = run(fresh, path=bare)
    assert done.returncode == 0
    assert "the wrong one" not in done.stderr
