"""Pydantic AI, on the Responses API and on chat completions."""

import asyncio
import json
import sys

from openai import AsyncAzureOpenAI
from pydantic import BaseModel
from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider

url, key = sys.argv[1:]


class City(BaseModel):
    name: str
    inhabitants: int


async def run(model) -> dict:
    called = []
    agent = Agent(model)
    plain = await agent.run("Say hello.")
    async with agent.run_stream("Say hello.") as streamed:
        text = "".join([piece async for piece in streamed.stream_text(delta=True)])
    helped = Agent(model)

    @helped.tool_plain
    def weather(city: str) -> str:
        """Tell the weather of a city."""
        called.append(city)
        return "sunny"

    tool = await helped.run("How is the weather in Oslo?")
    city = await Agent(model, output_type=City).run("Name a city.")
    return {
        "plain": plain.output,
        "stream": text,
        "tool": tool.output,
        "called": len(called),
        "structured": city.output.model_dump(),
    }


async def main() -> None:
    v1 = OpenAIProvider(base_url=f"{url}/openai/v1/", api_key=key)
    azure = AsyncAzureOpenAI(azure_endpoint=url, api_version="2024-10-21", api_key=key, max_retries=0)
    print(
        json.dumps(
            {
                "responses": await run(OpenAIResponsesModel("gpt-4o", provider=v1)),
                "chat": await run(OpenAIChatModel("gpt-4o", provider=OpenAIProvider(openai_client=azure))),
            }
        )
    )


asyncio.run(main())
