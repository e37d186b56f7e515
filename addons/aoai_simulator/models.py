"""What the simulator knows of the models that a deployment can have."""

from __future__ import annotations

from functools import lru_cache

from aoai_simulator.targets import CLAUDE

_SNAPSHOTS = {
    "gpt-35-turbo": "gpt-35-turbo-0125",
    "gpt-4": "gpt-4-turbo-2024-04-09",
    "gpt-4o": "gpt-4o-2024-11-20",
    "gpt-4o-mini": "gpt-4o-mini-2024-07-18",
    "gpt-4.1": "gpt-4.1-2025-04-14",
    "gpt-4.1-mini": "gpt-4.1-mini-2025-04-14",
    "gpt-4.1-nano": "gpt-4.1-nano-2025-04-14",
    "gpt-5": "gpt-5-2025-08-07",
    "gpt-5-mini": "gpt-5-mini-2025-08-07",
    "gpt-realtime": "gpt-realtime-2025-08-28",
    "o3-mini": "o3-mini-2025-01-31",
    "o4-mini": "o4-mini-2025-04-16",
}
_REASONING = ("o1", "o3", "o4-", "gpt-5")
_CONTEXTS = (
    ("text-embedding-", 8_192),
    ("gpt-35-turbo-instruct", 4_097),
    ("gpt-35-turbo", 16_385),
    ("gpt-4.1", 1_047_576),
    ("gpt-5", 400_000),
    ("o1", 200_000),
    ("o3", 200_000),
    ("o4-", 200_000),
    ("claude-", 200_000),
)
_DIMENSIONS = {"text-embedding-3-large": 3072}


@lru_cache(maxsize=256)
def snapshot(model: str) -> str:
    """The dated name that answers carry as their `model`."""
    return _SNAPSHOTS.get(model, model)


@lru_cache(maxsize=256)
def supports(model: str, operation: str) -> bool:
    """Whether the model can do the operation; an unknown model can do all of OpenAI's."""
    if model.startswith(("whisper", "gpt-4o-transcribe", "gpt-4o-mini-transcribe")):
        return operation in ("audio/transcriptions", "audio/translations")
    if model.startswith(("tts", "gpt-4o-mini-tts")):
        return operation == "audio/speech"
    if "realtime" in model:
        return operation == "realtime"
    if model.startswith(("gpt-image", "dall-e")):
        return operation.startswith("images/")
    if model.startswith("sora"):
        return operation == "videos"
    if model.startswith("text-embedding-"):
        return operation == "embeddings"
    if model.startswith("claude") or operation in CLAUDE:
        return model.startswith("claude") and operation in CLAUDE
    if "instruct" in model or model in ("davinci-002", "babbage-002"):
        return operation == "completions"
    if model.startswith("gpt-35-turbo"):
        return operation != "embeddings"
    if model.startswith(("gpt-", "o1", "o3", "o4-")):
        return operation == "chat/completions" or operation.partition("/")[0] == "responses"
    return True


@lru_cache(maxsize=256)
def reasons(model: str) -> bool:
    """Whether the model spends reasoning tokens before it answers."""
    return model.startswith(_REASONING)


@lru_cache(maxsize=256)
def context_length(model: str) -> int:
    """How many tokens the model's context holds."""
    return next((length for prefix, length in _CONTEXTS if model.startswith(prefix)), 128_000)


def dimensions(model: str) -> int:
    """The length of the model's embeddings, unless the request asks for a shorter one."""
    return _DIMENSIONS.get(model, 1536)
