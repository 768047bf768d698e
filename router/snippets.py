"""What people copy to connect a client: one text a client, for the banner and for the pages."""

from __future__ import annotations

QUESTION = '{"model": "auto", "messages": [{"role": "user", "content": "Say hello in French"}]}'


def curl(origin: str, key: str | None) -> str:
    """Return a first request."""
    header = "" if key is None else f" \\\n  -H 'Authorization: Bearer {key}'"
    return (
        f"curl {origin}/v1/chat/completions{header} \\\n"
        f"  -H 'Content-Type: application/json' \\\n  -d '{QUESTION}'"
    )


def openai_sdk(origin: str, key: str) -> str:
    """Return a first program for OpenAI's Python SDK."""
    return (
        "from openai import OpenAI\n\n"
        f'client = OpenAI(base_url="{origin}/v1", api_key="{key}")\n'
        "answer = client.chat.completions.create(\n"
        '    model="auto", messages=[{"role": "user", "content": "Say hello in French"}]\n'
        ")\n"
        "print(answer.choices[0].message.content)"
    )


def openclaw_provider(origin: str, key: str) -> str:
    """Return the provider block of OpenClaw's configuration."""
    return (
        f'"models": {{"providers": {{"router": {{"baseUrl": "{origin}/v1", "apiKey": "{key}", '
        '"api": "openai-completions", "models": [{"id": "auto", "name": "Router: auto", "reasoning": false, '
        '"input": ["text", "image"], "contextWindow": 128000, "maxTokens": 8192, '
        '"compat": {"supportsUsageInStreaming": true}}]}}}'
    )


def openclaw(origin: str, key: str) -> str:
    """Return what makes the router OpenClaw's model, to be put into `openclaw.json`."""
    agents = '"agents": {"defaults": {"model": {"primary": "router/auto"}}}'
    return f"{{\n{openclaw_provider(origin, key)},\n{agents}\n}}"
