# /// script
# requires-python = ">=3.11"
# dependencies = ["pydantic-ai-slim[openai]==2.68.0"]
# [tool.uv]
# exclude-newer = "2026-11-16T00:00:00Z"
# ///
"""pydantic-ai's agents on OpenAI's chat completions."""

import asyncio
import base64
import json
import sys
from importlib.metadata import version

from openai import AsyncOpenAI
from pydantic import BaseModel
from pydantic_ai import Agent, BinaryContent, NativeOutput
from pydantic_ai.exceptions import ModelHTTPError
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

ask = json.loads(sys.argv[1])


class City(BaseModel):
    """A city."""

    name: str
    people: int


def model(key=ask["key"], base_url=ask["base_url"], name="auto"):
    sdk = AsyncOpenAI(base_url=base_url, api_key=key, max_retries=0, timeout=30)
    return OpenAIChatModel(name, provider=OpenAIProvider(openai_client=sdk))


async def refused(key=ask["key"], name="auto"):
    try:
        await Agent(model(key, name=name)).run("Say hello")
    except ModelHTTPError as error:
        return [type(error).__name__, error.status_code]
    return None


async def main():
    agent = Agent(model())
    told = await agent.run("Say hello")
    async with agent.run_stream("Say hello again") as streaming:
        streamed = await streaming.get_output()
    called = []
    worker = Agent(model())

    @worker.tool_plain
    def get_weather(city: str) -> str:
        """Weather of a city."""
        called.append(city)
        return "sunny"

    after = await worker.run("Use get_weather")
    picture = BinaryContent(base64.b64decode(ask["image"].partition(",")[2]), media_type="image/png")
    await Agent(model(ask["limited_key"])).run("Say hello")
    as_json = await agent.run(
        "Say hello", model_settings={"extra_body": {"response_format": {"type": "json_object"}}}
    )
    return {
        "versions": {name: version(name) for name in ("pydantic-ai-slim", "openai")},
        "chat": told.output,
        "usage": used(told),
        "stream": streamed,
        "stream_usage": used(streaming),
        "tool": ["get_weather", {"city": called[0]}, after.output],
        "image": (await agent.run(["Describe it", picture])).output,
        "json": json.loads(as_json.output),
        "schema": (await Agent(model(), output_type=NativeOutput(City)).run("A city")).output.model_dump(),
        "bare": (await Agent(model(base_url=ask["origin"])).run("Say hello")).output,
        "errors": {
            "401": await refused("sk-wrong"),
            "402": await refused(ask["poor_key"]),
            "404": await refused(name="no/such"),
            "429": await refused(ask["limited_key"]),
        },
    }


def used(run):
    usage = run.usage() if callable(run.usage) else run.usage
    return [usage.input_tokens, usage.output_tokens]


print(json.dumps(asyncio.run(main())))
