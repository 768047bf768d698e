"""The sums of one account and the rules that may refuse a hold: nano-USD, days and months in UTC."""

from __future__ import annotations

from dataclasses import dataclass

from router.errors import OutOfCredit
from router.ledger.money import nusd_to_usd
from router.ledger.rows import HoldRequest

_LIMITS = {"day": "Daily", "month": "Monthly"}


@dataclass(slots=True)
class Account:
    """The row of an account; a copy that a batch changes and writes back.

    `balance_nusd` does not subtract `held_nusd`; `day` is like `2026-11-22`, `month` like `2026-11`.
    """

    id: str
    balance_nusd: int = 0
    held_nusd: int = 0
    charged_nusd: int = 0
    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    day: str = ""
    day_charged_nusd: int = 0
    month: str = ""
    month_charged_nusd: int = 0
    budget_day_nusd: int | None = None
    budget_month_nusd: int | None = None

    @property
    def available_nusd(self) -> int:
        """Return what a new hold may take."""
        return self.balance_nusd - self.held_nusd

    def roll(self, now: str) -> None:
        """Begin the day and month of `now` (a row's `created_at`); a clock that steps back begins none."""
        if now[:10] > self.day:
            self.day, self.day_charged_nusd = now[:10], 0
        if now[:7] > self.month:
            self.month, self.month_charged_nusd = now[:7], 0

    def charge(self, amount_nusd: int, prompt_tokens: int, completion_tokens: int) -> None:
        """Book what one request cost."""
        self.balance_nusd -= amount_nusd
        self.charged_nusd += amount_nusd
        self.day_charged_nusd += amount_nusd
        self.month_charged_nusd += amount_nusd
        self.requests += 1
        self.prompt_tokens += prompt_tokens
        self.completion_tokens += completion_tokens

    def refusal(self, hold: HoldRequest) -> OutOfCredit | None:
        """Return why this account may not hold that amount: credit first, then its budgets.

        What an idempotency key has paid for before is never refused.
        """
        if hold.amount_nusd == 0 and hold.claim is not None and hold.claim.cover_nusd:
            return None
        return self.refuses(hold.amount_nusd, require_credit=hold.require_credit)

    def refuses(self, amount_nusd: int, *, require_credit: bool) -> OutOfCredit | None:
        """Return why this account may not set an amount aside."""
        if require_credit and (self.balance_nusd <= 0 or self.available_nusd < amount_nusd):
            return OutOfCredit(
                f"This account has {nusd_to_usd(self.available_nusd)} USD of credit left and this request may"
                f" cost up to {nusd_to_usd(amount_nusd)} USD. Add credit, or lower max_tokens.",
                needed_usd=nusd_to_usd(amount_nusd),
                available_usd=nusd_to_usd(max(0, self.available_nusd)),
            )
        return self._over("day", self.budget_day_nusd, self.day_charged_nusd, amount_nusd) or self._over(
            "month", self.budget_month_nusd, self.month_charged_nusd, amount_nusd
        )

    def spendable_nusd(self, *, require_credit: bool) -> int | None:
        """Return the most that `refuses` lets through, -1 where that is not even nothing; None: no bound."""
        bounds = [
            budget - charged - self.held_nusd
            for budget, charged in (
                (self.budget_day_nusd, self.day_charged_nusd),
                (self.budget_month_nusd, self.month_charged_nusd),
            )
            if budget is not None
        ]
        if require_credit:
            bounds.append(self.available_nusd if self.balance_nusd > 0 else -1)
        return max(-1, min(bounds)) if bounds else None

    def _over(self, period: str, budget: int | None, charged: int, amount: int) -> OutOfCredit | None:
        if budget is None or charged + self.held_nusd + amount <= budget:
            return None
        left = max(0, budget - charged - self.held_nusd)
        # The first words tell OpenClaw to wait; after any other 402 it leaves the provider alone for long.
        return OutOfCredit(
            f"{_LIMITS[period]} usage limit reached, try again in the next {period} (UTC): this key may spend"
            f" {nusd_to_usd(budget)} USD a {period}, {nusd_to_usd(left)} USD of it are left and this request"
            f" may cost up to {nusd_to_usd(amount)} USD. Lower max_tokens or raise the budget to go on.",
            name="budget_exceeded",
            needed_usd=nusd_to_usd(amount),
            available_usd=nusd_to_usd(left),
        )
