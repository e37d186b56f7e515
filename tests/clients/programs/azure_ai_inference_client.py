"""Azure's own inference client, at the path of a deployment."""

import json
import sys

from azure.ai.inference import ChatCompletionsClient, EmbeddingsClient
from azure.ai.inference.models import (
    AssistantMessage,
    ChatCompletionsToolDefinition,
    FunctionDefinition,
    JsonSchemaFormat,
    ToolMessage,
    UserMessage,
)
from azure.core.credentials import AzureKeyCredential

url, key = sys.argv[1:]
VERSION = "2024-10-21"
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "inhabitants": {"type": "integer"}},
    "required": ["name", "inhabitants"],
    "additionalProperties": False,
}
WEATHER = ChatCompletionsToolDefinition(
    function=FunctionDefinition(
        name="weather",
        description="Tell the weather of a city.",
        parameters={"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    )
)


def client(kind, deployment: str):
    return kind(
        endpoint=f"{url}/openai/deployments/{deployment}",
        credential=AzureKeyCredential(key),
        api_version=VERSION,
        retry_total=0,
    )


chat = client(ChatCompletionsClient, "gpt-4o")
hello = [UserMessage("Say hello.")]
plain = chat.complete(messages=hello)
streamed = ""
for chunk in chat.complete(messages=hello, stream=True):
    if chunk.choices:
        streamed += chunk.choices[0].delta.content or ""
question = UserMessage("How is the weather in Oslo?")
asking = chat.complete(messages=[question], tools=[WEATHER]).choices[0].message
results = [ToolMessage("sunny", tool_call_id=call.id) for call in asking.tool_calls]
told = chat.complete(
    messages=[question, AssistantMessage(tool_calls=asking.tool_calls), *results], tools=[WEATHER]
)
city = chat.complete(
    messages=[UserMessage("Name a city.")],
    response_format=JsonSchemaFormat(name="City", schema=SCHEMA, strict=True),
)
vectors = client(EmbeddingsClient, "text-embedding-3-small").embed(input=["one", "two"])
print(
    json.dumps(
        {
            "chat": {
                "plain": plain.choices[0].message.content,
                "stream": streamed,
                "tool": told.choices[0].message.content,
                "called": len(asking.tool_calls),
                "structured": json.loads(city.choices[0].message.content),
            },
            "embeddings": [len(each.embedding) for each in vectors.data],
        }
    )
)
