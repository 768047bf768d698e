"""The prices and speeds of all offers at a moment, as rows that score many offers at once.

Scores in rows are floats and only find the few offers that can win; those are then priced exactly, in
integers. A row is off by at most the one rounding up to a nano-dollar and some 1e-15 of itself, which
`SLACK_NUSD` and `SLACK` cover with room to spare.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import compress
from typing import Literal

from router.catalog.price import Tokens, cost_nusd, dearest_input, price_at
from router.catalog.snapshot import Mode, Offer, Policy, Price

SLACK_NUSD = 2.0
SLACK = 1e-9
_PPM = 1_000_000
_NUSD_PER_PUSD_PPM = 1e-9
_BITS = bytes.maketrans(b"01", b"\x00\x01")

# Weekday, place among the edges of windows, scheduled starts gone by, place among the tiers.
Moment = tuple[int, int, int, int]
# What is scored: cost with the value of time, seconds alone, cost alone.
Aim = Literal["value", "seconds", "cost"]
# Nano-USD a prompt token, an output token of each choice and an output token's time, and of the first token;
# the most output of a choice; the offer.
Row = tuple[float, float, float, float, int, int]


def aim_of(mode: Mode) -> Aim:
    """Return what a mode makes small."""
    if mode == "nitro":
        return "seconds"
    return "cost" if mode == "floor" else "value"


class Calendar:
    """Cut time and prompt sizes where some offer's price changes, so that between two cuts none does."""

    def __init__(self, offers: Sequence[Offer]) -> None:
        rules = [rule for offer in offers for rule in offer.when]
        self._edges = sorted({minute for rule in rules if rule.utc is not None for minute in rule.utc})
        self._starts = sorted({rule.starts for rule in rules if rule.starts is not None})
        self._tiers = sorted({rule.above_input for rule in rules if rule.above_input is not None})
        self._tiered = {
            i: min(tiers)
            for i, offer in enumerate(offers)
            if (tiers := [rule.above_input for rule in offer.when if rule.above_input is not None])
        }
        self._weekly = any(rule.utc is not None or rule.days is not None for rule in rules)

    def moment(self, at: datetime, prompt_tokens: int) -> Moment:
        """Return the cell of a time (UTC) and a prompt: equal cells have equal prices."""
        weekday = edge = 0
        if self._weekly:
            weekday = at.weekday()
            edge = bisect_right(self._edges, at.hour * 60 + at.minute)
        starts = bisect_right(self._starts, at) if self._starts else 0
        return weekday, edge, starts, bisect_left(self._tiers, prompt_tokens)

    def tiered_below(self, prompt_tokens: int) -> int:
        """Return the mask of the offers that have another price for some shorter prompt."""
        if not self._tiers or prompt_tokens <= self._tiers[0]:
            return 0
        return sum(1 << i for i, lowest in self._tiered.items() if lowest < prompt_tokens)


class Sheet:
    """Hold each offer's price to the customer and its speed, in the catalog's order."""

    def __init__(
        self,
        offers: Sequence[Offer],
        policy: Policy,
        speeds: Mapping[tuple[str, str], tuple[float, float]],
        at: datetime,
        prompt_tokens: int,
    ) -> None:
        self.policy = policy
        self.source = speeds
        self._offers = offers
        self.prices: list[Price] = [
            (price_at(offer, at, prompt_tokens) if offer.when else offer.price)
            if offer.charge is None
            else offer.charge
            for offer in offers
        ]
        self._ppm = [policy.markup_ppm if offer.charge is None else _PPM for offer in offers]
        own = [(offer.ttft_s, offer.tok_s) for offer in offers]
        self.speeds = (
            [speeds.get(offer.key, prior) for offer, prior in zip(offers, own, strict=True)]
            if speeds
            else own
        )
        self._rows: dict[Aim, list[Row]] = {}
        self._caps: list[tuple[float, float, int, int]] | None = None
        self._digits = f"0{len(offers)}b"

    def expected_nusd(self, i: int, tokens: Tokens) -> int:
        """Return what an offer is expected to charge, exactly: as `price.charge_nusd`."""
        return cost_nusd(self.prices[i], tokens, self._ppm[i])

    def seconds(self, i: int, output_tokens: int) -> float:
        """Return how long one choice of that many tokens takes."""
        ttft_s, tok_s = self.speeds[i]
        return ttft_s + output_tokens / tok_s

    def among(self, mask: int, aim: Aim) -> list[Row]:
        """Return the rows of these offers."""
        rows = self._rows.get(aim)
        if rows is None:
            rows = self._rows[aim] = self._made(aim)
        return list(compress(rows, self._selected(mask)))

    def _selected(self, mask: int) -> bytes:
        """Return a byte for each offer, 1 for those of the mask; the last offer first, as digits are."""
        return format(mask, self._digits).encode().translate(_BITS)

    def _made(self, aim: Aim) -> list[Row]:
        value = {"value": float(self.policy.time_value_nusd_per_s), "seconds": 1.0, "cost": 0.0}[aim]
        rows: list[Row] = []
        for i, price in enumerate(self.prices):
            ttft_s, tok_s = self.speeds[i]
            scale = 0.0 if aim == "seconds" else self._ppm[i] * _NUSD_PER_PUSD_PPM
            costs = price.input * scale, price.output * scale
            rows.append((*costs, value / tok_s, ttft_s * value, self._offers[i].max_output, i))
        rows.reverse()
        return rows

    def covered(
        self, among: int, cap_nusd: int, prompt: int, output: int | None, choices: int
    ) -> tuple[int, int]:
        """Return the offers whose worst case a cap surely covers, and those for which it is too close to say.

        `output` is None for as much as an offer writes. For offers without tiers below this prompt.
        """
        if self._caps is None:
            self._caps = [
                (
                    dearest_input(p) * ppm * _NUSD_PER_PUSD_PPM,
                    p.output * ppm * _NUSD_PER_PUSD_PPM,
                    o.context,
                    o.max_output,
                )
                for p, ppm, o in zip(self.prices, self._ppm, self._offers, strict=True)
            ]
            self._caps.reverse()
        most = output or 1 << 62
        worst = [
            a * (prompt if prompt < context else context)
            + b * (most if most < largest else largest) * choices
            for a, b, context, largest in self._caps
        ]
        slack = SLACK_NUSD + cap_nusd * SLACK
        return among & _mask(worst, cap_nusd - slack), among & _mask(worst, cap_nusd + slack)


def _mask(numbers: list[float], most: float) -> int:
    """Return the mask of the numbers that are at most this, the last offer first."""
    return int(bytes(map(most.__ge__, numbers)).translate(_DIGITS) or b"0", 2)


_DIGITS = bytes.maketrans(b"\x00\x01", b"01")
