"""`/ui/explain`: why a prompt goes where it goes, what would change that, and the answer itself.

What is asked comes and goes in POST bodies only and is kept nowhere. The decision is `router.explained`, as
for `router explain`; the answer is fetched by the browser from `/v1/chat/completions` with the same body.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
from litestar import Request, Response, get, post
from litestar.handlers import HTTPRouteHandler
from msgspec import Struct

from router.catalog.faults import CatalogFaults
from router.catalog.snapshot import CATEGORIES, MODES, Snapshot
from router.decider import Decider
from router.errors import RouterError
from router.explained import Explained, Piece, Weight, by_mode, explain, pieces
from router.routing.decide import Candidate, Decision
from router.routing.explain import baseline_nusd
from router.routing.losers import Loser
from router.running import RunningCatalog, is_demo
from router.settings import Settings
from router.web.explain_form import Asked, body_of, folder_of, read_form
from router.web.guard import Guard, PageFault
from router.web.pages import HEADERS, page, piece, render
from router.web.reasons import BEHIND, dropped, why_won

RANKED_SHOWN = 12
WORDS_SHOWN = 8
MESSAGES_SHOWN = 6
FAULTS_SHOWN = 50
FORM_SLACK_BYTES = 2**20
EXAMPLES = (
    "What is the capital of France?",
    "Write a Python function that merges two sorted lists, with tests.",
    "Prove that the square root of 2 is irrational.",
)


@dataclass(frozen=True, slots=True)
class Explaining:
    """What the page decides with: the service's own parts."""

    settings: Settings
    catalog: RunningCatalog
    decider: Decider
    now: Callable[[], datetime]


class Standing(Struct, frozen=True):
    """Who won for which settings, as the page remembers it from one look to the next."""

    content: str
    mode: str
    cap: str
    catalog: str
    model: str | None = None
    provider: str | None = None
    nusd: int = 0
    seconds: float = 0.0
    quality: float | None = None


_standing = msgspec.json.Decoder(Standing)


def explain_routes(guard: Guard, parts: Explaining) -> list[HTTPRouteHandler]:
    """Return the handlers."""
    most_bytes = parts.settings.max_body_mib * 2**20 + FORM_SLACK_BYTES

    @get("/ui/explain")
    async def blank(request: Request[Any, Any, Any]) -> Response[str]:
        visitor = guard.admin_of(request)
        return page(request, "explain.html", visitor, **_form(parts), **await _answer(parts, Asked()))

    @post("/ui/explain", status_code=200, request_max_body_size=most_bytes)
    async def told(request: Request[Any, Any, Any]) -> Response[str]:
        visitor = guard.admin_of(request)
        asked = read_form(await request.form())
        shown = await _answer(parts, asked)
        if "hx-request" in request.headers:
            return piece(render("explain_result.html", fresh=True, **shown))
        return page(request, "explain.html", visitor, **_form(parts), **shown)

    @post("/ui/explain/body", status_code=200, request_max_body_size=most_bytes)
    async def body(request: Request[Any, Any, Any]) -> Response[bytes]:
        guard.admin_of(request)
        asked = read_form(await request.form())
        try:
            raw = body_of(asked, stream=True)
        except RouterError as fault:
            raise PageFault(422, "That cannot be sent", fault.message) from None
        return Response(raw, media_type="application/json", headers=HEADERS)

    return [blank, told, body]


def _form(parts: Explaining) -> dict[str, Any]:
    current = parts.catalog.current
    return {
        "examples": EXAMPLES,
        "modes": MODES,
        "usual_mode": current.policy.mode,
        "names": ["auto", *CATEGORIES, *current.models],
        "folder": parts.catalog.directory,
        "asks_for_key": parts.settings.asks_for_key,
        "demo": is_demo(current),
        "keeps_prompts": parts.settings.keep_prompts,
    }


async def _answer(parts: Explaining, asked: Asked) -> dict[str, Any]:
    """Return what the result shows: the decision, or what keeps it from being made."""
    nothing: dict[str, Any] = {"told": None, "trouble": "", "faults": [], "asked": asked}
    nothing["faults_shown"] = FAULTS_SHOWN
    if not asked.text.strip() and not asked.image:
        return {**nothing, "before": ""}
    try:
        folder = folder_of(asked.catalog) if asked.catalog else None
        catalog = parts.catalog.current if folder is None else await parts.catalog.other(folder)
        found = explain(
            parts.decider, body_of(asked), {}, catalog, at=parts.now(), request_id="not a request"
        )
    except CatalogFaults as faults:
        where = Path(asked.catalog)
        return {**nothing, "before": asked.before, "faults": [(where, fault) for fault in faults.faults]}
    except RouterError as fault:
        return {**nothing, "before": asked.before, "trouble": fault.message}
    return {**nothing, **_shown(asked, found, catalog, folder)}


def _shown(asked: Asked, found: Explained, catalog: Snapshot, folder: Path | None) -> dict[str, Any]:
    decision = found.judgement.decision
    now = standing(asked, decision)
    before = _before(asked.before)
    losers = decision.losers
    behind = max(0, len(decision.candidates) - 1)
    chosen = decision.chosen
    return {
        "told": found,
        "decision": decision,
        "chosen": chosen,
        "why": why_won(decision) if chosen is not None else "",
        "baseline_nusd": baseline_nusd(decision),
        "baseline": decision.pool.policy.baseline,
        "before": msgspec.json.encode(now).decode(),
        "was": before if before is not None and _comparable(before, now) else None,
        "now": now,
        "modes_won": [(mode, each.chosen) for mode, each in by_mode(found, catalog).items()],
        "ranked": ranking(decision, losers[:behind]),
        "ranked_shown": RANKED_SHOWN,
        "groups": dropped(losers[behind:]),
        "dropped_total": len(losers) - behind,
        "weights": weights(found.words, decision.categorised.category),
        "messages": _messages(found),
        "catalog": catalog,
        "folder_used": folder,
        "offers": sum(len(model.offers) for model in catalog.models.values()),
    }


def standing(asked: Asked, decision: Decision) -> Standing:
    """Return who wins now."""
    chosen = decision.chosen
    at = asked.content_id, decision.need.mode, asked.cap, asked.catalog
    if chosen is None:
        return Standing(*at)
    offer = chosen.model.id, chosen.offer.provider
    return Standing(*at, *offer, chosen.expected_nusd, chosen.seconds, chosen.quality)


def _before(text: str) -> Standing | None:
    try:
        return _standing.decode(text)
    except msgspec.DecodeError:
        return None


def _comparable(was: Standing, now: Standing) -> bool:
    """Tell whether the same words were decided for, with other settings."""
    settings = (was.mode, was.cap, was.catalog) != (now.mode, now.cap, now.catalog)
    return was.content == now.content and settings


def ranking(decision: Decision, behind: Sequence[Loser]) -> list[tuple[Candidate, str, str]]:
    """Return the offers that can serve, best first, each with a word and a sentence for its place."""
    told = [("winner", "")] + [(BEHIND.get(x.reason, x.reason), x.detail) for x in behind]
    return [(candidate, *said) for candidate, said in zip(decision.candidates, told, strict=False)]


def weights(words: Sequence[Weight], category: str | None) -> list[tuple[str, list[Weight], list[Weight]]]:
    """Return for each category, the decided one first, the words for it and those against it."""
    found: list[tuple[str, list[Weight], list[Weight]]] = []
    for name in sorted(CATEGORIES, key=lambda each: each != category):
        own = [each for each in words if each.category == name]
        more = [each for each in own if each.weight > 0.005]
        less = sorted((each for each in own if each.weight < -0.005), key=lambda each: each.weight)
        if more or less:
            found.append((name, more[:WORDS_SHOWN], less[:WORDS_SHOWN]))
    return found


def _messages(found: Explained) -> list[tuple[int, list[Piece]]]:
    """Return the newest messages of the user, in pieces that were kept or stripped."""
    users = [(at, each) for at, each in enumerate(found.body.messages) if each.role == "user"]
    return [(at, pieces(message)) for at, message in islice(reversed(users), MESSAGES_SHOWN)]
