# /// script
# requires-python = ">=3.11"
# dependencies = ["openai==2.54.0"]
# [tool.uv]
# exclude-newer = "2026-11-16T00:00:00Z"
# ///
"""The OpenAI SDK of the line that uses httpx; the newest one is in tests/service."""

import json
import sys
from importlib.metadata import version

import openai
from pydantic import BaseModel

ask = json.loads(sys.argv[1])
TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": ask["tool_schema"]}}


class City(BaseModel):
    name: str
    people: int


def client(key=ask["key"], base_url=ask["base_url"]):
    return openai.OpenAI(base_url=base_url, api_key=key, max_retries=0, timeout=30)


def chat(sdk, content, **fields):
    messages = [{"role": "user", "content": content}]
    return sdk.chat.completions.create(**{"model": "auto", "messages": messages, **fields})


def refused(key=ask["key"], model="auto"):
    try:
        chat(client(key), "Say hello", model=model)
    except openai.APIStatusError as error:
        return [type(error).__name__, error.status_code]
    return None


sdk = client()
told = chat(sdk, "Say hello")
chunks = list(chat(sdk, "Say hello again", stream=True, stream_options={"include_usage": True}))
messages = [{"role": "user", "content": "Use get_weather"}]
first = sdk.chat.completions.create(model="auto", messages=messages, tools=[TOOL])
call = first.choices[0].message.tool_calls[0]
messages += [first.choices[0].message, {"role": "tool", "tool_call_id": call.id, "content": "sunny"}]
after = sdk.chat.completions.create(model="auto", messages=messages, tools=[TOOL])
image = [{"type": "text", "text": "Describe it"}, {"type": "image_url", "image_url": {"url": ask["image"]}}]
parsed = sdk.chat.completions.parse(
    model="auto", messages=[{"role": "user", "content": "A city"}], response_format=City
)
chat(client(ask["limited_key"]), "Say hello")
result = {
    "versions": {"openai": version("openai")},
    "chat": told.choices[0].message.content,
    "usage": [told.usage.prompt_tokens, told.usage.completion_tokens],
    "stream": "".join(c.choices[0].delta.content or "" for c in chunks if c.choices),
    "stream_usage": [chunks[-1].usage.prompt_tokens, chunks[-1].usage.completion_tokens],
    "tool": [call.function.name, json.loads(call.function.arguments), after.choices[0].message.content],
    "image": chat(sdk, image).choices[0].message.content,
    "json": json.loads(
        chat(sdk, "Say hello", response_format={"type": "json_object"}).choices[0].message.content
    ),
    "schema": parsed.choices[0].message.parsed.model_dump(),
    "bare": chat(client(base_url=ask["origin"]), "Say hello").choices[0].message.content,
    "errors": {
        "401": refused("sk-wrong"),
        "402": refused(ask["poor_key"]),
        "404": refused(model="no/such"),
        "429": refused(ask["limited_key"]),
    },
}
print(json.dumps(result))
