"""What a release consists of, as `.ci/release` has made it: the wheel, and its bill of materials."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path
from typing import Any

import pytest

from tests.programs import in_ci
from tests.test_lock_files import PROJECT, locked

NAME, VERSION = "aoai-gateway", PROJECT["project"]["version"]


@pytest.fixture(scope="module")
def made() -> Path:
    """The folder that `.ci/run` had it made in."""
    folder = os.environ.get("AOAI_GATEWAY_RELEASE")
    if folder is None:
        if in_ci():
            pytest.fail("AOAI_GATEWAY_RELEASE does not name the folder of .ci/release", pytrace=False)
        pytest.skip("set AOAI_GATEWAY_RELEASE to the folder of .ci/release")
    return Path(folder)


@pytest.fixture(scope="module")
def bill(made: Path) -> dict[str, Any]:
    return json.loads((made / f"aoai_gateway-{VERSION}.cdx.json").read_text())  # type: ignore[no-any-return]


def test_the_wheel_is_beside_its_bill_of_materials(made: Path, bill: dict[str, Any]) -> None:
    (wheel,) = made.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        assert f"aoai_gateway-{VERSION}.dist-info/METADATA" in archive.namelist()
        assert "aoai_gateway/state/quotas.lua" in archive.namelist()
    about = bill["metadata"]["component"]
    assert (about["name"], about["version"], about["type"]) == (NAME, VERSION, "application")
    assert bill["bomFormat"] == "CycloneDX"


def test_it_names_every_locked_package_with_its_version_and_hashes(bill: dict[str, Any]) -> None:
    found = sorted((each["name"], each["version"]) for each in bill["components"])
    wanted = locked("requirements.lock")
    assert found == sorted((name, str(version)) for name, versions in wanted.items() for version in versions)
    for each in bill["components"]:
        assert each["purl"].startswith(f"pkg:pypi/{each['name']}@{each['version']}")
        assert each["externalReferences"][0]["hashes"], each["name"]
