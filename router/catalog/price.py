"""What a request costs at an offer: integer pico-USD a token, one rounding up to nano-USD at the end."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from msgspec import Struct

from router.catalog.snapshot import Offer, Policy, Price, PriceRule

_PPM = 1_000_000
_PUSD_PER_NUSD = 1_000
_MINUTES_PER_DAY = 24 * 60


class Tokens(Struct, frozen=True, gc=False):
    """Hold the tokens of a request; `cached` and `written` are parts of `prompt`."""

    prompt: int
    completion: int
    cached: int = 0
    written: int = 0


def price_at(offer: Offer, at: datetime, prompt_tokens: int) -> Price:
    """Return the offer's price at a moment (UTC) for a prompt of that size; a later rule wins per key."""
    price = offer.price
    for rule in offer.when:
        if _holds(rule, at, prompt_tokens):
            price = _apply(rule, price)
    return price


def _holds(rule: PriceRule, at: datetime, prompt_tokens: int) -> bool:
    if rule.above_input is not None and prompt_tokens <= rule.above_input:
        return False
    if rule.starts is not None and at < rule.starts:
        return False
    day = at
    if rule.utc is not None:
        start, end = rule.utc
        minute = at.hour * 60 + at.minute
        if start <= end:
            inside = start <= minute < end
        else:
            inside = minute >= start or minute < end
            if minute < end:
                day = at - timedelta(minutes=_MINUTES_PER_DAY)
        if not inside:
            return False
    return rule.days is None or day.weekday() in rule.days


def _apply(rule: PriceRule, price: Price) -> Price:
    def changed(new: int | None, old: int) -> int:
        value = old if new is None else new
        return value if rule.multiply_ppm is None else -(-value * rule.multiply_ppm // _PPM)

    return Price(
        input=changed(rule.input, price.input),
        output=changed(rule.output, price.output),
        cache_read=changed(rule.cache_read, price.cache_read),
        cache_write=changed(rule.cache_write, price.cache_write),
    )


def cost_nusd(price: Price, tokens: Tokens, ppm: int = _PPM) -> int:
    """Return what the tokens cost in nano-USD, times `ppm` millionths, rounded up once."""
    pusd = tokens.prompt * price.input + tokens.completion * price.output
    if tokens.cached or tokens.written:
        pusd += tokens.cached * (price.cache_read - price.input)
        pusd += tokens.written * (price.cache_write - price.input)
    return -(-pusd * ppm // (_PPM * _PUSD_PER_NUSD))


def charge_nusd(offer: Offer, policy: Policy, at: datetime, tokens: Tokens) -> int:
    """Return the customer's charge: the offer's own `charge`, else its price times the policy's markup."""
    if offer.charge is not None:
        return cost_nusd(offer.charge, tokens)
    price = price_at(offer, at, tokens.prompt) if offer.when else offer.price
    return cost_nusd(price, tokens, policy.markup_ppm)


def worst_nusd(offer: Offer, policy: Policy, at: datetime, tokens: Tokens) -> int:
    """Return the most that up to `tokens.prompt` and `tokens.completion` tokens can be charged.

    Each prompt token at its dearest (plain, read from a cache or written to one), and the dearest of the
    tiers that a shorter prompt would fall into.
    """
    if offer.charge is not None:
        return _dearest_nusd(offer.charge, tokens.prompt, tokens.completion, _PPM)
    if not offer.when:
        return _dearest_nusd(offer.price, tokens.prompt, tokens.completion, policy.markup_ppm)
    ends = [r.above_input for r in offer.when if r.above_input is not None and r.above_input < tokens.prompt]
    return max(
        _dearest_nusd(price_at(offer, at, end), end, tokens.completion, policy.markup_ppm)
        for end in (tokens.prompt, *ends)
    )


def worst_cost_nusd(offer: Offer, at: datetime, tokens: Tokens) -> int:
    """Return the most that the upstream itself can ask for up to so many tokens, by its list price."""
    return worst_nusd(replace(offer, charge=None), Policy(), at, tokens)


def _dearest_nusd(price: Price, prompt: int, completion: int, ppm: int) -> int:
    pusd = prompt * dearest_input(price) + completion * price.output
    return -(-pusd * ppm // (_PPM * _PUSD_PER_NUSD))


def dearest_input(price: Price) -> int:
    """Return the most that a prompt token can cost."""
    return max(price.input, price.cache_read, price.cache_write)


def charged(offer: Offer, policy: Policy) -> Price:
    """Return what a customer pays for a token, apart from hours and tiers: `charge`, else with the markup."""
    return offer.charge or marked_up(offer.price, policy.markup_ppm)


def marked_up(price: Price, ppm: int) -> Price:
    """Return a price times so many millionths, each figure rounded up."""
    if ppm == _PPM:
        return price
    return Price(*(-(-each * ppm // _PPM) for each in _amounts(price)))


def _amounts(price: Price) -> tuple[int, int, int, int]:
    """Return the figures of a price: input, output, cache read, cache write; pico-USD a token."""
    return price.input, price.output, price.cache_read, price.cache_write
