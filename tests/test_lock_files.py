"""The lock files: in step with pyproject.toml, with hashes, and without a place to fetch from."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
EXTRAS = PROJECT["project"]["optional-dependencies"]
GROUPS = PROJECT["dependency-groups"]
BUILD = PROJECT["build-system"]["requires"]
PLAIN = [*PROJECT["project"]["dependencies"], *BUILD]
WANTED = {
    "requirements.lock": PLAIN,
    "requirements-dev.lock": [*PLAIN, *EXTRAS["test"], *EXTRAS["dev"], *EXTRAS["docs"]],
    "requirements-mitmproxy-12.2.lock": [*PLAIN, *EXTRAS["test"], *EXTRAS["dev"]],
    "requirements-clients.lock": GROUPS["clients"],
    "requirements-release.lock": [*GROUPS["release"], *BUILD],
}
ENTRY = re.compile(r"(?P<name>[A-Za-z0-9._-]+)==(?P<version>\S+)(?P<marker> ; [^\\]+)?")


def entries(name: str) -> list[str]:
    """The requirements of a lock file, each on one line with its hashes."""
    text = re.sub(r"^ *#.*\n", "", (ROOT / name).read_text(), flags=re.MULTILINE)
    return [" ".join(entry.split()) for entry in text.replace("\\\n", " ").splitlines() if entry.strip()]


def locked(name: str) -> dict[str, list[Version]]:
    """The versions of each package that a lock file names; several where platforms or Pythons differ."""
    found: dict[str, list[Version]] = {}
    for entry in entries(name):
        match = ENTRY.match(entry)
        assert match, entry
        found.setdefault(canonicalize_name(match["name"]), []).append(Version(match["version"]))
    return found


def test_every_lock_file_is_checked() -> None:
    assert {path.name for path in ROOT.glob("*.lock")} == set(WANTED)


@pytest.mark.parametrize("name", WANTED)
def test_what_pyproject_asks_for_is_locked(name: str) -> None:
    versions = locked(name)
    for wanted in map(Requirement, WANTED[name]):
        found = versions.get(canonicalize_name(wanted.name), [])
        assert found, f"{wanted} is not in {name}: run .ci/lock"
        assert all(version in wanted.specifier for version in found), f"{wanted}: {name} has {found}"


@pytest.mark.parametrize("name", WANTED)
def test_each_package_has_hashes_and_nowhere_an_address(name: str) -> None:
    for entry in entries(name):
        assert re.search(r" --hash=sha256:[0-9a-f]{64}$", entry), entry
    assert not re.search(r"https?:|file:|--index-url|--find-links", (ROOT / name).read_text())


def test_the_tests_run_on_what_is_installed_to_run() -> None:
    run, dev = locked("requirements.lock"), locked("requirements-dev.lock")
    assert {name: dev[name] for name in run} == run


def test_both_supported_mitmproxys_are_locked() -> None:
    (newest,), (oldest,) = (
        locked("requirements.lock")["mitmproxy"],
        locked("requirements-mitmproxy-12.2.lock")["mitmproxy"],
    )
    assert newest.release[:2] == (12, 3)
    assert oldest.release[:2] == (12, 2)
