# /// script
# requires-python = ">=3.11"
# dependencies = ["litellm==1.106.2", "mcp"]
# [tool.uv]
# exclude-newer = "2026-11-16T00:00:00Z"
# ///
"""The LiteLLM client, with the router as an OpenAI-compatible endpoint."""

import json
import sys
from importlib.metadata import version

import litellm
import openai
from pydantic import BaseModel

ask = json.loads(sys.argv[1])
litellm.suppress_debug_info = True
TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": ask["tool_schema"]}}


class City(BaseModel):
    name: str
    people: int


def chat(content, key=ask["key"], base_url=ask["base_url"], model="auto", **fields):
    messages = content if isinstance(content, list) else [{"role": "user", "content": content}]
    return litellm.completion(
        model=f"openai/{model}",
        api_base=base_url,
        api_key=key,
        messages=messages,
        num_retries=0,
        max_retries=0,
        timeout=30,
        **fields,
    )


def refused(key=ask["key"], model="auto"):
    try:
        chat("Say hello", key, model=model)
    except openai.APIError as error:  # LiteLLM raises its own kinds of these
        return [type(error).__name__, error.status_code]
    return None


told = chat("Say hello")
chunks = list(chat("Say hello again", stream=True, stream_options={"include_usage": True}))
messages = [{"role": "user", "content": "Use get_weather"}]
first = chat(messages, tools=[TOOL])
call = first.choices[0].message.tool_calls[0]
messages += [
    first.choices[0].message.model_dump(),
    {"role": "tool", "tool_call_id": call.id, "content": "sunny"},
]
after = chat(messages, tools=[TOOL])
image = [{"type": "text", "text": "Describe it"}, {"type": "image_url", "image_url": {"url": ask["image"]}}]
schema = {"type": "json_schema", "json_schema": {"name": "City", "schema": City.model_json_schema()}}
chat("Say hello", ask["limited_key"])
usage = [c.usage for c in chunks if getattr(c, "usage", None)][-1]
result = {
    "versions": {"litellm": version("litellm")},
    "chat": told.choices[0].message.content,
    "usage": [told.usage.prompt_tokens, told.usage.completion_tokens],
    "stream": "".join(c.choices[0].delta.content or "" for c in chunks if c.choices),
    "stream_usage": [usage.prompt_tokens, usage.completion_tokens],
    "tool": [call.function.name, json.loads(call.function.arguments), after.choices[0].message.content],
    "image": chat([{"role": "user", "content": image}]).choices[0].message.content,
    "json": json.loads(chat("Say hello", response_format={"type": "json_object"}).choices[0].message.content),
    "schema": City.model_validate_json(
        chat("A city", response_format=schema).choices[0].message.content
    ).model_dump(),
    "bare": chat("Say hello", base_url=ask["origin"]).choices[0].message.content,
    "errors": {
        "401": refused("sk-wrong"),
        "402": refused(ask["poor_key"]),
        "404": refused(model="no/such"),
        "429": refused(ask["limited_key"]),
    },
}
print(json.dumps(result))
