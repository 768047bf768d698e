"""The arithmetic of a batch: what holds, settles and releases do to accounts, and the rows they become.

An engine brings the accounts, and writes what a batch has touched in one transaction, all or nothing but for
refused holds, which are outcomes.
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from router.errors import KeyInUse, RouterError
from router.ledger.accounts import Account
from router.ledger.answers import Claim, StoredAnswer
from router.ledger.claims import Claims, Known
from router.ledger.money import MAX_NUSD
from router.ledger.rows import End, HoldRequest, Progress, Release, Settlement

Outcome = RouterError | int | None
"""hold: None or the refusal; settle: the charge in nano-USD; release: 0."""


class HoldEnded(Exception):
    """Another process ended one of these holds; post the batch one by one."""


class Entry(Struct, eq=False):
    """A hold to begin (`end` is None), or one that is open and how it ends; each ends once."""

    hold: HoldRequest
    end: End | None


def charge_of(hold: HoldRequest, end: End) -> int:
    """Return what ending a hold charges, in nano-USD: no more than was held."""
    return 0 if isinstance(end, Release) else min(end.charge_nusd, hold.amount_nusd)


def end_of(hold: HoldRequest, delivered: Mapping[str, Progress], *, credited: bool = False) -> End:
    """Return how a hold ends whose process is dead: charged for what was delivered, if anything was.

    Less what its key has paid before; where that is all, the key keeps it for one more retry. `credited` says
    that its payment has bought credit, which is there.
    """
    if credited:
        whole = hold.amount_nusd
        return Settlement(hold.request_id, 0, 0, whole, 0, hold.model, hold.provider, metered_nusd=whole)
    progress = delivered.get(hold.request_id)
    cover_nusd = hold.claim.cover_nusd if hold.claim is not None else 0
    if progress is None:
        return Release(hold.request_id)
    # Not below nothing, whatever the note of a process that died says: it must not keep a hold open for good.
    settlement = Settlement(
        request_id=hold.request_id,
        prompt_tokens=max(0, progress.prompt_tokens),
        completion_tokens=max(0, progress.completion_tokens),
        charge_nusd=max(0, progress.charge_nusd - cover_nusd),
        upstream_cost_nusd=max(0, progress.upstream_cost_nusd),
        model=progress.model,
        provider=progress.provider,
        estimated=True,
        cover_nusd=MAX_NUSD,  # the customer is not at fault: whatever the retry costs
        metered_nusd=max(0, progress.charge_nusd),
    )
    if cover_nusd and settlement.charge_nusd == 0:
        return Release(hold.request_id, delivered=settlement)
    return settlement


def key_in_use() -> KeyInUse:
    """Return the 409 for a key whose request runs."""
    return KeyInUse(
        "A request with this Idempotency-Key still runs. Send it again in a moment to get its answer.",
        param="idempotency-key",
        retry_after_s=1,
    )


class KeyEnd(Struct, frozen=True, gc=False):
    """What becomes of a key when a hold with it ends; neither an answer nor cover: it is free again."""

    account: str
    key: str
    request_id: str
    cover_nusd: int
    answer: StoredAnswer | None


class Posting:
    """Apply entries to accounts; `owner` is who ends the holds that begin here."""

    def __init__(self, owner: str) -> None:
        self._owner = owner
        self._now = ""
        self._forget()

    def _forget(self) -> None:
        self._accounts: dict[str, Account] = {}
        self._touched: dict[str, Account] = {}
        self._begun: list[tuple[str, str, int, str, int]] = []
        self._ended: list[tuple[str]] = []
        self._rows: list[tuple[str | int | None, ...]] = []
        self._keyed: dict[tuple[str, str], str | None] = {}
        self._key_claims: list[tuple[str, str, bytes, str, int, str]] = []
        self._key_ends: list[KeyEnd] = []
        self._claims: Claims | None = None

    def _read(self, account_id: str) -> Account:
        """Return an account that the batch has not brought."""
        raise NotImplementedError

    def _read_key(self, account_id: str, key: str) -> str | None:
        """Return the hold that the row of an idempotency key names, None where there is no row."""
        raise NotImplementedError

    def _known(self) -> Known:
        """Return what is stored of the payments that the batch asks for."""
        raise NotImplementedError

    def _apply(self, hold: HoldRequest, end: End | None) -> Outcome:
        account = self._touched.get(hold.account) or self._touch(hold.account)
        if end is None:
            return self._hold(account, hold)
        account.held_nusd -= hold.amount_nusd
        self._ended.append((hold.request_id,))
        if hold.claim is not None and hold.idempotency_key is not None:
            self._leave_key(hold, hold.idempotency_key, hold.claim, end)
        charge = charge_of(hold, end)
        if hold.payment is not None:
            self._payments().leave(hold, hold.payment, end, charge, self._now)
        if isinstance(end, Settlement):
            self._book(account, hold, "settle", charge, end)
        else:
            self._book(account, hold, "release", hold.amount_nusd, end.delivered)
        return charge

    def _payments(self) -> Claims:
        if self._claims is None:
            self._claims = Claims(self._known())
        return self._claims

    def _take_key(self, hold: HoldRequest, key: str, claim: Claim) -> KeyInUse | None:
        at = (hold.account, key)
        holder = self._keyed[at] if at in self._keyed else self._read_key(*at)
        if holder != claim.after:
            return key_in_use()
        self._keyed[at] = hold.request_id
        begun_at = claim.begun_at or self._now
        self._key_claims.append((*at, claim.body, hold.request_id, claim.cover_nusd, begun_at))
        return None

    def _leave_key(self, hold: HoldRequest, key: str, claim: Claim, end: End) -> None:
        """Note what becomes of a key; engines write claims first, and ends only for holds that have it."""
        cover_nusd = 0
        if isinstance(end, Settlement):
            cover_nusd = charge_of(hold, end) if end.cover_nusd is None else end.cover_nusd
        elif not end.covered:
            cover_nusd = claim.cover_nusd
        if end.answer is not None:
            cover_nusd = 0
        self._keyed[hold.account, key] = hold.request_id if end.answer or cover_nusd else None
        self._key_ends.append(KeyEnd(hold.account, key, hold.request_id, cover_nusd, end.answer))

    def _touch(self, account_id: str) -> Account:
        account = self._accounts.get(account_id)
        if account is None:
            self._accounts[account_id] = account = self._read(account_id)
        account.roll(self._now)
        self._touched[account_id] = account
        return account

    def _hold(self, account: Account, hold: HoldRequest) -> RouterError | None:
        refusal: RouterError | None = account.refusal(hold)
        if refusal is None and hold.payment is not None:
            refusal = self._payments().refusal(hold, hold.payment)
        if refusal is None and hold.claim is not None and hold.idempotency_key is not None:
            refusal = self._take_key(hold, hold.idempotency_key, hold.claim)
        if refusal is not None:
            return refusal
        if hold.payment is not None:
            self._payments().take(hold, hold.payment, self._owner, self._now)
        amount = hold.amount_nusd
        account.held_nusd += amount
        self._begun.append(
            (hold.request_id, account.id, amount, self._owner, 1 if hold.require_credit else 0)
        )
        self._rows.append(
            (
                hold.request_id,
                hold.client_request_id,
                account.id,
                "hold",
                amount,
                0,
                None,
                account.balance_nusd,
                None,
                None,
                hold.model,
                hold.provider,
                hold.catalog,
                0,
                hold.idempotency_key,
                self._now,
            )
        )
        return None

    def _book(
        self, account: Account, hold: HoldRequest, kind: str, amount: int, told: Settlement | None
    ) -> None:
        """Write the end of a hold; `told` is what was delivered, None where nothing was."""
        charge = amount if kind == "settle" else 0
        if told is not None:
            account.charge(charge, told.prompt_tokens, told.completion_tokens)
        self._rows.append(
            (
                hold.request_id,
                hold.client_request_id,
                account.id,
                kind,
                amount,
                -charge,
                told.upstream_cost_nusd if told else None,
                account.balance_nusd,
                told.prompt_tokens if told else None,
                told.completion_tokens if told else None,
                told.model if told else hold.model,
                told.provider if told else hold.provider,
                hold.catalog,
                1 if told and told.estimated else 0,  # SQLite is slow with a bool
                hold.idempotency_key,
                self._now,
            )
        )
