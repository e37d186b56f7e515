"""LiteLLM as a library: as Azure, as OpenAI, and as Anthropic, each translated to and from its own form."""

import json
import os
import sys

# Else it asks GitHub for both, and waits.
os.environ |= {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOCAL_ANTHROPIC_BETA_HEADERS": "True"}

import litellm
from pydantic import BaseModel

url, key = sys.argv[1:]
HELLO = [{"role": "user", "content": "Say hello."}]
QUESTION = {"role": "user", "content": "How is the weather in Oslo?"}
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tell the weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
V1 = f"{url}/openai/v1"


class City(BaseModel):
    name: str
    inhabitants: int


def run(provider: str, model: str, base: str) -> dict:
    def ask(messages: list, **more):
        return litellm.completion(
            model=f"{provider}/{model}",
            messages=messages,
            api_base=base,
            api_key=key,
            api_version="2024-10-21" if provider == "azure" else None,
            num_retries=0,
            max_retries=0,
            **more,
        )

    def message(*messages: dict, **more):
        return ask([*messages], **more).choices[0].message

    chunks = list(ask(HELLO, stream=True, stream_options={"include_usage": True}))
    plain = ask(HELLO)
    asking = message(QUESTION, tools=[WEATHER])
    results = [
        {"role": "tool", "tool_call_id": call.id, "content": "sunny"} for call in asking.tool_calls or ()
    ]
    told = message(QUESTION, asking.model_dump(), *results, tools=[WEATHER])
    assert chunks[-1].usage.total_tokens == plain.usage.total_tokens
    return {
        "plain": plain.choices[0].message.content,
        "stream": "".join(each.choices[0].delta.content or "" for each in chunks if each.choices),
        "tool": told.content,
        "called": len(results),
        "structured": json.loads(message(*HELLO, response_format=City).content),
    }


def vectors(provider: str, base: str) -> list[int]:
    made = litellm.embedding(
        model=f"{provider}/text-embedding-3-small",
        input=["one", "two"],
        api_base=base,
        api_key=key,
        api_version="2024-10-21" if provider == "azure" else None,
    )
    return [len(each["embedding"]) for each in made.data]


print(
    json.dumps(
        {
            "azure": run("azure", "gpt-4o", url),
            "openai": run("openai", "gpt-4o", V1),
            "anthropic": run("anthropic", "claude-sonnet-5", f"{url}/anthropic"),
            "embeddings": vectors("azure", url),
        }
    )
)
