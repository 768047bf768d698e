"""How pages write figures: money, counts, times; exact amounts stay in the tooltip."""

from __future__ import annotations

import math
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

from markupsafe import Markup

from router.ledger.money import NUSD_PER_USD, nusd_to_usd

MIDNIGHT = "00:00:00.000Z"
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
    return (
        f"{sign}${dollars:.{min(9, 1 - math.floor(math.log10(dollars)))}f}"  # a nano-dollar is the last digit
    )


def exact_usd(nusd: int | None) -> str:
    """Write nano-USD exactly."""
    return "–" if nusd is None else f"{nusd_to_usd(nusd)} USD"


def breakable(name: str) -> Markup:
    """Let a model's name break after its slashes."""
    return Markup("/<wbr>").join(Markup.escape(part) for part in name.split("/"))


def coded(text: str) -> Markup:
    """Write what stands between backticks as code."""
    parts = [Markup.escape(part) for part in text.split("`")]
    if len(parts) % 2 == 0:
        return Markup.escape(text)
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if number % 2 else part for number, part in enumerate(parts)
    )


def count(number: int | None) -> str:
    """Write a number with its thousands apart."""
    return "–" if number is None else f"{number:,}"


def short(number: float) -> str:
    """Write a number in few letters, for axes."""
    for bound, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= 0.9995 * bound:  # what would be rounded to 1,000 of the letter before
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


def signed_percent(before: float, now: float) -> str:
    """Write how much more or less something is, in percent; from eleven times on, as how many times."""
    if not before:
        return "–"
    change = (now - before) / before
    return f"× {short(now / before)}" if change >= 10 else signed(100 * change, ".0f") + " %"


def signed(number: float, form: str) -> str:
    """Write a difference with its sign; 0 has none."""
    text = f"{abs(number):{form}}"
    if not float(text):
        return text
    return f"{MINUS if number < 0 else '+'}{text}"


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


def last_day(ends_at: str) -> str:
    """Write the last day before a moment such as `2031-02-01T00:00:00.000Z`."""
    return str(date.fromisoformat(ends_at[:10]) - timedelta(days=1)) if ends_at[11:] == MIDNIGHT else ends_at


def iso(unix_s: float) -> str:
    """Write a moment for machines."""
    return f"{datetime.fromtimestamp(unix_s, UTC):%Y-%m-%dT%H:%M:%S}Z"


FILTERS = {
    "usd": usd,
    "exact_usd": exact_usd,
    "breakable": breakable,
    "coded": coded,
    "count": count,
    "signed": signed,
    "short": short,
    "per_million": per_million,
    "points": points,
    "seconds": seconds,
    "moment": moment,
    "clock": clock,
    "day": day,
    "iso": iso,
    "last_day": last_day,
}
