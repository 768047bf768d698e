"""What `router serve` prints before it is ready: the address, what it found, three things to copy."""

from __future__ import annotations

import json
from collections import Counter
from datetime import datetime
from pathlib import Path
from urllib.parse import urlsplit

from router import __version__
from router.access.wallet import NETWORKS
from router.address import origin_at
from router.catalog.snapshot import Snapshot
from router.running import buys, is_demo, usable_offers
from router.settings import Settings
from router.snippets import openclaw_provider

_WAYS_SHOWN = 3
_Found = list[tuple[str, str]]
"""Words, and what was found of each; an empty word goes on with the one before."""


def banner(settings: Settings, catalog: Snapshot, directory: Path, port: int) -> str:
    """Return the text; `port` is the one that is really listened on."""
    copied = _copied(settings, port)
    lines = [
        _title(settings, port),
        "",
        *(f"  {word:<10}{text}" for word, text in _found(settings, catalog, directory)),
        "",
        "curl:",
        f"  {copied['curl']}",
        "",
        "OpenAI SDK:",
        f'  {copied["openai"]}   # then model="auto"',
        "",
        'OpenClaw, in openclaw.json (then set the primary model to "router/auto"):',
        f"  {copied['openclaw']}",
        "",
        'Why a model was chosen: router explain "your prompt"',
        "",
    ]
    return "\n".join(lines)


def banner_line(settings: Settings, catalog: Snapshot, directory: Path, port: int, at: datetime) -> str:
    """Return the same as one line of a JSON log."""
    found: dict[str, str] = {}
    for word, text in _found(settings, catalog, directory):
        last = word or next(reversed(found))
        found[last] = text if word else f"{found[last]}; {text}"
    head = {"at": f"{at:%Y-%m-%dT%H:%M:%SZ}", "level": "info", "logger": "router.serve"}
    line = {**head, "message": _title(settings, port), **found, **_copied(settings, port)}
    return json.dumps(line, ensure_ascii=False).encode("utf-8", "backslashreplace").decode()


def _title(settings: Settings, port: int) -> str:
    return f"LLM router {__version__} on {origin_at(settings.host, port)}"


def _copied(settings: Settings, port: int) -> dict[str, str]:
    """Return three things to copy."""
    origin = origin_at(settings.host, port)
    key = "YOUR_KEY" if settings.asks_for_key else "unused"
    return {
        "curl": f"curl {origin}/v1/chat/completions -H 'Content-Type: application/json'"
        + (f" -H 'Authorization: Bearer {key}'" if settings.asks_for_key else "")
        + """ -d '{"model": "auto", "messages": [{"role": "user", "content": "Say hello in French"}]}'""",
        "openai": f'client = OpenAI(base_url="{origin}/v1", api_key="{key}")',
        "openclaw": openclaw_provider(origin, key),
    }


def _found(settings: Settings, catalog: Snapshot, directory: Path) -> _Found:
    described = [model for model in catalog.models.values() if not model.id.startswith("demo/")]
    offers = sum(len(model.offers) for model in described)
    usable = usable_offers(catalog)
    found = [
        ("catalog", f"{directory}: {len(described)} models, {offers} offers, revision {catalog.revision}")
    ]
    if is_demo(catalog):
        ways = _missing_keys(catalog)
        why = "asked for by --demo" if settings.demo else "no key and no local model server was found"
        found.append(("demo", f"the built-in demo provider answers ({why})"))
        found.append(("", f"for real models set {ways}, or start Ollama, and start again"))
    elif usable:
        by_provider = Counter(offer.provider for offer in usable).most_common()
        found.append(("usable", ", ".join(f"{name} ({count})" for name, count in by_provider)))
    else:
        found.append(("usable", f"nothing yet: set {_missing_keys(catalog)}, and start again"))
    found += [("access", _access(settings)), *_selling(settings)]
    if settings.keep_prompts and settings.history_requests:
        found.append(("privacy", "prompts and answers are kept for the operator (ROUTER_KEEP_PROMPTS)"))
    if buys(catalog):
        found.append(("wallet", _buying(settings, catalog)))
    if catalog.warnings:
        found.append(("warnings", f"{len(catalog.warnings)} (router catalog check)"))
    return found


def _access(settings: Settings) -> str:
    if not settings.asks_for_key:
        unasked = ", and no payment: only ROUTER_ACCESS=paid makes wallets pay" if settings.sells else ""
        return f"open: no API key is asked for{unasked}"
    wallet = ", or a wallet payment" if settings.sells else ""
    make = "router keys create --name me --credit 5"
    return f"paid: an API key with credit is asked for ({make}){wallet}"


def _selling(settings: Settings) -> _Found:
    """Say who can pay how, and whom: a line a protocol."""
    found: _Found = []
    if settings.x402_pay_to is not None:
        schemes = " and ".join(settings.x402_schemes)
        said = (
            f"{schemes} on {_network(settings.x402_network)} to {_short(settings.x402_pay_to)},"
            f" settled by {urlsplit(settings.x402_facilitator or '').hostname}"
        )
        found.append(("x402", said))
    if settings.mpp_secret is not None:
        networks = {
            "evm": _network(settings.x402_network),
            "tempo": f"Tempo ({settings.mpp_tempo_chain_id})",
        }
        ways = [f"{method}/charge on {networks[method]}" for method in settings.usable_mpp_methods]
        pay_to = _short(settings.mpp_pay_to or settings.x402_pay_to or "")
        found.append(("mpp", f"{' and '.join(ways)} to {pay_to}, realm {settings.mpp_realm}"))
    return found


def _buying(settings: Settings, catalog: Snapshot) -> str:
    paid = sorted(
        {
            provider.name
            for offer in usable_offers(catalog)
            if (provider := catalog.providers[offer.provider]).pays in ("x402", "mpp")
        }
    )
    return (
        f"pays {', '.join(paid)}, at most {settings.wallet_cap_request_usd:f} USD a request and"
        f" {settings.wallet_cap_day_usd:f} USD a day (router wallet)"
    )


def _network(network: str) -> str:
    name = NETWORKS.get(network)
    return network if name is None else f"{name} ({network})"


def _short(address: str) -> str:
    return f"{address[:6]}...{address[-4:]}"


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
