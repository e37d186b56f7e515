import pytest
from tiktoken import model as tiktoken_model

from aoai_gateway.tokens.images import Patches, Tiles
from aoai_gateway.tokens.models import UNKNOWN, family_of
from aoai_gateway.tokens.ranks import CL100K, O200K


@pytest.mark.parametrize(
    ("model", "family", "encoding"),
    [
        ("gpt-4o", "gpt-4o", O200K),
        ("gpt-4o-2024-08-06", "gpt-4o", O200K),
        ("gpt-4o-mini-2024-07-18", "gpt-4o-mini", O200K),
        ("gpt-4o-audio-preview", "gpt-4o", O200K),
        ("chatgpt-4o-latest", "chatgpt-4o", O200K),
        ("gpt-4.1-nano-2025-04-14", "gpt-4.1-nano", O200K),
        ("gpt-4.5-preview", "gpt-4.5", O200K),
        ("gpt-5", "gpt-5", O200K),
        ("gpt-5-mini-2025-08-07", "gpt-5-mini", O200K),
        ("gpt-5.4-mini", "gpt-5.", O200K),
        ("gpt-oss-120b", "gpt-oss", O200K),
        ("o1-preview", "o1", O200K),
        ("o3", "o3", O200K),
        ("o3-mini-2025-01-31", "o3", O200K),
        ("o4-mini", "o4-mini", O200K),
        ("gpt-4", "gpt-4", CL100K),
        ("gpt-4-32k-0613", "gpt-4", CL100K),
        ("gpt-4-turbo-2024-04-09", "gpt-4", CL100K),
        ("gpt-35-turbo", "gpt-35", CL100K),
        ("gpt-35-turbo-16k-0613", "gpt-35", CL100K),
        ("gpt-3.5-turbo-instruct", "gpt-3.5", CL100K),
        ("gpt-35-turbo-0301", "gpt-35-turbo-0301", CL100K),
        ("text-embedding-3-large", "text-embedding-3-large", CL100K),
        ("text-embedding-ada-002", "text-embedding-ada-002", CL100K),
        (" GPT-4o ", "gpt-4o", O200K),
        # fine-tunes: OpenAI's spelling, Azure's spelling
        ("ft:gpt-4o-2024-08-06:contoso::AbC123", "gpt-4o", O200K),
        ("ft:gpt-4o-mini-2024-07-18:contoso:x:1", "gpt-4o-mini", O200K),
        ("ft:gpt-4-0613:contoso::1", "gpt-4", CL100K),
        ("gpt-35-turbo-0125.ft-b044a9d3cf9c4228b5d393567f693b83", "gpt-35", CL100K),
        ("gpt-4o.ft-1", "gpt-4o", O200K),
    ],
)
def test_a_base_model_has_a_family(model: str, family: str, encoding: str) -> None:
    found = family_of(model)
    assert (found.name, found.encoding, found.known) == (family, encoding, True)


@pytest.mark.parametrize(
    "model",
    [None, "", "my-deployment", "DeepSeek-R1", "gpt-4.7", "gpt-45", "o1x", "o", "gpt-6", 4, "ft:", ":"],
)
def test_any_other_name_is_unknown(model: str | None) -> None:
    assert family_of(model) is UNKNOWN
    assert not family_of(model).known
    assert UNKNOWN.encoding == O200K


def test_no_name_that_tiktoken_knows_gets_another_encoding() -> None:
    names = {**tiktoken_model.MODEL_TO_ENCODING}
    names |= {f"{prefix}x": name for prefix, name in tiktoken_model.MODEL_PREFIX_TO_ENCODING.items()}
    names = {model: "o200k_base" if name == "o200k_harmony" else name for model, name in names.items()}
    wrong = {
        model: (name, family_of(model).encoding)
        for model, name in names.items()
        if name in (O200K, CL100K) and family_of(model).known and family_of(model).encoding != name
    }
    assert not wrong


@pytest.mark.parametrize(
    ("model", "rule"),
    [
        ("gpt-4o", Tiles(85, 170)),
        ("gpt-4o-mini", Tiles(2833, 5667)),
        ("gpt-4-turbo", Tiles(85, 170)),
        ("gpt-4.1-mini", Patches(1.62)),
        ("nobody-knows", Tiles(85, 170)),
    ],
)
def test_image_rules(model: str, rule: Tiles | Patches) -> None:
    assert family_of(model).images == rule
