# /// script
# requires-python = ">=3.11"
# dependencies = ["openai-agents==0.24.0"]
# [tool.uv]
# exclude-newer = "2026-11-16T00:00:00Z"
# ///
"""OpenAI's Agents SDK, which speaks the Responses API."""

import asyncio
import json
import sys
from importlib.metadata import version

import openai
from agents import Agent, ModelSettings, OpenAIResponsesModel, Runner, function_tool, set_tracing_disabled
from pydantic import BaseModel

ask = json.loads(sys.argv[1])
set_tracing_disabled(True)
called = []


class City(BaseModel):
    """A city."""

    name: str
    people: int


@function_tool
def get_weather(city: str) -> str:
    """Weather of a city."""
    called.append(city)
    return "sunny"


def agent(key=ask["key"], base_url=ask["base_url"], name="auto", **more):
    sdk = openai.AsyncOpenAI(base_url=base_url, api_key=key, max_retries=0, timeout=30)
    return Agent(name="tested", model=OpenAIResponsesModel(name, sdk), **more)


async def refused(key=ask["key"], name="auto"):
    try:
        await Runner.run(agent(key, name=name), "Say hello")
    except openai.APIStatusError as error:
        return [type(error).__name__, error.status_code]
    return None


def counts(run):
    return [run.context_wrapper.usage.input_tokens, run.context_wrapper.usage.output_tokens]


async def main():
    told = await Runner.run(agent(), "Say hello")
    streaming = Runner.run_streamed(agent(), "Say hello again")
    deltas = [
        event.data.delta
        async for event in streaming.stream_events()
        if event.type == "raw_response_event" and event.data.type == "response.output_text.delta"
    ]
    after = await Runner.run(agent(tools=[get_weather]), "Use get_weather")
    image = [
        {"type": "input_text", "text": "Describe it"},
        {"type": "input_image", "image_url": ask["image"], "detail": "auto"},
    ]
    seen = await Runner.run(agent(), [{"role": "user", "content": image}])
    free = ModelSettings(extra_body={"text": {"format": {"type": "json_object"}}})
    made = await Runner.run(agent(output_type=City), "A city")
    await Runner.run(agent(ask["limited_key"]), "Say hello")
    return {
        "versions": {name: version(name) for name in ("openai-agents", "openai")},
        "chat": told.final_output,
        "usage": counts(told),
        "stream": "".join(deltas),
        "stream_usage": counts(streaming),
        "tool": ["get_weather", {"city": called[0]}, after.final_output],
        "image": seen.final_output,
        "json": json.loads((await Runner.run(agent(model_settings=free), "Say hello")).final_output),
        "schema": made.final_output.model_dump(),
        "bare": (await Runner.run(agent(base_url=ask["origin"]), "Say hello")).final_output,
        "errors": {
            "401": await refused("sk-wrong"),
            "402": await refused(ask["poor_key"]),
            "404": await refused(name="no/such"),
            "429": await refused(ask["limited_key"]),
        },
    }


print(json.dumps(asyncio.run(main())))
