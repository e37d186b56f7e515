"""Instructor, in its modes: tools, JSON and JSON Schema."""

import json
import sys
from collections.abc import Iterable

import instructor
from openai import AzureOpenAI, OpenAI
from pydantic import BaseModel

url, key = sys.argv[1:]
ASK = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Name a city."}]}


class City(BaseModel):
    name: str
    inhabitants: int


def run(client, mode) -> dict:
    made = instructor.from_openai(client, mode=mode)
    one = made.chat.completions.create(response_model=City, max_retries=0, **ASK)
    parts = list(made.chat.completions.create_partial(response_model=City, max_retries=0, **ASK))
    several = made.chat.completions.create(response_model=Iterable[City], max_retries=0, **ASK)
    return {
        "structured": one.model_dump(),
        "stream": len(parts),
        "streamed": parts[-1].model_dump(),
        "several": [each.model_dump() for each in several],
    }


v1 = OpenAI(base_url=f"{url}/openai/v1/", api_key=key, max_retries=0)
azure = AzureOpenAI(azure_endpoint=url, api_version="2024-10-21", api_key=key, max_retries=0)
print(
    json.dumps(
        {
            "tools": run(v1, instructor.Mode.TOOLS),
            "json": run(azure, instructor.Mode.JSON),
        }
    )
)
