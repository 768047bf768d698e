"""Why a payment is refused, in our own fixed words, and what they are called by facilitators.

The names on the left of the table are those of x402's published schemes; another's text is never repeated to
a client, written to a log or stored.
"""

from __future__ import annotations

from typing import Final

# What read() finds by itself.
OFFER_UNKNOWN: Final = "offer_unknown"
QUOTE_EXPIRED: Final = "quote_expired"
RECIPIENT: Final = "recipient_mismatch"
AMOUNT: Final = "amount_mismatch"
ASSET: Final = "asset_mismatch"
FACILITATOR: Final = "facilitator_mismatch"
SPENDER: Final = "spender_mismatch"
EARLY: Final = "authorization_not_yet_valid"
EXPIRED: Final = "authorization_expired"
LONG: Final = "authorization_lasts_too_long"
INSUFFICIENT: Final = "payment_insufficient"
METHOD: Final = "method_unsupported"
CHALLENGE: Final = "invalid_challenge"
REALM: Final = "realm_mismatch"
BODY: Final = "body_changed"
ROUTING: Final = "routing_changed"
TERMS: Final = "terms_changed"
PAYER: Final = "payer_mismatch"
NETWORK: Final = "network_mismatch"
NONCE: Final = "nonce_mismatch"
MEMO: Final = "memo_mismatch"
FEE_PAYER: Final = "fee_payer_unsupported"
SIGNER: Final = "signature_unsupported"
MORE: Final = "more_than_a_transfer"
# What only somebody else can say.
FUNDS: Final = "insufficient_funds"
SIGNATURE: Final = "signature_invalid"
USED: Final = "authorization_used"
ALLOWANCE: Final = "permit2_allowance_required"
SIMULATION: Final = "simulation_failed"
TRANSACTION: Final = "transaction_failed"
UNSUPPORTED: Final = "payment_unsupported"
INVALID: Final = "payment_invalid"
PENDING: Final = "settlement_pending"
NOT_FOUND: Final = "transaction_not_found"
TRANSACTION_REFUSED: Final = "transaction_refused"
TRANSFER: Final = "transfer_missing"

REASONS: Final = frozenset(
    {OFFER_UNKNOWN, QUOTE_EXPIRED, RECIPIENT, AMOUNT, ASSET, FACILITATOR, SPENDER, EARLY, EXPIRED, LONG}
    | {FUNDS, SIGNATURE, USED, ALLOWANCE, SIMULATION, TRANSACTION, UNSUPPORTED, INVALID, PENDING}
)
NEVER: Final = frozenset((RECIPIENT, AMOUNT, ASSET, FACILITATOR, SPENDER, SIGNATURE, UNSUPPORTED))
"""What a chain can never accept, whatever its state."""

_TOLD: Final = {
    "insufficient_funds": FUNDS,
    "invalid_exact_evm_insufficient_balance": FUNDS,
    "permit2_insufficient_balance": FUNDS,
    "invalid_exact_evm_payload_signature": SIGNATURE,
    "invalid_exact_evm_signature": SIGNATURE,
    "invalid_exact_evm_failed_to_verify_signature": SIGNATURE,
    "invalid_exact_evm_failed_to_parse_signature": SIGNATURE,
    "invalid_exact_evm_payload_undeployed_smart_wallet": SIGNATURE,
    "invalid_permit2_signature": SIGNATURE,
    "invalid_exact_evm_payload_recipient_mismatch": RECIPIENT,
    "invalid_exact_evm_recipient_mismatch": RECIPIENT,
    "invalid_permit2_recipient_mismatch": RECIPIENT,
    "invalid_permit2_spender": SPENDER,
    "invalid_exact_evm_payload_authorization_value_mismatch": AMOUNT,
    "invalid_exact_evm_payload_authorization_value": AMOUNT,
    "invalid_exact_evm_authorization_value": AMOUNT,
    "permit2_amount_mismatch": AMOUNT,
    "upto_amount_exceeds_permitted": AMOUNT,
    "invalid_upto_evm_payload_settlement_exceeds_amount": AMOUNT,
    "permit2_token_mismatch": ASSET,
    "upto_facilitator_mismatch": FACILITATOR,
    "upto_unauthorized_facilitator": FACILITATOR,
    "invalid_exact_evm_payload_authorization_valid_before": EXPIRED,
    "permit2_deadline_expired": EXPIRED,
    "invalid_exact_evm_payload_authorization_valid_after": EARLY,
    "permit2_not_yet_valid": EARLY,
    "permit2_payment_too_early": EARLY,
    "invalid_exact_evm_nonce_already_used": USED,
    "permit2_invalid_nonce": USED,
    "permit2_allowance_required": ALLOWANCE,
    "invalid_exact_evm_transaction_simulation_failed": SIMULATION,
    "permit2_simulation_failed": SIMULATION,
    "transaction_failed": TRANSACTION,
    "invalid_transaction_state": TRANSACTION,
    "invalid_exact_evm_transaction_failed": TRANSACTION,
    "invalid_upto_evm_transaction_failed": TRANSACTION,
    "network_mismatch": UNSUPPORTED,
    "invalid_network": UNSUPPORTED,
    "invalid_exact_evm_network_mismatch": UNSUPPORTED,
    "invalid_upto_evm_network_mismatch": UNSUPPORTED,
    "unsupported_scheme": UNSUPPORTED,
    "invalid_scheme": UNSUPPORTED,
    "invalid_exact_evm_scheme": UNSUPPORTED,
    "invalid_upto_evm_scheme": UNSUPPORTED,
    "unsupported_payload_type": UNSUPPORTED,
    "settlement_pending": PENDING,
}

# Mined without the transfer that was meant; and not mined yet.
_UNDECIDED: Final = frozenset(("invalid_exact_evm_transfer_event_mismatch", "settlement_pending"))


def known_reason(told: str | None) -> str:
    """Return our word for a facilitator's reason; `payment_invalid` for one that we do not know."""
    return _TOLD.get(told or "", INVALID)


def is_definite(told: str, transaction: str) -> bool:
    """Say whether a failed settlement with this reason surely moved nothing.

    What is not in the table may be an error on the way, with the transaction already sent; names that begin
    with `invalid_` speak of the payment itself. "The transaction failed" is sure of one that was mined and
    reverted, which has a hash; without one it may be the sending that failed, after it had been sent.
    """
    if told in _UNDECIDED:
        return False
    if known_reason(told) == TRANSACTION:
        return bool(transaction)
    return told in _TOLD or told.startswith("invalid_")
