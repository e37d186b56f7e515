"""The OpenAI Agents SDK, on the Responses API and on chat completions."""

import asyncio
import json
import sys

from agents import (
    Agent,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    function_tool,
    set_tracing_disabled,
)
from openai import AsyncOpenAI
from pydantic import BaseModel

url, key = sys.argv[1:]
called = []


class City(BaseModel):
    name: str
    inhabitants: int


@function_tool
def weather(city: str) -> str:
    """Tell the weather of a city."""
    called.append(city)
    return "sunny"


async def run(model) -> dict:
    called.clear()
    plain = await Runner.run(Agent(name="a", model=model), "Say hello.")
    streamed = Runner.run_streamed(Agent(name="a", model=model), "Say hello.")
    text = ""
    async for event in streamed.stream_events():
        if event.type == "raw_response_event" and event.data.type == "response.output_text.delta":
            text += event.data.delta
    tool = await Runner.run(Agent(name="a", model=model, tools=[weather]), "How is the weather in Oslo?")
    city = await Runner.run(Agent(name="a", model=model, output_type=City), "Name a city.")
    return {
        "plain": plain.final_output,
        "stream": text,
        "tool": tool.final_output,
        "called": len(called),
        "structured": city.final_output.model_dump(),
    }


async def main() -> None:
    set_tracing_disabled(True)
    client = AsyncOpenAI(base_url=f"{url}/openai/v1/", api_key=key, max_retries=0)
    print(
        json.dumps(
            {
                "responses": await run(OpenAIResponsesModel("gpt-4o", client)),
                "chat": await run(OpenAIChatCompletionsModel("gpt-4o", client)),
            }
        )
    )


asyncio.run(main())
