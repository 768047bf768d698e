"""What the outcomes of requests mean, in a few words; their names are those of errors, for programs."""

from __future__ import annotations

from router.history.record import group_of

_MEANINGS = {
    "ok": "answered in full",
    "replayed": "answered from what was kept for its Idempotency-Key",
    "client_gone": "the client went before the end",
    "interrupted": "the service ended while it ran",
    "cut": "the answer broke off at the upstream",
    "internal_error": "something of the router broke; its log says what",
    "invalid_request": "the request itself is wrong",
    "no_offer_fits": "no offer of the catalog can serve it",
    "invalid_api_key": "no key, or one that is unknown, expired or revoked",
    "insufficient_credits": "the key's credit does not cover it",
    "budget_exceeded": "the key's budget of the day or month is used up",
    "payment_required": "asked to pay by wallet",
    "payment_refused": "the wallet's payment was refused",
    "payment_replayed": "the wallet's signature was used before",
    "payments_unavailable": "payments could not be checked",
    "settlement_unknown": "nobody could say whether a payment went through",
    "foreign_origin": "another site's page asked without a key",
    "not_found": "no such route or thing",
    "model_not_found": "the catalog does not know the model",
    "model_not_available": "no offer of the model can be used here",
    "method_not_allowed": "the route has no such method",
    "idempotency_key_in_use": "the first of two equal requests still ran",
    "idempotency_key_reused": "an Idempotency-Key with another body",
    "request_too_large": "the body is over the limit",
    "models_at_limit": "every fitting model was at its limit",
    "rate_limit_exceeded": "the key's or wallet's own limit",
    "upstream_refused": "the upstream says that the request is wrong",
    "upstream_error": "every offer that was tried failed",
    "upstream_rate_limited": "the provider refused more requests",
    "upstream_timeout": "the upstream did not answer in time",
    "upstream_unavailable": "every fitting offer rested after failures",
    "unavailable": "every fitting offer was unhealthy, or storage was away",
    "storage_unavailable": "the ledger's database was away",
}
_OF_GROUP = {"refused": "the request was refused, by this name", "failed": "it failed, by this name"}


def meaning(outcome: str) -> str:
    """Say what an outcome means; a name that an upstream gave to its refusal is said to be one."""
    return _MEANINGS.get(outcome) or _OF_GROUP.get(group_of(outcome), "")
