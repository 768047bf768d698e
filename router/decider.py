"""From a parsed request to a decision: the same few calls serve, dry-run, quote and explain."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import datetime

import msgspec
from msgspec import Struct

from router.catalog.snapshot import CATEGORIES, Category, Snapshot
from router.classifier.model import Classifier
from router.classifier.prompt import Prompt, Turn, read
from router.routing.decide import Blocked, Categorised, Decision, Live, decide
from router.routing.live import LiveTable
from router.routing.need import Asked, Need, read_need
from router.routing.sessions import Session, Sessions, session_of
from router.wire import RequestBody

_NO_SHARES: dict[Category, float] = dict.fromkeys(CATEGORIES, 0.0)  # a record names every category
_NOT_READ = Prompt(text="", context="", stripped=False, has_image=False, first_user="")


class Reading(Struct, frozen=True, gc=False):
    """What a request asks for, before anybody is asked who could take it; times in seconds."""

    need: Need
    prompt: Prompt
    categorised: Categorised
    session: Session | None
    account: str
    began_s: float
    classified_s: float


class Judgement(Struct, frozen=True, gc=False):
    """A decision, the words it was read from, and what reading and deciding took, in milliseconds.

    `live` is what was measured and blocked at that moment. `said` is the category of the words alone; a
    conversation may have raised the decision's.
    """

    decision: Decision
    prompt: Prompt
    live: Live
    said: Category | None
    session: Session | None
    timings_ms: dict[str, float]
    decided_s: float


class Decider:
    """Read what a request asks for and decide who serves it; calls nobody, changes nothing."""

    def __init__(
        self,
        classifier: Classifier,
        live: LiveTable,
        sessions: Sessions,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._classifier = classifier
        self._live = live
        self._sessions = sessions
        self._monotonic = monotonic

    def judge(
        self,
        body: RequestBody,
        headers: Mapping[str, str],
        catalog: Snapshot,
        *,
        at: datetime,
        account: str,
        key_models: tuple[str, ...] = (),
    ) -> Judgement:
        """Read and decide at once, as if no offer were full. Raises `BadRequest` and `ModelNotFound`."""
        reading = self.read(body, headers, catalog, at=at, account=account, key_models=key_models)
        return self.decide(reading, catalog, {})

    def read(
        self,
        body: RequestBody,
        headers: Mapping[str, str],
        catalog: Snapshot,
        *,
        at: datetime,
        account: str,
        key_models: tuple[str, ...] = (),
    ) -> Reading:
        """Read what a request asks for. Raises `BadRequest` and `ModelNotFound`."""
        need = read_need(body, headers, catalog, at=at, key_models=key_models)
        began_s = self._monotonic()
        prompt, categorised = self._categorise(need.asked, body)
        classified_s = self._monotonic()
        session = session_of(need.session, body, prompt.first_user or None, headers)
        return Reading(need, prompt, categorised, session, account, began_s, classified_s)

    def decide(
        self, reading: Reading, catalog: Snapshot, at_limit: Mapping[tuple[str, str], Blocked]
    ) -> Judgement:
        """Decide for what was read; `at_limit` are the offers that are full now, by their key."""
        need, categorised, session = reading.need, reading.categorised, reading.session
        asked_s = self._monotonic()
        pinned = self._sessions.find(
            reading.account,
            session,
            reading.began_s,
            idle_s=catalog.policy.session_idle_s,
            prompt_tokens=need.prompt_tokens,
        )
        if pinned is not None:
            need = msgspec.structs.replace(need, pinned=pinned)
        live = self._live.live(at_limit)
        decision = decide(need, categorised, catalog, live, catalog.policy)
        if not decision.candidates and len(decision.blocked) == 1:
            # Its plain failures were counted while there were others to go to; now it is this or nothing.
            live = self._live.live(at_limit, alone=True)
            decision = decide(need, categorised, catalog, live, catalog.policy)
        decided_s = self._monotonic()
        timings_ms = {
            "classify": (reading.classified_s - reading.began_s) * 1e3,
            "decide": (decided_s - asked_s) * 1e3,
        }
        return Judgement(decision, reading.prompt, live, categorised.category, session, timings_ms, decided_s)

    def within(self, judged: Decision, catalog: Snapshot, live: Live, credit_nusd: int) -> Decision:
        """Decide the same need again, among the offers whose worst case a credit covers."""
        need = msgspec.structs.replace(judged.need, credit_nusd=credit_nusd)
        return decide(need, judged.categorised, catalog, live, catalog.policy)

    def _categorise(self, asked: Asked, body: RequestBody) -> tuple[Prompt, Categorised]:
        """Name the category: the client's own word, else what the words say; an image means vision."""
        if asked.model is not None:
            return _NOT_READ, Categorised()
        if asked.category is not None:
            return _NOT_READ, Categorised(asked.category, {**_NO_SHARES, asked.category: 1.0}, 1.0)
        prompt = read([Turn(m.role, m.texts, m.images > 0, m.has_tool_calls) for m in body.messages])
        found = self._classifier.classify(prompt)
        probabilities = dict(_NO_SHARES)
        probabilities.update(found.probabilities.items())
        if prompt.has_image:
            return prompt, Categorised("vision", {**probabilities, "vision": 1.0}, 1.0)
        return prompt, Categorised(found.category, probabilities, found.confidence)

    def words(self, prompt: Prompt) -> list[tuple[str, str, float]]:
        """Return the words that weighed most, as (word, category, weight)."""
        return list(self._classifier.explain(prompt)) if prompt.text else []
