"""The names that traces and metrics have for OpenTelemetry, in one table: they are still moving.

Source: opentelemetry.io/docs/specs/semconv/gen-ai (development status) and registry/attributes; what has no
name there begins with `router.`. There is none for text: no prompt and no answer is ever exported.
"""

from __future__ import annotations

from typing import Final

CHAT: Final = "chat"
DECIDE: Final = "decide"

OPERATION: Final = "gen_ai.operation.name"
PROVIDER: Final = "gen_ai.provider.name"
REQUEST_MODEL: Final = "gen_ai.request.model"
RESPONSE_MODEL: Final = "gen_ai.response.model"
STREAM: Final = "gen_ai.request.stream"
INPUT_TOKENS: Final = "gen_ai.usage.input_tokens"
OUTPUT_TOKENS: Final = "gen_ai.usage.output_tokens"
CACHED_TOKENS: Final = "gen_ai.usage.cache_read.input_tokens"
TOKEN_TYPE: Final = "gen_ai.token.type"  # noqa: S105 - no password
ERROR: Final = "error.type"
STATUS: Final = "http.response.status_code"
SERVER_ADDRESS: Final = "server.address"
SERVER_PORT: Final = "server.port"

REQUEST_ID: Final = "router.request.id"
OUTCOME: Final = "router.outcome"
CATEGORY: Final = "router.category"
CONFIDENCE: Final = "router.confidence"
MODE: Final = "router.mode"
REASON: Final = "router.reason"
CATALOG: Final = "router.catalog"
CANDIDATES: Final = "router.candidates"
ATTEMPTS: Final = "router.attempts"
PAYER: Final = "router.payer"
COST: Final = "router.cost_nusd"
UPSTREAM_COST: Final = "router.upstream_cost_nusd"
ESTIMATED: Final = "router.usage.estimated"

# Metrics: name, unit, meaning. The first four are histograms, the others counters.
SERVER_SECONDS: Final = ("gen_ai.server.request.duration", "s", "Whole time of a request")
FIRST_TOKEN_SECONDS: Final = (
    "gen_ai.server.time_to_first_token",
    "s",
    "Time to the first piece of the answer",
)
CLIENT_SECONDS: Final = ("gen_ai.client.operation.duration", "s", "Time of a call to an upstream")
TOKENS: Final = ("gen_ai.client.token.usage", "{token}", "Tokens of an answer")
CHARGED: Final = ("router.cost", "{nUSD}", "Charged to customers, nano-USD")
ASKED: Final = ("router.upstream.cost", "{nUSD}", "Asked by upstreams, nano-USD")
# As the conventions advise for each.
SECONDS_BOUNDS: Final = (
    0.01,
    0.02,
    0.04,
    0.08,
    0.16,
    0.32,
    0.64,
    1.28,
    2.56,
    5.12,
    10.24,
    20.48,
    40.96,
    81.92,
)
TOKENS_BOUNDS: Final = tuple(float(4**power) for power in range(14))
