"""What a customer sees of their own: usage and budgets, the models they may use, the receipt of a request.

`/v1/usage` and `/v1/catalog` have the form that OpenClaw's bundled plugin `clawrouter` reads (in camel case),
with members of our own beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from litestar import Request, Response, get
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath

from router.access.bounds import can_be_id
from router.access.described import usd_number
from router.access.keys import Access, ApiKey, Caller, Keys, authorization_of
from router.api.models import cheapest_of, served
from router.api.private import private_json
from router.catalog.price import charged
from router.catalog.snapshot import CATEGORIES, Snapshot
from router.chat import CatalogSource
from router.errors import NotFound
from router.ledger.accounts import Account
from router.ledger.ledger import Ledger
from router.ledger.payments import PAYER, Payment
from router.ledger.receipts import Receipt, receipt

_NUSD_PER_MICRO = 1_000
_PROVIDER = "router"
_EFFORTS = ["low", "medium", "high"]
# Clients ask for as many output tokens as this says, and the whole of it is held before they are served.
_AUTO_OUTPUT_TOKENS = 8_192


def account_routes(
    keys: Keys,
    ledger: Ledger,
    catalog: CatalogSource,
    access: Access,
    now: Callable[[], datetime],
    *,
    anonymous: bool = False,
) -> list[HTTPRouteHandler]:
    """Return the handlers; they ask for a key where the chat routes do.

    With `anonymous` (wallets can pay here) the receipt of a payer's request is for anybody who has its id.
    """

    async def caller_of(request: Request[Any, Any, Any]) -> Caller:
        return await keys.identify(authorization_of(request.scope["headers"]), access)

    @get("/v1/usage")
    async def usage(request: Request[Any, Any, Any]) -> Response[bytes]:
        caller = await caller_of(request)
        return private_json(usage_document(caller, await ledger.account(caller.account), now()))

    @get("/v1/catalog")
    async def models(request: Request[Any, Any, Any]) -> Response[bytes]:
        caller = await caller_of(request)
        return private_json(catalog_document(caller.key, catalog.current))

    @get("/v1/receipts/{request_id:path}")
    async def one_receipt(request: Request[Any, Any, Any], request_id: FromPath[str]) -> Response[bytes]:
        wanted = request_id.removeprefix("/")
        known = can_be_id(wanted)
        found = None
        if anonymous and known and authorization_of(request.scope["headers"]) is None:
            found = await payer_receipt(ledger, wanted)
        if found is None:
            caller = await caller_of(request)
            found = receipt(await ledger.books.request_rows(caller.account, wanted)) if known else None
        if found is None:
            raise NotFound(
                f"This account has no request {wanted[:128]!r}; its id is the answer's x-request-id.",
                name="receipt_not_found",
            )
        return private_json(receipt_document(found, await ledger.payments.of_request(found.request_id)))

    return [usage, models, one_receipt]


async def payer_receipt(ledger: Ledger, request_id: str) -> Receipt | None:
    """Return the receipt of a wallet's request, by our own id alone: it is random, and told to the payer."""
    rows = await ledger.books.rows_of(request_id)
    if not rows or rows[0].kind != "hold" or not rows[0].account.startswith(PAYER):
        return None
    return receipt(await ledger.books.request_rows(rows[0].account, request_id))


def usage_document(caller: Caller, account: Account, now: datetime) -> dict[str, Any]:
    """Return what was spent and what is left; `account` holds the sums as of `now`.

    A key without any bound has no budget here. `budget` is the month's: what is left of it is also bounded
    by the credit.
    """
    spendable = account.spendable_nusd(require_credit=caller.require_credit)
    bounds = {
        "month": (account.budget_month_nusd, account.month_charged_nusd, _next_month(now)),
        "day": (account.budget_day_nusd, account.day_charged_nusd, _next_day(now)),
    }
    return {
        "object": "usage",
        "account": account.id,
        "key": None if caller.key is None else _key(caller.key),
        "balance_usd": usd_number(account.balance_nusd) if caller.require_credit else None,
        "held_usd": usd_number(account.held_nusd),
        "available_usd": usd_number(None if spendable is None else max(0, spendable)),
        "budgets": {
            name: None if limit is None else _budget(limit, spent, account.held_nusd, resets_at)
            for name, (limit, spent, resets_at) in bounds.items()
        },
        "budget": _plugin_budget(caller, account),
        "usage": {
            "summary": {
                "requestCount": account.requests,
                "totalTokens": account.prompt_tokens + account.completion_tokens,
                "promptTokens": account.prompt_tokens,
                "completionTokens": account.completion_tokens,
                "actualCostMicros": _micros_up(account.charged_nusd),
            }
        },
    }


def _plugin_budget(caller: Caller, account: Account) -> dict[str, Any]:
    spent, window = account.month_charged_nusd, account.month
    left = [account.available_nusd] if caller.require_credit else []
    if account.budget_month_nusd is not None:
        left.append(account.budget_month_nusd - spent - account.held_nusd)
    if not left and account.budget_day_nusd is not None:
        spent, window = account.day_charged_nusd, account.day
        left.append(account.budget_day_nusd - spent - account.held_nusd)
    if not left:
        return {
            "configured": False,
            "limitMicros": None,
            "spentMicros": _micros_up(spent),
            "remainingMicros": None,
            "windowKey": f"{account.id}/{window}",
        }
    spent_micros, left_micros = _micros_up(spent), max(0, min(left)) // _NUSD_PER_MICRO
    return {
        "configured": True,
        "limitMicros": spent_micros + left_micros,
        "spentMicros": spent_micros,
        "remainingMicros": left_micros,
        "windowKey": f"{account.id}/{window}",
    }


def catalog_document(key: ApiKey | None, catalog: Snapshot) -> dict[str, Any]:
    """Return the names that a key may ask for, as one provider that speaks OpenAI's chat completions."""
    entries = [
        _entry(entry, catalog)
        for entry in served(catalog, {})
        if key is None or entry["id"] in ("auto", *CATEGORIES) or key.allows(entry["id"])
    ]
    provider = {
        "id": _PROVIDER,
        "displayName": "LLM router",
        "openaiCompatible": True,
        "nativeBaseUrl": f"/v1/native/{_PROVIDER}",
        "routes": [],
        "models": entries,
    }
    return {"object": "catalog", "revision": catalog.revision, "providers": [provider]}


def _entry(model: Mapping[str, Any], catalog: Snapshot) -> dict[str, Any]:
    named = catalog.models.get(model["id"])
    offers = [offer for offer in named.offers if offer.unusable is None] if named is not None else []
    pricing: dict[str, Any] = {"maxInputTokens": model["context_length"]}
    if offers:
        # Pico-USD a token are micro-USD a million tokens.
        price = charged(cheapest_of(offers), catalog.policy)
        pricing |= {
            "defaultMaxOutputTokens": model["max_output"],
            "inputMicrosPerMillion": price.input,
            "outputMicrosPerMillion": price.output,
            "cachedInputMicrosPerMillion": price.cache_read,
        }
    else:  # what it costs is known when it is decided
        pricing["defaultMaxOutputTokens"] = min(_AUTO_OUTPUT_TOKENS, model["max_output"])
    entry = {
        "id": model["id"],
        "upstream": model["id"],
        "displayName": model["name"],
        "capabilities": ["llm.chat"],
        "input": model["architecture"]["input_modalities"],
        "pricing": pricing,
    }
    if "reasoning_effort" in model["supported_parameters"]:
        entry["supportedReasoningEfforts"] = _EFFORTS
    return entry


def receipt_document(found: Receipt, payment: Payment | None = None) -> dict[str, Any]:
    """Return a receipt as the customer sees it: what the upstream asks of the operator is not in it."""
    tokens = None
    if found.prompt_tokens is not None and found.completion_tokens is not None:
        tokens = found.prompt_tokens + found.completion_tokens
    return {
        "object": "receipt",
        "request_id": found.request_id,
        "client_request_id": found.client_request_id,
        "account": found.account,
        "status": found.status,
        "model": found.model,
        "provider": found.provider,
        "catalog": found.catalog,
        "prompt_tokens": found.prompt_tokens,
        "completion_tokens": found.completion_tokens,
        "total_tokens": tokens,
        "estimated": found.estimated,
        "holds": found.holds,
        "held_usd": usd_number(found.held_nusd),
        "charge_usd": usd_number(found.charge_nusd),
        "charge_nusd": found.charge_nusd,
        "idempotency_key": found.idempotency_key,
        "created_at": found.created_at,
        "ended_at": found.ended_at,
        "payment": None if payment is None else _payment(payment),
    }


def _payment(payment: Payment) -> dict[str, Any]:
    claim = payment.claim
    return {
        "protocol": claim.protocol,
        "scheme": claim.scheme,
        "state": payment.state,
        "network": claim.network,
        "asset": claim.asset,
        "payer": claim.payer,
        "pay_to": claim.pay_to,
        "amount": str(claim.amount),  # atomic units are beyond what a JSON number keeps
        "taken": None if payment.taken is None else str(payment.taken),
        "amount_usd": usd_number(payment.amount_nusd),
        "taken_usd": usd_number(payment.taken_nusd),
        "metered_usd": usd_number(payment.metered_nusd),
        "transaction": payment.transaction,
    }


def _key(key: ApiKey) -> dict[str, Any]:
    return {
        "name": key.name,
        "hint": key.hint,
        "models": key.models,
        "concurrency": key.limits.concurrency,
        "rpm": key.limits.rpm,
        "tpm": key.limits.tpm,
        "expires_at": key.expires_at,
    }


def _budget(limit: int, spent: int, held: int, resets_at: str) -> dict[str, Any]:
    return {
        "limit_usd": usd_number(limit),
        "spent_usd": usd_number(spent),
        "remaining_usd": usd_number(max(0, limit - spent - held)),
        "resets_at": resets_at,
    }


def _micros_up(nusd: int) -> int:
    return -(-nusd // _NUSD_PER_MICRO)


def _next_day(now: datetime) -> str:
    return _midnight(now.astimezone(UTC) + timedelta(days=1))


def _next_month(now: datetime) -> str:
    return _midnight((now.astimezone(UTC).replace(day=1) + timedelta(days=32)).replace(day=1))


def _midnight(day: datetime) -> str:
    return f"{day:%Y-%m-%d}T00:00:00.000Z"
