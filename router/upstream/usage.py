"""Read what an upstream says was used, bill it, and write the `usage` that the client sees.

An upstream's usage is untrusted input: what is missing, negative, absurd or not a number is replaced by an
estimate of what was delivered, and the bill is marked `estimated`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import msgspec
from msgspec import Raw, Struct, structs

from router.catalog.price import Tokens, charge_nusd, cost_nusd, price_at
from router.catalog.snapshot import Offer, Policy
from router.ledger.journal import Tariff
from router.ledger.money import nusd_to_usd

# Providers send a token a delta, or several tokens in a long one.
_SINGLE_TOKEN_BELOW_BYTES = 16
_BYTES_PER_TOKEN = 4
_PPM = 1_000_000


class _Details(Struct):
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None


class _Thoughts(Struct):
    reasoning_tokens: int | None = None


class _Usage(Struct):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int | None = None
    prompt_tokens_details: _Details | None = None
    prompt_cache_hit_tokens: int | None = None  # DeepSeek's name for cached tokens
    completion_tokens_details: Raw = Raw(b"null")  # said to nobody but us, so what is odd in it is absent


_thoughts = msgspec.json.Decoder(_Thoughts | None)
_usage = msgspec.json.Decoder(_Usage)
_members = msgspec.json.Decoder(dict[str, Raw])


@dataclass(slots=True)
class Delivered:
    """Estimate the completion tokens of what has gone by, delta by delta."""

    tokens: int = 0

    def add(self, size_bytes: int) -> None:
        """Count one delta, by the size of its JSON string's inside: a token, or several if it is long."""
        if size_bytes >= _SINGLE_TOKEN_BELOW_BYTES:
            self.tokens += -(-size_bytes // _BYTES_PER_TOKEN)
        elif size_bytes > 0:
            self.tokens += 1


class Bill(Struct, frozen=True, gc=False):
    """Hold the tokens of an answer, what the customer pays and what the upstream asks, in nano-USD.

    `metered_nusd` is what the usage comes to; the customer pays more where a payment is for a fixed amount or
    in coarser units.
    """

    tokens: Tokens
    charge_nusd: int
    upstream_nusd: int
    estimated: bool
    usage: Raw
    metered_nusd: int = 0


class Meter(Struct, frozen=True, gc=False):
    """Bill one answer at the price of its admission."""

    offer: Offer
    policy: Policy
    at: datetime
    prompt_tokens: int
    choices: int
    most_nusd: int | None = None  # what the customer agreed to: what was held, and what was paid before
    paid_nusd: int = 0  # what an earlier request with the same Idempotency-Key was charged
    fixed_nusd: int | None = None  # what a whole answer costs where the payment is for a fixed amount
    unit_nusd: int = 1  # what the payment's token can be divided into
    asked_nusd: int | None = None  # what our wallet has paid for it, in place of the list price
    lost_nusd: int = 0  # what our wallet has paid for attempts of this request that came to nothing

    def bill(self, reported: Raw | None, delivered: Delivered, *, whole: bool = True) -> Bill:
        """Bill what the upstream reported, or an estimate where that cannot be true.

        Of an answer that is not whole, what was reported is about some other moment: the prompt's part holds,
        the completion is what was delivered. Where no token came, nothing is charged.
        """
        usage = self._believable(reported, delivered)
        if usage is None:
            tokens = Tokens(min(self.prompt_tokens, self.offer.context), delivered.tokens)
        else:
            tokens = _tokens(usage, self._hidden(usage))
            if not whole:
                tokens = structs.replace(tokens, completion=delivered.tokens)
                usage = None
        metered = charge_nusd(self.offer, self.policy, self.at, tokens) if tokens.completion else 0
        if self.most_nusd is not None:
            metered = min(metered, self.most_nusd)
        charge = self._due(metered, whole=whole and tokens.completion > 0)
        upstream = self.asked_nusd
        if upstream is None:
            upstream = cost_nusd(price_at(self.offer, self.at, tokens.prompt), tokens)
        due = max(0, charge - self.paid_nusd)
        shown = _shown(None if usage is None else reported, tokens, self._total(usage, tokens), due)
        return Bill(tokens, charge, upstream + self.lost_nusd, usage is None, shown, metered)

    def _due(self, metered_nusd: int, *, whole: bool) -> int:
        """Return what the payment comes to; its most is a multiple of its unit."""
        if self.fixed_nusd is not None and whole:
            return self.fixed_nusd
        return -(-metered_nusd // self.unit_nusd) * self.unit_nusd

    def tariff(self) -> Tariff:
        """Return what an answer is worth as it grows: as `bill` estimates it."""
        prompt = min(self.prompt_tokens, self.offer.context)
        price = price_at(self.offer, self.at, prompt)
        charge, ppm = self.offer.charge or price, self.policy.markup_ppm
        listed = self.asked_nusd is None
        cost_base_pusd = prompt * price.input if self.asked_nusd is None else self.asked_nusd * 1_000
        return Tariff(
            prompt_tokens=prompt,
            charge_base_pusd=prompt * charge.input,
            charge_token_pusd=charge.output,
            ppm=_PPM if self.offer.charge is not None else ppm,
            most_nusd=self.most_nusd,
            cost_base_pusd=cost_base_pusd + self.lost_nusd * 1_000,
            cost_token_pusd=price.output if listed else 0,
        )

    def _believable(self, reported: Raw | None, delivered: Delivered) -> _Usage | None:
        if reported is None:
            return None
        try:
            usage = _usage.decode(reported)
        except (msgspec.ValidationError, msgspec.DecodeError):
            return None
        most = 2 * self.offer.context
        least = min(delivered.tokens, 1)
        fits = 0 <= usage.prompt_tokens <= most and least <= usage.completion_tokens <= most * self.choices
        return usage if fits else None

    def _hidden(self, usage: _Usage) -> int:
        """Return the thoughts that are in the total and in neither part: they are output, and priced as it.

        xAI names them in the details alone, Google nowhere; OpenAI counts them in the completion. Cached
        tokens that stand beside the prompt are none. Sources: xAI's "Consumption and rate limits", "reasoning
        tokens"; Gemini API, "Thinking", "Pricing".
        """
        hidden = self._total(usage, _tokens(usage)) - usage.prompt_tokens - usage.completion_tokens
        details = usage.prompt_tokens_details or _Details()
        cached = details.cached_tokens or usage.prompt_cache_hit_tokens or 0
        written = details.cache_write_tokens or 0
        try:
            thoughts = _thoughts.decode(usage.completion_tokens_details)
        except msgspec.DecodeError:
            thoughts = None
        named = thoughts.reasoning_tokens if thoughts is not None else None
        if named is not None:
            hidden = min(hidden, named)
        elif hidden in (cached, written, cached + written):
            return 0
        most = 2 * self.offer.context * self.choices
        return max(0, hidden) if usage.completion_tokens + hidden <= most else 0

    def _total(self, usage: _Usage | None, tokens: Tokens) -> int:
        """Return the upstream's total where it can be true: thoughts may be in it and in neither part."""
        least, most = tokens.prompt + tokens.completion, 4 * self.offer.context * self.choices
        total = usage.total_tokens if usage is not None else None
        return total if total is not None and least <= total <= most else least


def _tokens(usage: _Usage, hidden: int = 0) -> Tokens:
    details = usage.prompt_tokens_details or _Details()
    cached = details.cached_tokens or usage.prompt_cache_hit_tokens or 0
    cached = min(max(cached, 0), usage.prompt_tokens)
    written = min(max(details.cache_write_tokens or 0, 0), usage.prompt_tokens - cached)
    return Tokens(usage.prompt_tokens, usage.completion_tokens + hidden, cached, written)


def _shown(reported: Raw | None, tokens: Tokens, total_tokens: int, charge_nusd: int) -> Raw:
    """Return the usage object for the client: the upstream's own members that add up, and the cost."""
    members = {} if reported is None else _members.decode(reported)
    members["prompt_tokens"] = Raw(str(tokens.prompt).encode())
    members["completion_tokens"] = Raw(str(tokens.completion).encode())
    members["total_tokens"] = Raw(str(total_tokens).encode())
    members["cost"] = Raw(nusd_to_usd(charge_nusd).encode())
    return Raw(msgspec.json.encode(members))
