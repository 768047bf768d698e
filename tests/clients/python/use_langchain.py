# /// script
# requires-python = ">=3.11"
# dependencies = ["langchain-openai==1.7.3"]
# [tool.uv]
# exclude-newer = "2026-11-16T00:00:00Z"
# ///
"""LangChain's ChatOpenAI."""

import json
import sys
from importlib.metadata import version

import openai
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel, SecretStr

ask = json.loads(sys.argv[1])


class City(BaseModel):
    """A city."""

    name: str
    people: int


@tool
def get_weather(city: str) -> str:
    """Weather of a city."""
    return "sunny"


def client(key=ask["key"], base_url=ask["base_url"], model="auto"):
    return ChatOpenAI(
        model=model, base_url=base_url, api_key=SecretStr(key), max_retries=0, timeout=30, stream_usage=True
    )


def refused(key=ask["key"], model="auto"):
    try:
        client(key, model=model).invoke("Say hello")
    except openai.APIStatusError as error:
        names = {base.__name__ for base in type(error).__mro__}
        status = {"AuthenticationError", "NotFoundError", "RateLimitError"} & names
        return [status.pop() if status else "APIStatusError", error.status_code]
    return None


sdk = client()
told = sdk.invoke("Say hello")
whole = None
for chunk in sdk.stream("Say hello again"):
    whole = chunk if whole is None else whole + chunk
with_tool = sdk.bind_tools([get_weather])
messages = [HumanMessage("Use get_weather")]
first = with_tool.invoke(messages)
call = first.tool_calls[0]
messages += [first, ToolMessage(get_weather.invoke(call["args"]), tool_call_id=call["id"])]
after = with_tool.invoke(messages)
image = HumanMessage(
    [{"type": "text", "text": "Describe it"}, {"type": "image_url", "image_url": {"url": ask["image"]}}]
)
as_json = sdk.bind(response_format={"type": "json_object"})
client(ask["limited_key"]).invoke("Say hello")
result = {
    "versions": {name: version(name) for name in ("langchain-openai", "openai")},
    "chat": told.content,
    "usage": [told.usage_metadata["input_tokens"], told.usage_metadata["output_tokens"]],
    "stream": whole.content,
    "stream_usage": [whole.usage_metadata["input_tokens"], whole.usage_metadata["output_tokens"]],
    "tool": [call["name"], call["args"], after.content],
    "image": sdk.invoke([image]).content,
    "json": json.loads(as_json.invoke("Say hello").content),
    "schema": sdk.with_structured_output(City).invoke("A city").model_dump(),
    "bare": client(base_url=ask["origin"]).invoke("Say hello").content,
    "errors": {
        "401": refused("sk-wrong"),
        "402": refused(ask["poor_key"]),
        "404": refused(model="no/such"),
        "429": refused(ask["limited_key"]),
    },
}
print(json.dumps(result))
