"""Count money in integers: nano-USD in accounts and rows, pico-USD per token in prices.

1 USD = 1,000,000,000 nano-USD (nusd) = 1,000,000,000,000 pico-USD (pusd). No function takes or gives a float.
"""

from __future__ import annotations

import re
from decimal import Context, Decimal

NUSD_PER_USD = 1_000_000_000
MAX_NUSD = 2**63 - 1
"""The largest amount that a signed 64-bit column holds: about 9.2 billion USD."""

_USD = re.compile(r"[+-]?[0-9]{1,40}(\.[0-9]{1,40})?([eE][+-]?[0-9]{1,2})?", re.ASCII)
_EXACT = Context(prec=200)


def usd_to_nusd(text: str) -> int:
    """Return the nano-USD of a decimal number of USD such as "5", "-0.25" or "1e-7", exactly.

    Raises ValueError, with a message for the person who typed it, for anything that is not a plain decimal
    number, has a part smaller than a nano-USD, or is beyond what an account can hold.
    """
    if _USD.fullmatch(text) is None:
        raise ValueError(f"{text[:40]!r} is not an amount in USD: write a decimal number such as 5 or 0.25")
    nusd = Decimal(text).scaleb(9, _EXACT)
    whole = nusd.to_integral_value(context=_EXACT)
    if whole != nusd:
        raise ValueError(f"{text[:60]} USD is finer than a nano-dollar: use at most 9 decimals")
    if abs(whole) > MAX_NUSD:
        raise ValueError(f"{text[:60]} USD is beyond what an account can hold (9.2 billion USD)")
    return int(whole)


def credited(balance_nusd: int, amount_nusd: int) -> int:
    """Return a balance with a top-up. Raises ValueError for none, and for one that no account can hold."""
    if amount_nusd <= 0:
        raise ValueError("a top-up must be more than 0 USD")
    if balance_nusd + amount_nusd > MAX_NUSD:
        raise ValueError(
            f"{nusd_to_usd(amount_nusd)} USD more is beyond what an account can hold (9.2 billion USD);"
            f" it has {nusd_to_usd(balance_nusd)}"
        )
    return balance_nusd + amount_nusd


def nusd_to_usd(nusd: int) -> str:
    """Return nano-USD as the shortest exact decimal text in USD, never with an exponent.

    The text is a valid JSON number: "0", "12.5", "0.000123456", "-0.25".
    """
    digits = f"{abs(nusd):010d}"
    sign = "-" if nusd < 0 else ""
    return f"{sign}{digits[:-9]}.{digits[-9:]}".rstrip("0").removesuffix(".")
