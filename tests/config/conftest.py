"""Short ways to load a configuration out of text."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from aoai_gateway.config.loader import ConfigErrors, Loaded, Source, compile_sources

SHORT_KEY = "characters that make a key hard to guess"

ENV = {"SECRET": "s3cr3t-from-the-environment"}


@pytest.fixture
def compiled() -> Callable[..., Loaded]:
    """Load text as gateway.yaml, and further texts as policies/0.yaml, policies/1.yaml, …"""

    def run(text: str, *policies: str, env: Mapping[str, str] = ENV) -> Loaded:
        files = [Path("gateway.yaml"), *(Path(f"policies/{number}.yaml") for number in range(len(policies)))]
        contents = (textwrap.dedent(each).encode() for each in (text, *policies))
        sources = [Source(file, content) for file, content in zip(files, contents, strict=True)]
        return compile_sources(sources, env=env)

    return run


@pytest.fixture
def problems(compiled: Callable[..., Loaded]) -> Callable[..., list[str]]:
    """Load text that has problems; return them, one line each."""

    def run(text: str, *policies: str, env: Mapping[str, str] = ENV) -> list[str]:
        with pytest.raises(ConfigErrors) as caught:
            compiled(text, *policies, env=env)
        assert str(caught.value) == "\n".join(map(str, caught.value.problems))
        return [str(problem) for problem in caught.value.problems]

    return run


@pytest.fixture
def warnings(compiled: Callable[..., Loaded]) -> Callable[..., list[str]]:
    """Load text without problems; return its warnings, one line each.

    But for those about short keys, which is how keys are written in tests: see test_credential_checks.py.
    """

    def run(text: str, *policies: str, env: Mapping[str, str] = ENV) -> list[str]:
        said = [str(warning) for warning in compiled(text, *policies, env=env).warnings]
        return [line for line in said if SHORT_KEY not in line]

    return run
