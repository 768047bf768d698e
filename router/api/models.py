"""`GET /v1/models`: what can be served now, with the catalog's facts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
from litestar import Response, get
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath

from router.catalog.price import charged
from router.catalog.snapshot import CATEGORIES, Limits, Model, Offer, Policy, Price, Snapshot
from router.chat import CatalogSource
from router.errors import ModelNotAvailable
from router.routing.live import Measured
from router.routing.need import PREFIXES, unknown_model

_PUSD_PER_USD = 1_000_000_000_000
# OpenAI's list has a `created`; a catalog has none, and clients want a number.
_CREATED = 0
_PARAMETERS = ["max_tokens", "max_completion_tokens", "temperature", "top_p", "stop", "seed", "stream", "n"]
_FEATURE_PARAMETERS = {
    "tools": ["tools", "tool_choice", "parallel_tool_calls"],
    "json_schema": ["response_format", "structured_outputs"],
    "json_mode": ["response_format"],
    "reasoning": ["reasoning_effort"],
}


_Speeds = Mapping[tuple[str, str], Measured]


def model_routes(catalog: CatalogSource, measured: Callable[[], _Speeds]) -> list[HTTPRouteHandler]:
    """Return the handlers of the model routes; `measured` gives what was seen of each offer lately."""

    @get(["/v1/models", "/models"], sync_to_thread=False)
    def list_models() -> Response[bytes]:
        return _json({"object": "list", "data": served(catalog.current, measured())})

    @get(["/v1/models/{model_id:path}", "/models/{model_id:path}"], sync_to_thread=False)
    def one_model(model_id: FromPath[str]) -> Response[bytes]:
        name = model_id.lstrip("/")
        for prefix in PREFIXES:
            name = name.removeprefix(prefix)
        for entry in served(catalog.current, measured()):
            if entry["id"] == name:
                return _json(entry)
        model = catalog.current.models.get(name)
        raise unknown_model(name, catalog.current) if model is None else _not_available(model)

    return [list_models, one_model]


def _not_available(model: Model) -> ModelNotAvailable:
    ways = dict.fromkeys(offer.unusable for offer in model.offers if offer.unusable is not None)
    return ModelNotAvailable(
        f"The model {model.id} has no usable offer: {'; or '.join(ways)}.", param="model"
    )


def served(catalog: Snapshot, measured: _Speeds) -> list[dict[str, Any]]:
    """Return `auto`, the four categories, and each model with a usable offer."""
    usable = {
        model.id: [offer for offer in model.offers if offer.unusable is None]
        for model in catalog.models.values()
    }
    models = [model for model in catalog.models.values() if usable[model.id]]
    return [
        *(_named(name, models) for name in ("auto", *CATEGORIES)),
        *(_entry(model, usable[model.id], measured, catalog.policy) for model in models),
    ]


def _named(name: str, models: list[Model]) -> dict[str, Any]:
    """Describe a name that the router resolves: it can do what the models behind it can."""
    able = [m for m in models if name == "auto" or name in m.quality]
    kinds = sorted(frozenset().union(*(m.input for m in able))) if able else ["text"]
    return {
        "id": name,
        "object": "model",
        "created": _CREATED,
        "owned_by": "llm-router",
        "name": f"Router: {name}",
        "context_length": max((m.context for m in able), default=0),
        "max_output": max((m.max_output for m in able), default=0),
        "architecture": {"input_modalities": kinds, "output_modalities": ["text"]},
        "supported_parameters": _parameters(frozenset().union(*(m.features for m in able))),
        "pricing": None,
        "throughput": None,
        "limits": None,
    }


def _entry(model: Model, offers: list[Offer], measured: _Speeds, policy: Policy) -> dict[str, Any]:
    cheapest = cheapest_of(offers)
    return {
        "id": model.id,
        "object": "model",
        "created": _CREATED,
        "owned_by": model.id.partition("/")[0],
        "name": model.name,
        "context_length": max(offer.context for offer in offers),
        "max_output": max(offer.max_output for offer in offers),
        "architecture": {"input_modalities": sorted(model.input), "output_modalities": ["text"]},
        "supported_parameters": _parameters(frozenset().union(*(offer.features for offer in offers))),
        "pricing": _pricing(charged(cheapest, policy)),
        "throughput": {
            "prior": {"ttft_s": cheapest.ttft_s, "tok_s": cheapest.tok_s},
            "measured": _measured(measured.get(cheapest.key)),
        },
        "limits": _limits(cheapest.limits),
        "providers": [offer.provider for offer in offers],
        "quality": model.quality,
        "open_weights": model.open_weights,
    }


def cheapest_of(offers: Sequence[Offer]) -> Offer:
    """Return the offer whose price is shown for a model."""
    return min(offers, key=lambda offer: (offer.price.input + offer.price.output, offer.provider))


def _measured(seen: Measured | None) -> dict[str, float | None] | None:
    if seen is None or seen.ttft_s is None:
        return None
    return {"ttft_s": seen.ttft_s, "tok_s": seen.tok_s, "samples": seen.samples}


def _parameters(features: frozenset[str]) -> list[str]:
    extra = [name for feature in sorted(features) for name in _FEATURE_PARAMETERS.get(feature, [])]
    return list(dict.fromkeys([*_PARAMETERS, *extra]))


def _pricing(price: Price) -> dict[str, str]:
    """Return USD per token as decimal text, exact to the last pico-dollar."""
    return {
        "prompt": _usd(price.input),
        "completion": _usd(price.output),
        "input_cache_read": _usd(price.cache_read),
        "input_cache_write": _usd(price.cache_write),
    }


def _usd(pusd: int) -> str:
    whole, rest = divmod(pusd, _PUSD_PER_USD)
    return f"{whole}.{rest:012d}".rstrip("0").rstrip(".")


def _limits(limits: Limits) -> dict[str, int | None]:
    return {"concurrency": limits.concurrency, "rpm": limits.rpm, "tpm": limits.tpm}


def _json(value: Any) -> Response[bytes]:
    return Response(msgspec.json.encode(value), media_type="application/json")
