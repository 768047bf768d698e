"""What `router serve` prints before it is ready: the address, what it found, three things to copy."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from router import __version__
from router.catalog.snapshot import Snapshot
from router.running import is_demo, usable_offers
from router.settings import Settings

_WAYS_SHOWN = 3


def banner(settings: Settings, catalog: Snapshot, directory: Path, port: int) -> str:
    """Return the text; `port` is the one that is really listened on."""
    host = "127.0.0.1" if settings.host in ("0.0.0.0", "::") else settings.host  # noqa: S104 - compared only
    origin = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    key = "YOUR_KEY" if settings.asks_for_key else "unused"
    lines = [
        f"LLM router {__version__} on {origin}",
        "",
        *_found(settings, catalog, directory),
        "",
        "curl:",
        f"  curl {origin}/v1/chat/completions -H 'Content-Type: application/json'"
        + (f" -H 'Authorization: Bearer {key}'" if settings.asks_for_key else "")
        + """ -d '{"model": "auto", "messages": [{"role": "user", "content": "Say hello in French"}]}'""",
        "",
        "OpenAI SDK:",
        f'  client = OpenAI(base_url="{origin}/v1", api_key="{key}")   # then model="auto"',
        "",
        'OpenClaw, in openclaw.json (then set the primary model to "router/auto"):',
        f"  {openclaw_provider(origin, key)}",
        "",
        'Why a model was chosen: router explain "your prompt"',
        "",
    ]
    return "\n".join(lines)


def openclaw_provider(origin: str, key: str) -> str:
    """Return the provider block of OpenClaw's configuration."""
    return (
        f'"models": {{"providers": {{"router": {{"baseUrl": "{origin}/v1", "apiKey": "{key}", '
        '"api": "openai-completions", "models": [{"id": "auto", "name": "Router: auto", "reasoning": false, '
        '"input": ["text", "image"], "contextWindow": 128000, "maxTokens": 8192, '
        '"compat": {"supportsUsageInStreaming": true}}]}}}'
    )


def _found(settings: Settings, catalog: Snapshot, directory: Path) -> list[str]:
    described = [model for model in catalog.models.values() if not model.id.startswith("demo/")]
    offers = sum(len(model.offers) for model in described)
    usable = usable_offers(catalog)
    lines = [
        f"  catalog   {directory}: {len(described)} models, {offers} offers, revision {catalog.revision}"
    ]
    if is_demo(catalog):
        ways = _missing_keys(catalog)
        why = "asked for by --demo" if settings.demo else "no key and no local model server was found"
        lines.append(f"  demo      the built-in demo provider answers ({why})")
        lines.append(f"            for real models set {ways}, or start Ollama, and start again")
    elif usable:
        by_provider = Counter(offer.provider for offer in usable).most_common()
        lines.append("  usable    " + ", ".join(f"{name} ({count})" for name, count in by_provider))
    else:
        lines.append(f"  usable    nothing yet: set {_missing_keys(catalog)}, and start again")
    access = "an API key with credit is asked for (router keys create --name me --credit 5)"
    lines.append("  access    " + (access if settings.asks_for_key else "open: no API key is asked for"))
    if catalog.warnings:
        lines.append(f"  warnings  {len(catalog.warnings)} (router catalog check)")
    return lines


def _missing_keys(catalog: Snapshot) -> str:
    """Name the environment variables that would switch on the most offers."""
    counts = Counter(
        provider.key_env
        for model in catalog.models.values()
        for offer in model.offers
        if offer.unusable is not None and (provider := catalog.providers[offer.provider]).key_env is not None
    )
    names = [name for name, _ in counts.most_common(_WAYS_SHOWN) if name is not None]
    return " or ".join(names) or "a provider's key"
