"""What a configuration needs of the machine that it starts on."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from aoai_gateway.app import start_checks
from aoai_gateway.config.models import Config
from tests.e2e import certificates

NOW = datetime.now(UTC)
ENDPOINTS = {"endpoints": [{"name": "a", "url": "https://a.example/", "key": "key-of-a"}]}


def config(**parts: object) -> Config:
    return Config.model_validate({"aoai": ENDPOINTS, **parts})


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    made = certificates.make(tmp_path_factory.mktemp("certificates"))
    return made.certificate, made.private_key


def test_nothing_is_needed_by_default() -> None:
    assert start_checks.errors(config()) == start_checks.warnings(config()) == []


def test_a_certificate_that_is_valid_is_fine(files: tuple[Path, Path]) -> None:
    certificate, key = files
    here = config(listen={"certificate": str(certificate), "private_key": str(key)})
    assert start_checks.errors(here) == []


@pytest.mark.parametrize(("days", "said"), [(10_000, "expired on"), (-10_000, "is not valid before")])
def test_a_certificate_is_judged_by_the_time(files: tuple[Path, Path], days: int, said: str) -> None:
    certificate, key = files
    here = config(listen={"certificate": str(certificate), "private_key": str(key)})
    (found,) = start_checks.errors(here, NOW + timedelta(days=days))
    assert found.startswith(f"listen.certificate: {said}")


def test_one_that_expires_soon_is_warned_of(files: tuple[Path, Path]) -> None:
    certificate, key = files
    here = config(listen={"certificate": str(certificate), "private_key": str(key)})
    read = start_checks._read(here)
    assert read is not None
    end = read.not_valid_after_utc
    (found,) = start_checks.warnings(here, end - timedelta(days=3))
    assert "in 3 days" in found
    assert start_checks.warnings(here, end - timedelta(days=30)) == []
    assert start_checks.warnings(here, end + timedelta(days=1)) == [], "that is an error"


def test_a_key_of_another_certificate_is_an_error(files: tuple[Path, Path], tmp_path: Path) -> None:
    other = certificates.make(tmp_path).private_key
    here = config(listen={"certificate": str(files[0]), "private_key": str(other)})
    (found,) = start_checks.errors(here)
    assert "does not fit its private key" in found


@pytest.mark.parametrize("exists", [True, False])
def test_a_log_that_cannot_be_written_is_an_error(
    tmp_path: Path, exists: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "usage.jsonl"
    if exists:
        log.touch()
    # The tests may run as root, to whom everything is allowed.
    monkeypatch.setattr(start_checks.os, "access", lambda path, mode: False)
    (found,) = start_checks.errors(config(usage_log=str(log)))
    assert found.startswith("usage_log: ")
    assert found.endswith("cannot be written by this user")


def test_a_file_that_can_be_written_is_fine(tmp_path: Path) -> None:
    assert start_checks.errors(config(usage_log=str(tmp_path / "usage.jsonl"))) == []
    assert not (tmp_path / "usage.jsonl").exists(), "looking makes no file"
