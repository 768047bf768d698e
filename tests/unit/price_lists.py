"""Small price lists in the forms of litellm and genai-prices."""

from __future__ import annotations

from typing import Any

CHAT = {"mode": "chat", "max_input_tokens": 131072, "max_output_tokens": 32768}
# litellm/model_prices_and_context_window_backup.json: fields and odd values as they occur there.
LITELLM: dict[str, Any] = {
    "sample_spec": {
        "litellm_provider": "one of https://docs.litellm.ai/docs/providers",
        "max_input_tokens": "max input tokens, if the provider specifies it. if not default to max_tokens",
        "mode": "one of: chat, embedding, completion",
        "input_cost_per_token": 0.0,
    },
    "groq/openai/gpt-oss-20b": {
        **CHAT,
        "litellm_provider": "groq",
        "input_cost_per_token": 7.5e-08,
        "output_cost_per_token": 3e-07,
        "cache_read_input_token_cost": 3.75e-08,
        "supports_function_calling": True,
        "supports_tool_choice": True,
        "supports_response_schema": True,
        "supports_reasoning": True,
    },
    "deepinfra/openai/gpt-oss-20b": {
        **CHAT,
        "max_output_tokens": 131072,
        "litellm_provider": "deepinfra",
        "input_cost_per_token": 3.0000000000000004e-08,
        "output_cost_per_token": 1.4e-07,
        "supports_function_calling": True,
    },
    "gemini/gemini-9-pro": {
        "litellm_provider": "gemini",
        "mode": "chat",
        "max_input_tokens": 1048576,
        "max_output_tokens": 65535,
        "input_cost_per_token": 2e-06,
        "output_cost_per_token": 1.2e-05,
        "cache_read_input_token_cost": 2e-07,
        "input_cost_per_token_above_200k_tokens": 4e-06,
        "output_cost_per_token_above_200k_tokens": 1.8e-05,
        "cache_read_input_token_cost_above_200k_tokens": 4e-07,
        "input_cost_per_token_batches": 1e-06,
        "supports_vision": True,
        "deprecation_date": "2027-06-01",
    },
    "dashscope/qwen-plus": {
        "litellm_provider": "dashscope",
        "mode": "chat",
        "max_input_tokens": 997952,
        "tiered_pricing": [
            {"input_cost_per_token": 4e-07, "output_cost_per_token": 1.2e-06, "range": [0, 256000.0]},
            {
                "input_cost_per_token": 1.2e-06,
                "output_cost_per_token": 3.6e-06,
                "range": [256000.0, 1000000.0],
            },
        ],
    },
    "dashscope/odd": {**CHAT, "litellm_provider": "dashscope", "tiered_pricing": [{"range": []}]},
    "fireworks_ai/accounts/fireworks/models/kimi": {
        **CHAT,
        "litellm_provider": "fireworks_ai",
        "input_cost_per_token": 6e-07,
        "output_cost_per_token": 2.5e-06,
        "cache_read_input_token_cost": 7e-07,
    },
    "gpt-old": {
        **CHAT,
        "litellm_provider": "openai",
        "input_cost_per_token": 1e-06,
        "output_cost_per_token": 2e-06,
        "deprecation_date": "2026-11-20",
    },
    "gpt-free": {
        **CHAT,
        "litellm_provider": "openai",
        "input_cost_per_token": 0.0,
        "output_cost_per_token": 0.0,
    },
    "gpt-image": {"litellm_provider": "openai", "mode": "image_generation", "output_cost_per_image": 0.04},
    "gpt-fine": {
        **CHAT,
        "litellm_provider": "openai",
        "input_cost_per_token": 1.23456789e-06,
        "output_cost_per_token": 2e-06,
    },
    "openai/gpt-boundless": {
        "litellm_provider": "openai",
        "mode": "chat",
        "input_cost_per_token": 1e-06,
        "output_cost_per_token": 2e-06,
    },
    "bedrock/x.y": {
        **CHAT,
        "litellm_provider": "bedrock",
        "input_cost_per_token": 1e-06,
        "output_cost_per_token": 2e-06,
    },
}
# prices/data.json of genai-prices.
GENAI: list[dict[str, Any]] = [
    {
        "id": "anthropic",
        "name": "Anthropic",
        "api_pattern": "https://api\\.anthropic\\.com",
        "models": [
            {
                "id": "claude-opus-4-6",
                "name": "Claude Opus 4.6",
                "match": {"starts_with": "claude-opus-4-6"},
                "context_window": 200000,
                "prices": [
                    {
                        "prices": {
                            "input_mtok": {"base": 5, "tiers": [{"start": 200000, "price": 10}]},
                            "output_mtok": {"base": 25, "tiers": [{"start": 200000, "price": 37.5}]},
                        }
                    },
                    {
                        "constraint": {"start_date": "2026-03-13"},
                        "prices": {"input_mtok": 5, "cache_read_mtok": 0.5, "output_mtok": 25},
                    },
                    {
                        "constraint": {"start_date": "2027-01-01"},
                        "prices": {"input_mtok": 4, "cache_read_mtok": 0.4, "output_mtok": 20},
                    },
                ],
            },
            {
                "id": "claude-haiku",
                "match": {"equals": "claude-haiku"},
                "context_window": 200000,
                "prices": [
                    {
                        "prices": {
                            "input_mtok": 1,
                            "output_mtok": {"base": 5, "tiers": [{"start": 9, "price": 6}]},
                        }
                    },
                    {
                        "constraint": {"start_time": "00:30:00Z", "end_time": "16:30:00Z"},
                        "prices": {"input_mtok": 2, "output_mtok": 10},
                    },
                ],
            },
            {
                "id": "claude-v1",
                "match": {"equals": "claude-v1"},
                "prices": {"input_mtok": 8, "output_mtok": 24},
            },
        ],
    }
]
# genai_prices/data.py of the same package, cut to what is read of it.
GENAI_TYPES = """
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
@dataclass
class ModelPrice:
    input_mtok: object = None
    output_mtok: object = None
    cache_read_mtok: object = None
@dataclass
class Tier:
    start: int
    price: Decimal
@dataclass
class TieredPrices:
    base: Decimal
    tiers: list
@dataclass
class StartDateConstraint:
    start_date: date
@dataclass
class ConditionalPrice:
    constraint: object = None
    prices: object = None
@dataclass
class ModelInfo:
    id: str
    name: str
    context_window: int
    prices: object
@dataclass
class Provider:
    id: str
    models: list
"""
GENAI_DATA = """
from datetime import date
from decimal import Decimal
from genai_prices.types import *
providers = [Provider(id="anthropic", models=[ModelInfo(id="claude-x", name="Claude X", context_window=200000,
    prices=[
        ConditionalPrice(prices=ModelPrice(
            input_mtok=TieredPrices(base=Decimal("0.0028"), tiers=[Tier(start=200000, price=Decimal("10"))]),
            output_mtok=Decimal("25"))),
        ConditionalPrice(constraint=StartDateConstraint(start_date=date(2027, 1, 1)),
            prices=ModelPrice(input_mtok=Decimal("4"), output_mtok=Decimal("20"))),
    ])])]
"""
