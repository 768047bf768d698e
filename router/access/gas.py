"""x402's extension `eip2612GasSponsoring`: a payer without gas lets Permit2 take a token by a signature."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from router.access import reasons
from router.access.evm import GasPermit, Permit, fits_permit
from router.access.orders import GAS_SPONSORING
from router.access.terms import Refused

_HEX: Final = r"^0x[0-9a-fA-F]+$"
_NUMBER: Final = r"^[0-9]+$"
_FORMS: Final = {
    "from": _HEX,
    "asset": _HEX,
    "spender": _HEX,
    "amount": _NUMBER,
    "nonce": _NUMBER,
    "deadline": _NUMBER,
    "signature": _HEX,
    "version": r"^[0-9]+(\.[0-9]+)*$",
}

GAS_OFFER: Final[dict[str, Any]] = {
    GAS_SPONSORING: {
        "info": {"description": "An EIP-2612 permit for Permit2 is sent for you", "version": "1"},
        "schema": {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "type": "object",
            "properties": {name: {"type": "string", "pattern": form} for name, form in _FORMS.items()},
            "required": list(_FORMS),
        },
    }
}
"""The member of `extensions` that offers it."""


def gas_permit(
    extensions: dict[str, Any] | None, signed: Permit, *, now: float, room_s: float
) -> GasPermit | None:
    """Return the permit that came with a payment, None where none did: clients echo an offer they do not use.

    Raises msgspec.ValidationError for one that is not well formed, Refused for one that does not help.
    """
    told = (extensions or {}).get(GAS_SPONSORING)
    info = told.get("info") if isinstance(told, dict) else None
    if not isinstance(info, dict) or "signature" not in info:
        return None
    permit = msgspec.convert(info, GasPermit)
    if not fits_permit(permit, signed):
        raise Refused(reasons.ALLOWANCE)
    if int(permit.deadline) < now + room_s:
        raise Refused(reasons.EXPIRED)
    return permit
