"""How pages write figures: money, counts, times; exact amounts stay in the tooltip."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from decimal import Decimal

from markupsafe import Markup

from router.ledger.money import NUSD_PER_USD, nusd_to_usd

MINUS = "\N{MINUS SIGN}"


def usd(nusd: int | None) -> str:
    """Write nano-USD for the eye: cents above a dollar, else the digits that say something."""
    if nusd is None:
        return "–"
    sign, amount = (MINUS if nusd < 0 else ""), abs(nusd)
    if amount == 0:
        return "$0"
    dollars = amount / NUSD_PER_USD  # to be printed, never to be counted with
    if dollars >= 100_000:
        return f"{sign}${dollars:,.0f}"
    if dollars >= 1:
        return f"{sign}${dollars:,.2f}"
    if dollars >= 0.01:
        return f"{sign}${dollars:.3f}"
    return f"{sign}${dollars:.{1 - math.floor(math.log10(dollars))}f}"


def exact_usd(nusd: int | None) -> str:
    """Write nano-USD exactly."""
    return "–" if nusd is None else f"{nusd_to_usd(nusd)} USD"


def breakable(name: str) -> Markup:
    """Let a model's name break after its slashes."""
    return Markup("/<wbr>").join(Markup.escape(part) for part in name.split("/"))


def count(number: int | None) -> str:
    """Write a number with its thousands apart."""
    return "–" if number is None else f"{number:,}"


def short(number: float) -> str:
    """Write a number in few letters, for axes."""
    for bound, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= bound:
            return f"{number / bound:.3g}{letter}"
    return f"{number:.3g}"


def per_million(pusd: int | None) -> str:
    """Write pico-USD per token as USD per million tokens, exactly, with two digits or more."""
    if pusd is None:
        return "–"
    whole, _, digits = f"{Decimal(pusd).scaleb(-6).normalize():f}".partition(".")
    return f"{whole}.{digits:0<2}"


def points(quality: float | None) -> str:
    """Write a quality."""
    return "–" if quality is None else f"{quality:.3g}" if quality < 100 else f"{quality:.0f}"


def share(part: int, whole: int) -> str:
    """Write a part of a whole in percent; never 100 % where something is missing."""
    if not whole:
        return "–"
    if part == whole:
        return "100 %"
    return (
        f"{min(99.99, 100 * part / whole):.2f} %" if part * 10 > whole * 9 else f"{100 * part / whole:.1f} %"
    )


def seconds(value_s: float | None) -> str:
    """Write a time."""
    if value_s is None:
        return "–"
    if value_s < 1:
        return f"{value_s * 1e3:.0f} ms"
    if value_s < 100:
        return f"{value_s:.2f} s" if value_s < 10 else f"{value_s:.1f} s"
    return f"{value_s / 60:.1f} min"


def moment(unix_s: float) -> str:
    """Write a moment in UTC to the second."""
    return f"{datetime.fromtimestamp(unix_s, UTC):%Y-%m-%d %H:%M:%S}"


def clock(unix_s: float) -> str:
    """Write a moment's time of day in UTC."""
    return f"{datetime.fromtimestamp(unix_s, UTC):%H:%M:%S}"


def day(unix_s: float) -> str:
    """Write a moment's day in UTC."""
    return f"{datetime.fromtimestamp(unix_s, UTC):%d %b}"


def iso(unix_s: float) -> str:
    """Write a moment for machines."""
    return f"{datetime.fromtimestamp(unix_s, UTC):%Y-%m-%dT%H:%M:%S}Z"


FILTERS = {
    "usd": usd,
    "exact_usd": exact_usd,
    "breakable": breakable,
    "count": count,
    "short": short,
    "per_million": per_million,
    "points": points,
    "seconds": seconds,
    "moment": moment,
    "clock": clock,
    "day": day,
    "iso": iso,
}
