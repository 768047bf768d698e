"""One ended request as the pages show it: metadata, its upstream attempts, why it went where it went."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from msgspec import Struct

from router.catalog.snapshot import Category
from router.errors import CallerAtLimit, RouterError, UpstreamRefused
from router.history.words import Words
from router.media import Medium

NOT_OK, ALL_FAILED = "not-ok", "all-failed"
"""As a wished outcome: any but "ok"; any of FAILED."""
Group = Literal["served", "left", "refused", "failed"]
GROUPS: tuple[Group, ...] = ("served", "left", "refused", "failed")
"""What an outcome means: answered; the client left; up to the caller, as its own limits; ours or upstream.

Success, as the pages, `router top`, the dashboard and the alerts have it, is served / (served + failed): what
was answered of all that should have been.
"""
SERVED = ("ok", "replayed")


ABANDONED = "abandoned"
"""An attempt that was given up before it had answered: its client left, or the request's time was up."""
INTERRUPTED = "interrupted"
"""A request whose process died before it had ended."""
BROKE = "broke"
"""An attempt that began to answer and did not end."""


class Attempt(Struct, frozen=True, gc=False, omit_defaults=True):
    """One call of an upstream: `outcome` is "ok", the fault's kind, ABANDONED or BROKE.

    `ms` is the time until it began to answer or failed.
    """

    provider: str
    model: str
    outcome: str
    status: int | None = None
    ms: int = 0


class Choice(Struct, frozen=True, gc=False):
    """An offer that could serve, with what it was expected to take."""

    model: str
    provider: str
    expected_nusd: int
    seconds: float
    quality: float | None


class Lost(Struct, frozen=True, gc=False):
    """An offer that was not chosen, and why."""

    model: str
    provider: str
    reason: str
    detail: str


class Why(Struct, frozen=True, gc=False, omit_defaults=True):
    """Why a request went where it went; the first `choices` and `losers` only, none of either under load."""

    reason: str
    mode: str
    catalog: str
    confidence: float | None = None
    probabilities: Mapping[Category, float] | None = None
    max_nusd: int = 0
    stripped: bool = False
    images: int = 0
    media: tuple[Medium, ...] = ()
    tools: bool = False
    choices: tuple[Choice, ...] = ()
    choices_total: int = 0
    losers: tuple[Lost, ...] = ()
    losers_total: int = 0
    answered_model: str | None = None


class Record(Struct, frozen=True, gc=False):
    """One request; amounts in nano-USD, times in ms. `ended_ms` counts from 1970, `first_ms` from arrival.

    `asked` is the model that the client named. `baseline_nusd` is what the same tokens cost at the baseline
    model, None where nothing was billed or there is none. `seq` is the store's order, 0 before it is stored.
    `words` are read by `Store.words` alone: here they are None but on the way into the store.
    """

    request_id: str
    client_request_id: str | None
    ended_ms: int
    account: str | None
    outcome: str
    asked: str | None
    category: str | None
    model: str | None
    provider: str | None
    stream: bool
    ms: int
    first_ms: int | None
    prompt_tokens: int
    completion_tokens: int
    estimated: bool
    charged_nusd: int
    upstream_nusd: int
    baseline: str | None
    baseline_nusd: int | None
    attempts: tuple[Attempt, ...] = ()
    why: Why | None = None
    words: Words | None = None
    seq: int = 0

    @property
    def group(self) -> Group:
        """Return what the outcome means."""
        return group_of(self.outcome)


class Wish(Struct, frozen=True, kw_only=True):
    """Which requests to find: those that match everything given; `found_id` is how an id begins.

    `since_ms` and `until_ms` bound the moment of the end. `before` and `after` bound `seq`, without them.
    """

    model: str | None = None
    provider: str | None = None
    category: str | None = None
    outcome: str | None = None
    account: str | None = None
    found_id: str | None = None
    since_ms: int | None = None
    until_ms: int | None = None
    before: int | None = None
    after: int = 0


class Found(Struct, frozen=True):
    """Requests, newest first; `next_before` goes on where this ended, None where there are no more.

    `searched_to_ms` is how far back was looked, where the time for one page was up before the page was full.
    """

    records: list[Record]
    next_before: int | None
    searched_to_ms: int | None = None


def group_of(outcome: str) -> Group:
    """Return what an outcome means; a name that no error of ours has is what an upstream calls a refusal."""
    if outcome in SERVED:
        return "served"
    if outcome == "client_gone":
        return "left"
    return "failed" if outcome in FAILED else "refused"


def _failures(error: type[RouterError]) -> set[str]:
    if issubclass(error, CallerAtLimit):
        return set()
    mine = {error.name} if error.status >= 500 or error.status == 429 else set()
    return mine.union(*(_failures(each) for each in error.__subclasses__()))


# Beside the tree's own: the names that are given to some of its errors where they are raised. A refusal's
# status is the upstream's 4xx, its class says none.
FAILED = frozenset(
    _failures(RouterError)
    | {
        "storage_unavailable",
        "payments_unavailable",
        "upstream_rate_limited",
        "upstream_unavailable",
        "cut",
        INTERRUPTED,
    }
) - {UpstreamRefused.name}
