# /// script
# requires-python = ">=3.11"
# dependencies = ["llm==0.36"]
# [tool.uv]
# exclude-newer = "2026-11-16T00:00:00Z"
# ///
"""llm, with the files that `router init llm` wrote."""

import base64
import json
import sys
from importlib.metadata import version
from pathlib import Path

import llm
import openai
from pydantic import BaseModel

ask = json.loads(sys.argv[1])
extra = Path(ask["folder"], "extra-openai-models.yaml")
entry = extra.read_text()
missing = entry.replace("model_id: router/auto", "model_id: missing").replace(
    "model_name: auto", "model_name: no/such"
)
bare = entry.replace("model_id: router/auto", "model_id: bare").replace(ask["base_url"], ask["origin"])
extra.write_text(entry + (missing + bare).replace("  aliases: [router]\n", ""))


class City(BaseModel):
    """A city."""

    name: str
    people: int


called = []


def get_weather(city: str) -> str:
    """Weather of a city."""
    called.append(city)
    return "sunny"


def refused(key=None, name="router"):
    try:
        llm.get_model(name).prompt("Say hello", stream=False, key=key).text()
    except openai.APIStatusError as error:
        return [type(error).__name__, error.status_code]
    return None


def used(response):
    usage = response.usage()
    return [usage.input, usage.output]


model = llm.get_model("router")
told = model.prompt("Say hello", stream=False)
told.text()  # nothing is asked before
streamed = model.prompt("Say hello again", stream=True)
text = "".join(streamed)
after = model.chain("Use get_weather", tools=[get_weather], stream=False).text()
picture = llm.Attachment(type="image/png", content=base64.b64decode(ask["image"].partition(",")[2]))
result = {
    "versions": {name: version(name) for name in ("llm", "openai")},
    "chat": told.text(),
    "usage": used(told),
    "stream": text,
    "stream_usage": used(streamed),
    "tool": ["get_weather", {"city": called[0]}, after.removeprefix("Use get_weather") or "Use get_weather"],
    "image": model.prompt("Describe it", attachments=[picture], stream=False).text(),
    "json": json.loads(model.prompt("Say hello", json_object=True, stream=False).text()),
    "schema": json.loads(model.prompt("A city", schema=City, stream=False).text()),
    "bare": llm.get_model("bare").prompt("Say hello", stream=False).text(),
    "errors": {
        "401": refused("sk-wrong"),
        "402": refused(ask["poor_key"]),
        "404": refused(name="missing"),
    },
}
print(json.dumps(result))
