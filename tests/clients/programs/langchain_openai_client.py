"""LangChain, as AzureChatOpenAI and as ChatOpenAI on the Responses API, and its embeddings."""

import json
import sys

from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import AzureChatOpenAI, ChatOpenAI, OpenAIEmbeddings
from pydantic import BaseModel

url, key = sys.argv[1:]


class City(BaseModel):
    name: str
    inhabitants: int


@tool
def weather(city: str) -> str:
    """Tell the weather of a city."""
    return "sunny"


def text_of(message) -> str:
    return message.text if isinstance(message.text, str) else message.text()


def run(model) -> dict:
    plain = model.invoke("Say hello.")
    streamed = "".join(text_of(chunk) for chunk in model.stream("Say hello."))
    question = HumanMessage("How is the weather in Oslo?")
    asking = model.bind_tools([weather]).invoke([question])
    results = [
        ToolMessage(weather.invoke(call["args"]), tool_call_id=call["id"]) for call in asking.tool_calls
    ]
    tooled = model.bind_tools([weather]).invoke([question, asking, *results])
    return {
        "plain": text_of(plain),
        "stream": streamed,
        "tool": text_of(tooled),
        "called": len(asking.tool_calls),
        "structured": model.with_structured_output(City).invoke("Name a city.").model_dump(),
        "usage": plain.usage_metadata["total_tokens"],
    }


azure = AzureChatOpenAI(
    azure_endpoint=url, api_version="2024-10-21", api_key=key, azure_deployment="gpt-4o", max_retries=0
)
v1 = ChatOpenAI(
    base_url=f"{url}/openai/v1/", api_key=key, model="gpt-4o", max_retries=0, use_responses_api=True
)
vectors = OpenAIEmbeddings(
    base_url=f"{url}/openai/v1/",
    api_key=key,
    model="text-embedding-3-small",
    max_retries=0,
    check_embedding_ctx_length=False,  # or it downloads an encoding
)
print(
    json.dumps(
        {
            "chat": run(azure),
            "responses": run(v1),
            "embeddings": [len(each) for each in vectors.embed_documents(["one", "two"])],
        }
    )
)
