# /// script
# requires-python = ">=3.11"
# dependencies = ["openai==2.54.0"]
# [tool.uv]
# exclude-newer = "2026-11-16T00:00:00Z"
# ///
"""The Responses API by the OpenAI SDK of the line that uses httpx; the newest one is in tests/service."""

import json
import sys
from importlib.metadata import version

import openai
from pydantic import BaseModel

ask = json.loads(sys.argv[1])
TOOL = {"type": "function", "name": "get_weather", "parameters": ask["tool_schema"], "strict": False}


class City(BaseModel):
    name: str
    people: int


def client(key=ask["key"], base_url=ask["base_url"]):
    return openai.OpenAI(base_url=base_url, api_key=key, max_retries=0, timeout=30)


def respond(sdk, said, **fields):
    return sdk.responses.create(**{"model": "auto", "input": said, **fields})


def refused(key=ask["key"], model="auto"):
    try:
        respond(client(key), "Say hello", model=model)
    except openai.APIStatusError as error:
        return [type(error).__name__, error.status_code]
    return None


def counts(response):
    return [response.usage.input_tokens, response.usage.output_tokens]


sdk = client()
told = respond(sdk, "Say hello")
with sdk.responses.stream(model="auto", input="Say hello again") as events:
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    streamed = events.get_final_response()
said = [{"role": "user", "content": "Use get_weather"}]
first = respond(sdk, said, tools=[TOOL])
call = next(item for item in first.output if item.type == "function_call")
said += [*first.output, {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}]
after = respond(sdk, said, tools=[TOOL])
image = [
    {"type": "input_text", "text": "Describe it"},
    {"type": "input_image", "image_url": ask["image"], "detail": "auto"},
]
parsed = sdk.responses.parse(model="auto", input="A city", text_format=City)
respond(client(ask["limited_key"]), "Say hello")
result = {
    "versions": {"openai": version("openai")},
    "chat": told.output_text,
    "usage": counts(told),
    "stream": "".join(deltas),
    "stream_usage": counts(streamed),
    "tool": [call.name, json.loads(call.arguments), after.output_text],
    "image": respond(sdk, [{"role": "user", "content": image}]).output_text,
    "json": json.loads(respond(sdk, "Say hello", text={"format": {"type": "json_object"}}).output_text),
    "schema": parsed.output_parsed.model_dump(),
    "bare": respond(client(base_url=ask["origin"]), "Say hello").output_text,
    "errors": {
        "401": refused("sk-wrong"),
        "402": refused(ask["poor_key"]),
        "404": refused(model="no/such"),
        "429": refused(ask["limited_key"]),
    },
}
print(json.dumps(result))
