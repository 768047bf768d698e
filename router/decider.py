"""From a parsed request to a decision: the same few calls serve, dry-run, quote and explain."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import datetime

from msgspec import Struct

from router.catalog.snapshot import Category, Snapshot
from router.classifier.model import Classifier
from router.classifier.prompt import Prompt, Turn, read
from router.routing.decide import Blocked, Categorised, Decision, Live, decide
from router.routing.need import Asked, Need, read_need
from router.wire import RequestBody

_NOT_READ = Prompt(text="", context="", stripped=False, has_image=False, first_user="")


class Judgement(Struct, frozen=True, gc=False):
    """A decision, the words it was read from, and what reading and deciding took, in milliseconds."""

    decision: Decision
    prompt: Prompt
    timings_ms: dict[str, float]


class Decider:
    """Read what a request asks for and decide who serves it; calls nobody, changes nothing."""

    def __init__(self, classifier: Classifier, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._classifier = classifier
        self._monotonic = monotonic

    def judge(
        self,
        body: RequestBody,
        headers: Mapping[str, str],
        catalog: Snapshot,
        *,
        at: datetime,
        key_models: tuple[str, ...] = (),
        blocked: Callable[[Snapshot, Need], Mapping[tuple[str, str], Blocked]] | None = None,
    ) -> Judgement:
        """Decide for one request; `blocked` says which offers take nothing now.

        Raises `BadRequest` and `ModelNotFound`.
        """
        need = read_need(body, headers, catalog, at=at, key_models=key_models)
        began_s = self._monotonic()
        prompt, categorised = self._categorise(need.asked, body)
        classified_s = self._monotonic()
        live = Live(blocked=blocked(catalog, need)) if blocked is not None else Live()
        decision = decide(need, categorised, catalog, live, catalog.policy)
        decided_s = self._monotonic()
        timings_ms = {"classify": (classified_s - began_s) * 1e3, "decide": (decided_s - classified_s) * 1e3}
        return Judgement(decision, prompt, timings_ms)

    def _categorise(self, asked: Asked, body: RequestBody) -> tuple[Prompt, Categorised]:
        """Name the category: the client's own word, else what the words say; an image means vision."""
        if asked.model is not None:
            return _NOT_READ, Categorised()
        if asked.category is not None:
            return _NOT_READ, Categorised(asked.category, {asked.category: 1.0}, 1.0)
        prompt = read([Turn(m.role, m.texts, m.images > 0, m.has_tool_calls) for m in body.messages])
        found = self._classifier.classify(prompt)
        probabilities: dict[Category, float] = {}
        probabilities.update(found.probabilities.items())
        if prompt.has_image:
            return prompt, Categorised("vision", {**probabilities, "vision": 1.0}, 1.0)
        return prompt, Categorised(found.category, probabilities, found.confidence)

    def words(self, prompt: Prompt) -> list[tuple[str, str, float]]:
        """Return the words that weighed most, as (word, category, weight)."""
        return list(self._classifier.explain(prompt)) if prompt.text else []
