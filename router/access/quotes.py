"""A quote on its way to a client and back: stateless, believed because it carries our own keyed hash."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re

from router.access.terms import Asked, Asset, Quote

_TOKEN = re.compile(r"([0-9]{1,12})\.([0-9A-Za-z_-]{0,64})\.([0-9A-Za-z_-]{43})", re.ASCII)
_DOMAIN = "llm-router x402 quote 1"


def amount_of(quote: Quote, asset: Asset) -> int:
    """Return what a quote asks in atomic units: rounded up, and at least one, since 0 buys nothing."""
    return max(1, asset.amount_up(quote.nusd))


def seal(quote: Quote, amount: int, asset: Asset, secret: bytes) -> str:
    """Return the token of a quote: `<expires_at>.<catalog>.<HMAC-SHA256>`; the same one for the same quote.

    The hash covers both, the amount, the token it is in, the request's body and how it is to be routed.
    """
    return f"{quote.expires_at}.{quote.catalog}.{_hash(quote, amount, asset, secret)}"


def unseal(token: str, amount: int, asset: Asset, asked: Asked, secret: bytes) -> Quote | None:
    """Return the quote that a token stands for, None unless it is ours, for this amount and this request."""
    match = _TOKEN.fullmatch(token)
    if match is None:
        return None
    quote = Quote(asset.nusd_up(amount), asked.body, asked.route, match[2], int(match[1]))
    ours = seal(quote, amount, asset, secret)
    return quote if hmac.compare_digest(token.encode(), ours.encode()) else None


def _hash(quote: Quote, amount: int, asset: Asset, secret: bytes) -> str:
    parts = (
        _DOMAIN,
        asset.network,
        asset.address.lower(),
        str(amount),
        quote.catalog,
        str(quote.expires_at),
        quote.body.hex(),
        quote.route.hex(),
    )
    digest = hmac.new(secret, "|".join(parts).encode(), hashlib.sha256).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
