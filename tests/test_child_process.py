"""Processes that the gateway starts for work of its own."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from aoai_gateway import child_process

ECHO = """
from aoai_gateway import child_process
requests, answers = child_process.begin()
print("a library's own words", flush=True)
answers.write(requests.read())
answers.flush()
"""


def test_what_a_library_prints_is_no_answer() -> None:
    ended = subprocess.run([sys.executable, "-P", "-c", ECHO], input=b"all of it", capture_output=True)
    assert (ended.returncode, ended.stdout) == (0, b"all of it")
    assert b"a library's own words" in ended.stderr


def test_keys_of_the_environment_are_given_where_they_are_needed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AOAI_KEY", "key-of-an-endpoint")
    monkeypatch.setenv("LANG", "C.UTF-8")
    bare, all_of_it = child_process.environment(), child_process.environment(with_secrets=True)
    assert "AOAI_KEY" not in bare
    assert (bare["LANG"], all_of_it["AOAI_KEY"]) == ("C.UTF-8", "key-of-an-endpoint")
    assert bare["PYTHONPATH"] == all_of_it["PYTHONPATH"]
    assert set(bare["PYTHONPATH"].split(os.pathsep)) <= {*sys.path}
