"""Keep requests away from offers that fail: a circuit breaker for each offer and for each provider's key.

| what an attempt met | opens | for |
|---|---|---|
| 429 | the offer | Retry-After, else 10 s, doubled by each trial call that meets it again |
| 503 with Retry-After | the offer | Retry-After |
| 5 calls or more in 60 s, half of them failed | the offer | 15 s, doubled by each failed trial call |
| 401, 402, 403 | the offer | 5 min, with an alert |
| 401, 402 at a second offer | every offer of the provider | 5 min, with an alert |

A key and the credit behind it are the provider's: what two of its offers met, the others would meet in turn,
and cost requests an attempt each time; 403 is as often about one model or region. No wait that the router
chooses is longer than 5 min, none that a provider asks for longer than 1 h. What is open becomes half-open
when its time is over: one call is let through as a trial, and its result closes or reopens. The caller's own
faults never count. A request that has no other offer ("alone") is kept away by 429, 401, 402 and 403 only: a
poor chance is better than none. One object a process, used from its event loop.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Literal

from msgspec import Struct

from router.routing.decide import Blocked

Key = tuple[str, str]  # (provider, upstream model)
State = Literal["open", "half_open"]
WINDOW_S = 60
LEAST_CALLS = 5
FAILED_SHARE = 0.5
FAILURES_WAIT_S = 15.0
RATE_WAIT_S = 10.0
AUTH_WAIT_S = 300.0
LONGEST_WAIT_S = 300.0
# So many offers of a provider must be refused until all of them are taken to be.
PROVIDERS_OFFERS = 2
LONGEST_ASKED_S = 3_600.0
# A trial whose end is never told (`release`) counts as lost after this; by default no attempt takes longer.
TRIAL_S = 600.0
# The faults of `router.upstream.faults` that are the caller's.
CALLERS_FAULTS = frozenset({"refused", "too_long"})

# From soft to hard: a harder cause takes the place of a softer one; soft ones do not stop a request without
# another offer.
_Cause = Literal["failures", "asked", "rate", "auth"]
_HARDNESS: dict[_Cause, int] = {"failures": 0, "asked": 1, "rate": 2, "auth": 3}
_SOFT = ("failures", "asked")
_FIRST_WAIT_S: dict[_Cause, float] = {
    "failures": FAILURES_WAIT_S,
    "asked": FAILURES_WAIT_S,
    "rate": RATE_WAIT_S,
    "auth": AUTH_WAIT_S,
}
_Subject = tuple[str, str | None]  # an offer's key, or a provider and None
_NOTHING: Mapping[Key, Blocked] = {}
_MEND_KEY = "check the key that the provider's file names (key_env), its permissions and its credit"
_MEND_MODEL = "check the model's id in its offer"
_log = logging.getLogger("router.live")


class Entry:
    """Leave to make one attempt at an offer; `Breakers.release` takes it back."""

    __slots__ = ()


# What all attempts but trials share, so that a healthy offer costs no object.
FREE = Entry()


class Alert(Struct, frozen=True):
    """Say what only the operator can mend; `upstream_model` is None where it is about the whole provider."""

    provider: str
    upstream_model: str | None
    status: int | None
    detail: str
    since_s: float


@dataclass(slots=True)
class _Minute:
    """Count the calls of the last minute, by the second of their end: [second, calls, failures]."""

    seconds: deque[list[int]] = field(default_factory=deque)

    def add(self, now_s: float, failed: bool) -> None:
        second = int(now_s)
        if not self.seconds or self.seconds[-1][0] < second:
            self.seconds.append([second, 0, 0])
            while self.seconds[0][0] <= second - WINDOW_S:
                self.seconds.popleft()
        last = self.seconds[-1]
        last[1] += 1
        last[2] += failed

    def counts(self, now_s: float) -> tuple[int, int]:
        """Return the calls and the failures of the window."""
        recent = [counts for counts in self.seconds if counts[0] > now_s - WINDOW_S]
        return sum(c[1] for c in recent), sum(c[2] for c in recent)


@dataclass(slots=True)
class _Shut:
    """A breaker that is not closed: open until `until_s`, half-open from then on."""

    cause: _Cause
    why: str
    until_s: float
    repeats: int = 0
    trial: Entry | None = None
    trial_ends_s: float = 0.0

    def stops(self, now_s: float, alone: bool) -> bool:
        """Tell whether a request is kept away: while it is open, or while another one is the trial."""
        if alone and self.cause in _SOFT:
            return False
        return now_s < self.until_s or (self.trial is not None and now_s < self.trial_ends_s)

    def opens_s(self, now_s: float) -> float:
        """Return when `stops` may change; a trial may end at any time."""
        return self.until_s if now_s < self.until_s else now_s + 1


class Breakers:
    """Count the results of attempts and say which offers rest; `clock` is monotonic, in seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._minutes: dict[Key, _Minute] = {}
        self._shut: dict[_Subject, _Shut] = {}
        self._alerts: dict[_Subject, Alert] = {}
        self._refusals: dict[str, set[Key]] = {}  # the offers of a provider that met 401 or 402 lately
        self._models: Mapping[Key, str] = {}
        self._blocked: dict[Key, Blocked] = {}
        self._blocked_hard: dict[Key, Blocked] = {}
        self._fresh_until_s = -math.inf

    def keep(self, models: Mapping[Key, str]) -> None:
        """Take the catalog's offers, with the model that each serves; what is known of others is dropped."""
        self._models = models
        providers = {provider for provider, _ in models}

        def stays(subject: _Subject) -> bool:
            return subject[0] in providers if subject[1] is None else subject in models

        self._minutes = {key: minute for key, minute in self._minutes.items() if key in models}
        self._shut = {subject: shut for subject, shut in self._shut.items() if stays(subject)}
        self._alerts = {subject: alert for subject, alert in self._alerts.items() if stays(subject)}
        self._refusals = {
            provider: keys for provider, keys in self._refusals.items() if provider in providers
        }
        self._fresh_until_s = -math.inf

    def note_success(self, key: Key) -> None:
        """Count a call that began to answer; a half-open breaker closes."""
        now_s = self._clock()
        minute = self._minutes.get(key) or self._minutes.setdefault(key, _Minute())
        minute.add(now_s, False)
        if self._shut or self._alerts:
            self._recover(key, now_s)

    def note_failure(
        self, key: Key, kind: str, retry_after_s: float | None, alone: bool, status: int | None = None
    ) -> None:
        """Count a failed attempt.

        `kind` and `status` are those of an `AttemptFault`; `alone` says that the request had no other offer.
        """
        if kind in CALLERS_FAULTS:
            return
        now_s, asked_s = self._clock(), _sane_wait(retry_after_s)
        if kind == "auth":
            self._refused(key, status, now_s)
        elif kind == "rate_limited":
            self._open(key, "rate", "the provider asked to wait", asked_s, now_s)
        else:
            if kind == "not_found":
                self._alert(key, status, "it does not know the model", _MEND_MODEL, now_s)
            self._failed(key, kind, asked_s, alone, now_s)

    def may_try(self, key: Key, alone: bool = False) -> bool:
        """Tell whether `enter` would let an attempt through; changes nothing."""
        return not self._shut or not any(shut.stops(self._clock(), alone) for shut in self._shut_of(key))

    def enter(self, key: Key, alone: bool = False) -> Entry | None:
        """Return leave for one attempt, None while the offer rests; of a half-open one only one is the trial.

        Hand what it returns to `release` in a `finally`.
        """
        if not self._shut or not (found := self._shut_of(key)):
            return FREE
        now_s = self._clock()
        if any(shut.stops(now_s, alone) for shut in found):
            return None
        tried = [shut for shut in found if not (alone and shut.cause in _SOFT)]
        if not tried:
            return FREE
        trial = Entry()
        for shut in tried:
            shut.trial, shut.trial_ends_s = trial, now_s + TRIAL_S
        self._fresh_until_s = -math.inf
        return trial

    def release(self, entry: Entry) -> None:
        """End an attempt; a trial that was neither noted as success nor as failure leaves room for the next.

        So it is after the caller's own faults, and when the client leaves.
        """
        if entry is FREE:
            return
        for shut in self._shut.values():
            if shut.trial is entry:
                shut.trial = None
        self._fresh_until_s = -math.inf

    def blocked(self, alone: bool = False) -> Mapping[Key, Blocked]:
        """Return the offers that rest now; for a request without another offer, those that rest for it."""
        if not self._shut:
            return _NOTHING
        now_s = self._clock()
        if now_s >= self._fresh_until_s:
            self._list_blocked(now_s)
        return self._blocked_hard if alone else self._blocked

    def states(self) -> dict[Key, State]:
        """Return the state of each offer's breaker that is not closed."""
        now_s = self._clock()
        states: dict[Key, State] = {}
        for subject, shut in self._shut.items():
            for key in self._keys(subject):
                is_open = now_s < shut.until_s or states.get(key) == "open"
                states[key] = "open" if is_open else "half_open"
        return states

    def alerts(self) -> tuple[Alert, ...]:
        """Return what needs the operator, oldest first; a success takes its alert away."""
        return tuple(self._alerts.values())

    def _shut_of(self, key: Key) -> list[_Shut]:
        return [shut for subject in (key, (key[0], None)) if (shut := self._shut.get(subject)) is not None]

    def _keys(self, subject: _Subject) -> Collection[Key]:
        """Return the offers that a subject's breaker is about."""
        provider, upstream_model = subject
        if upstream_model is not None:
            return ((provider, upstream_model),)
        return [key for key in self._models if key[0] == provider]

    def _list_blocked(self, now_s: float) -> None:
        self._blocked, self._blocked_hard = {}, {}
        # Whole seconds are told, so a list serves for one; sooner if something opens.
        fresh_until_s = now_s + 1
        for subject, shut in self._shut.items():
            if not shut.stops(now_s, alone=False):
                continue
            opens_s = shut.opens_s(now_s)
            fresh_until_s = min(fresh_until_s, opens_s)
            wait_s = max(1, math.ceil(round(opens_s - now_s, 3)))  # 42 s are told as 42, not 43
            lists = [self._blocked] if shut.cause in _SOFT else [self._blocked, self._blocked_hard]
            for key in self._keys(subject):
                model = self._models.get(key, key[1])
                if shut.cause == "rate":  # to the client a limit stands in the way, nothing is broken
                    told = f"{model} at {key[0]} is at its provider's limit: {shut.why}"
                    block = Blocked("rate_limited", wait_s, told)
                else:
                    told = f"{model} at {key[0]} is cooling down: {shut.why}"
                    block = Blocked("cooling", wait_s, told)
                for listed in lists:
                    if key not in listed or listed[key].retry_after_s < wait_s:
                        listed[key] = block
        self._fresh_until_s = fresh_until_s

    def _open(self, subject: _Subject, cause: _Cause, why: str, asked_s: float | None, now_s: float) -> None:
        """Open a breaker, or reopen it after a trial: for the time asked for, else doubled each time."""
        self._fresh_until_s = -math.inf
        shut = self._shut.get(subject)
        if shut is None:
            wait_s = _FIRST_WAIT_S[cause] if asked_s is None else asked_s
            self._shut[subject] = _Shut(cause, why, now_s + wait_s)
        elif now_s < shut.until_s:
            self._lengthen(shut, cause, why, asked_s, now_s)
        else:
            shut.repeats = shut.repeats + 1 if shut.cause == cause else 0
            doubled_s = min(_FIRST_WAIT_S[cause] * 2 ** min(shut.repeats, 20), LONGEST_WAIT_S)
            shut.cause, shut.why, shut.trial = cause, why, None
            shut.until_s = now_s + (doubled_s if asked_s is None else asked_s)

    def _lengthen(self, shut: _Shut, cause: _Cause, why: str, asked_s: float | None, now_s: float) -> None:
        """Take in what calls met that were under way when it opened: it may rest longer, never doubled."""
        harder = _HARDNESS[cause] > _HARDNESS[shut.cause]
        if harder:
            shut.cause, shut.why, shut.repeats = cause, why, 0
        if asked_s is not None or harder:
            wait_s = _FIRST_WAIT_S[cause] if asked_s is None else asked_s
            shut.until_s = max(shut.until_s, now_s + wait_s)

    def _failed(self, key: Key, kind: str, asked_s: float | None, alone: bool, now_s: float) -> None:
        minute = self._minutes.get(key) or self._minutes.setdefault(key, _Minute())
        minute.add(now_s, True)
        if alone:
            return
        shut = self._shut.get(key)
        if kind == "unavailable" and asked_s is not None:
            self._open(key, "asked", "the provider asked to wait", asked_s, now_s)
        elif shut is not None:
            if now_s >= shut.until_s:
                self._open(key, "failures", "the last trial call failed", None, now_s)
        else:
            calls, failures = minute.counts(now_s)
            if calls >= LEAST_CALLS and failures >= FAILED_SHARE * calls:
                why = f"{failures} of {calls} calls failed in the last minute"
                self._open(key, "failures", why, None, now_s)
                _log.warning("%s at %s rests for %.0f s: %s", key[1], key[0], FAILURES_WAIT_S, why)

    def _refused(self, key: Key, status: int | None, now_s: float) -> None:
        told = "" if status is None else f" ({status})"
        subject: _Subject = key
        if status != 403:
            refused = self._refusals.setdefault(key[0], set())
            refused.add(key)
            if len(refused) >= PROVIDERS_OFFERS:
                subject = (key[0], None)
                for offer in refused:  # the provider's breaker takes the place of theirs
                    self._shut.pop(offer, None)
                    self._alerts.pop(offer, None)
        self._open(subject, "auth", "its provider turns the router away", None, now_s)
        self._alert(subject, status, f"the key was refused{told}", _MEND_KEY, now_s)

    def _alert(self, subject: _Subject, status: int | None, what: str, mend: str, now_s: float) -> None:
        """Raise an alert, once until a success takes it away."""
        if subject in self._alerts:
            return
        provider, upstream_model = subject
        detail = f"{what}; {mend}"
        self._alerts[subject] = Alert(provider, upstream_model, status, detail, now_s)
        _log.error("%s needs attention: %s", _name(subject), detail)

    def _recover(self, key: Key, now_s: float) -> None:
        """Close what is half-open; a success while it is open began before and says nothing."""
        self._refusals.pop(key[0], None)
        for subject in (key, (key[0], None)):
            shut = self._shut.get(subject)
            if shut is not None and now_s < shut.until_s:
                continue
            if shut is not None:
                del self._shut[subject]
                self._fresh_until_s = -math.inf
                if subject == key:
                    self._minutes[key] = _Minute()
            if self._alerts.pop(subject, None) is not None:
                _log.info("%s works again", _name(subject))


def _name(subject: _Subject) -> str:
    provider, upstream_model = subject
    return f"provider {provider}" if upstream_model is None else f"{upstream_model} at {provider}"


def _sane_wait(retry_after_s: float | None) -> float | None:
    """Return a Retry-After within 1 s and an hour; None for what is none."""
    if retry_after_s is None or not math.isfinite(retry_after_s) or retry_after_s < 0:
        return None
    return min(max(retry_after_s, 1.0), LONGEST_ASKED_S)
