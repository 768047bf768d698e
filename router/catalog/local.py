"""Model servers on this machine: the ports they are known by, and the models they name."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from router.catalog.snapshot import Limits, Model, Offer, Price, Provider

LOCAL_PORTS: Mapping[int, str] = {11434: "Ollama", 1234: "LM Studio", 8000: "vLLM", 8080: "llama.cpp"}
DISCOVERED_CONTEXT_TOKENS = 8_192
DEFAULT_TTFT_S = 1.5
DEFAULT_TOK_S = 60.0


@dataclass(frozen=True, slots=True)
class LocalServer:
    """Hold what a server on this machine said: model id -> its context in tokens, None where not said."""

    models: Mapping[str, int | None]

    def serves(self, model: str) -> bool:
        """Say whether the server has the model; Ollama lists "llama3.3" as "llama3.3:latest"."""
        return model in self.models or f"{model}:latest" in self.models


def local_program(provider: Provider, ports: Mapping[int, str] = LOCAL_PORTS) -> str | None:
    """Name the program that should listen at a keyless loopback provider; None for all other providers."""
    if provider.key_env is not None:
        return None
    url = urlsplit(provider.base_url)
    return ports.get(url.port or 80) if is_loopback(url.hostname or "") else None


def is_loopback(host: str) -> bool:
    """Say whether a host of a base_url is this machine, without asking a name server."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def discovered_models(
    providers: Iterable[Provider], known: Mapping[str, Model], local: Mapping[str, LocalServer]
) -> list[Model]:
    """Return a model for everything a local server lists that no offer of that provider names."""
    named = {offer.key for model in known.values() for offer in model.offers}
    found: dict[str, Model] = {}
    for provider in providers:
        server = local.get(provider.name)
        for upstream, context in sorted(server.models.items()) if server else ():
            # Ollama and LM Studio list embedding models too; they cannot chat.
            if "embed" in upstream.lower() or _is_named(provider.name, upstream, named):
                continue
            model = _discovered(provider, upstream, context or DISCOVERED_CONTEXT_TOKENS)
            if model.id not in known:
                found.setdefault(model.id, model)
    return list(found.values())


def _is_named(provider: str, upstream: str, named: set[tuple[str, str]]) -> bool:
    return (provider, upstream) in named or (provider, upstream.removesuffix(":latest")) in named


def _discovered(provider: Provider, upstream: str, context: int) -> Model:
    model_id = f"{provider.name}/" + re.sub(r"[^a-z0-9._:/-]+", "-", upstream.lower()).strip("/-")
    text: frozenset[str] = frozenset({"text"})
    features: frozenset[str] = frozenset({"tools", "json_mode"})
    offer = Offer(
        model=model_id,
        provider=provider.name,
        upstream_model=upstream,
        price=Price(0, 0, 0, 0),
        when=(),
        charge=None,
        context=context,
        max_output=context,
        input=text,
        features=features,
        ttft_s=DEFAULT_TTFT_S,
        tok_s=DEFAULT_TOK_S,
        limits=Limits(),
        free=True,
        unusable=None,
        price_as_of=None,
        local=True,
    )
    return Model(
        id=model_id,
        name=f"{upstream} ({provider.title})",
        open_weights=True,
        context=context,
        max_output=context,
        input=text,
        features=features,
        retires=None,
        quality={},
        offers=(offer,),
        file="",
        discovered=True,
    )
