"""Remember which offer served a conversation, so that the next turn may stay where the prompt is cached.

A client may name its session to the router. Many programs name theirs to any server (`SESSION_HEADERS`;
OpenClaw also below its first message), but not for this purpose: titles, summaries and helpers of a session
come under the name of its talk. So such a name counts together with how the system prompt begins,
or, where there is none, with the user's first words, and a request without an answer in it begins anew.

Otherwise a conversation is recognised by its beginning, which every later turn sends again: a hash of the
first words of the system prompt and of the user. No text is kept. Many requests begin alike without being one
conversation (a test that says "hello", a batch with the same examples), so a derived session is found only by
a request with an answer in it and more messages than the last one had. `prompt_cache_key` keeps such apart
where programs send one, and never joins any: it may be one for a whole program (OpenAI's prompt caching
guide).

Asking changes nothing: `find` reads, only `note`, after an answer, writes. One object a process, used from
its event loop; a restart forgets conversations, which costs each of them one uncached prompt.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping

import msgspec
from msgspec import Struct

from router.catalog.snapshot import Category, Offer
from router.classifier.prompt import Turn, words_of
from router.routing.need import Pinned
from router.wire import MAX_SESSION_CHARS, Message, RequestBody

BOUND = 10_000
# Caches of prompts live 5 minutes without use at Anthropic, 5 to 10 at OpenAI (their prompt caching guides,
# 2026); each use begins the time anew.
CACHE_LIFE_S = 300.0
# Below this OpenAI caches nothing (the same guide), so a miss says nothing about later turns.
_LEAST_CACHED_TOKENS = 1_024
_SYSTEM_CHARS = 256  # a prompt's later lines often tell the time
_USER_CHARS = 2_000
_LONGEST_NAME = 64
# What programs send unasked, or by a switch of their own, the same for all requests of a session: OpenClaw's
# session_id, x-session-affinity and (by its plugin) x-clawrouter-session-id, OpenCode's x-session-id, Codex's
# session-id; docs/clients.md says who was watched. x-client-request-id is one request's elsewhere.
SESSION_HEADERS = (
    "session_id",
    "session-id",
    "x-session-id",
    "x-session-affinity",
    "x-clawrouter-session-id",
)
_HEADERS = frozenset(SESSION_HEADERS)
# In the line that OpenClaw ends the first user message of a session with.
_RUNTIME = re.compile(r"^Runtime: agent=[^\n]{0,2000} \| sessionId=([!-{}~]{1,200})(?: \||$)", re.MULTILINE)
_GOING_SHARE = 0.75  # of the bound, at most, for conversations that went on
_SAME_S = 0.5  # what an age may be off by on its way: one's own answer does not come back as a later one
_HARD: tuple[Category, ...] = ("coding", "reasoning")
_Key = tuple[str, str]
_NO_HEADERS: Mapping[str, str] = {}


class Session(Struct, frozen=True, gc=False):
    """Say which conversation a request belongs to; `session_of` makes it.

    `messages` is the number that the request sends, None where the client named the session; `goes_on` says
    that the request may continue what was noted before.
    """

    id: str
    goes_on: bool
    messages: int | None


def session_of(
    named: str | None,
    body: RequestBody,
    first_user: str | None = None,
    headers: Mapping[str, str] = _NO_HEADERS,
) -> Session | None:
    """Return the session that the client named, to us or to any server, else what the beginning tells.

    `first_user` is `Prompt.first_user` where the prompt was read already; `headers` have small letters. None
    where there are no words.
    """
    if named:
        return Session(named if len(named) <= _LONGEST_NAME else _digest(named), True, None)
    system = next((m for m in body.messages if m.role in ("system", "developer")), None)
    beginning = "" if system is None else "\n".join(system.texts)[:_SYSTEM_CHARS]
    goes_on = any(m.role == "assistant" for m in body.messages)
    theirs = _their_name(headers, body)
    if theirs is not None and beginning:
        return Session(_digest(f"{theirs}\0{beginning}"), goes_on, None)
    words = (first_user or _first_user(body))[:_USER_CHARS]
    if theirs is not None:
        return Session(_digest(f"{theirs}\0\0{words}"), goes_on, None)
    if not words:
        return None
    key = body.members.get("prompt_cache_key")
    if key is not None and len(key) <= MAX_SESSION_CHARS:
        beginning = f"{bytes(key).decode()}\0{beginning}"
    return Session(_digest(f"{beginning}\0{words}"), goes_on, len(body.messages))


def _their_name(headers: Mapping[str, str], body: RequestBody) -> str | None:
    """Return what the client calls its session to any server; what could not be a name is no name."""
    if not _HEADERS.isdisjoint(headers):
        for header in SESSION_HEADERS:
            name = headers.get(header)
            if name and len(name) <= MAX_SESSION_CHARS and name.isascii() and name.isprintable():
                return name
    for message in body.messages:
        if message.role == "user":
            text = message.texts[-1] if message.texts else ""
            found = _RUNTIME.search(text) if "| sessionId=" in text else None
            return found[1] if found is not None else None
    return None


def _first_user(body: RequestBody) -> str:
    """Return the first words of the user, without what clients wrap around them."""
    users = (m for m in body.messages if m.role == "user")
    return next(filter(None, map(_words, users)), "")


def _words(message: Message) -> str:
    return words_of(Turn(message.role, message.texts))[0]


def _digest(text: str) -> str:
    # Lone surrogates cannot come out of JSON that was accepted, but a header is not JSON.
    return "#" + hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


class _State(Struct):
    """What is known of a conversation after its last answer.

    `sent_tokens` and `written_tokens` are the upstream's count of the last prompt and answer, `scale` is our
    estimate of that prompt per token of the upstream's. `share` is the part of what could have been cached
    that was; `cached` that any ever was, or that the price says so.
    """

    model: str
    provider: str
    upstream_model: str
    sent_tokens: int
    written_tokens: int
    scale: float
    share: float
    cached: bool
    messages: int | None
    used_s: float
    hard: Category | None = None
    hard_s: float = 0.0
    simple_s: float | None = None

    def goes_on(self, session: Session, now_s: float, idle_s: float) -> bool:
        """Tell whether a request continues this conversation."""
        if not session.goes_on or now_s - self.used_s > idle_s:
            return False
        return session.messages is None or self.messages is None or session.messages > self.messages

    def floor(self, now_s: float, idle_s: float) -> Category | None:
        """Return the hardest text category that is not older than `idle_s`."""
        if self.hard is not None and now_s - self.hard_s <= idle_s:
            return self.hard
        recent = self.simple_s is not None and now_s - self.simple_s <= idle_s
        return "simple" if recent else None


class Sessions:
    """Hold the last `bound` conversations, by account and session.

    Conversations that went on are kept before those that were noted once, of which most requests are.
    """

    def __init__(self, bound: int = BOUND) -> None:
        self._bound = max(2, bound)
        self._once: dict[_Key, _State] = {}
        self._going: dict[_Key, _State] = {}

    def __len__(self) -> int:
        return len(self._once) + len(self._going)

    def find(
        self, account: str, session: Session | None, now_s: float, *, idle_s: float, prompt_tokens: int
    ) -> Pinned | None:
        """Return what is known of the conversation that a request goes on with; changes nothing.

        `now_s` is a reading of the monotonic clock, `idle_s` the policy's `session_idle_s`, `prompt_tokens`
        the need's estimate of the new prompt: no more than that can be cached.
        """
        if session is None or not session.goes_on:
            return None
        state = self._state((account, session.id))
        if state is None or not state.goes_on(session, now_s, idle_s):
            return None
        cached = 0
        if state.cached and now_s - state.used_s <= CACHE_LIFE_S:
            before = (state.sent_tokens + state.written_tokens) * state.scale
            cached = max(0, min(int(before * state.share), prompt_tokens))
        return Pinned(state.model, state.provider, state.upstream_model, cached, state.floor(now_s, idle_s))

    def note(
        self,
        account: str,
        session: Session | None,
        offer: Offer,
        category: Category | None,
        prompt_tokens: int,
        cached_tokens: int,
        completion_tokens: int,
        now_s: float,
        *,
        idle_s: float,
        estimated_tokens: int,
    ) -> None:
        """Note that an offer answered; the tokens are the bill's, `estimated_tokens` the need's estimate.

        `category` is what the words said, before a floor raised it: else a floor would hold for ever.
        """
        if session is None:
            return
        key = (account, session.id)
        before = self._state(key)
        if before is not None and not before.goes_on(session, now_s, idle_s):
            before = None
        scale = estimated_tokens / prompt_tokens if prompt_tokens > 0 and estimated_tokens > 0 else 1.0
        state = _State(
            *(offer.model, offer.provider, offer.upstream_model),
            sent_tokens=prompt_tokens,
            written_tokens=completion_tokens,
            scale=scale,
            share=1.0,
            cached=offer.price.cache_read < offer.price.input or cached_tokens > 0,
            messages=session.messages,
            used_s=now_s,
        )
        if before is not None:
            _carry_on(state, before, cached_tokens)
        if category in _HARD:
            state.hard, state.hard_s = category, now_s
        elif category == "simple":
            state.simple_s = now_s
        self._put(key, state, going=before is not None, expired_s=now_s - idle_s)

    def told(self, account: str, session: Session, now_s: float) -> bytes | None:
        """Return what is known of a conversation, for another replica; its times are ages."""
        state = self._state((account, session.id))
        if state is None:
            return None
        aged = msgspec.structs.replace(
            state,
            used_s=now_s - state.used_s,
            hard_s=now_s - state.hard_s,
            simple_s=None if state.simple_s is None else now_s - state.simple_s,
        )
        return _encode(aged)

    def learn(self, account: str, session: Session, told: bytes, age_s: float, now_s: float) -> None:
        """Take what another replica told `age_s` ago, unless a later answer is known here."""
        try:
            state = _STATE.decode(told)
        except msgspec.DecodeError:  # a replica of another version
            return
        then_s = now_s - age_s
        state.used_s, state.hard_s = then_s - state.used_s, then_s - state.hard_s
        state.simple_s = None if state.simple_s is None else then_s - state.simple_s
        key = (account, session.id)
        known = self._state(key)
        if known is None or known.used_s + _SAME_S < state.used_s:
            self._put(key, state, going=True, expired_s=-math.inf)

    def _state(self, key: _Key) -> _State | None:
        return self._going.get(key) or self._once.get(key)

    def _put(self, key: _Key, state: _State, *, going: bool, expired_s: float) -> None:
        """Store a state as the latest of its kind; over the bound, the oldest goes."""
        known = self._going.pop(key, None) or self._once.pop(key, None)
        if known is None and len(self) >= self._bound:
            kind = self._going if self._spares_going(expired_s) else self._once
            del kind[next(iter(kind))]
        (self._going if going else self._once)[key] = state

    def _spares_going(self, expired_s: float) -> bool:
        """Tell whether to give up one that went on: an expired one, or one of too many.

        New conversations need room too, or none of them would see its second turn.
        """
        oldest = next(iter(self._going.values()), None)
        if oldest is None:
            return False
        return oldest.used_s < expired_s or not self._once or len(self._going) > self._bound * _GOING_SHARE


_STATE = msgspec.msgpack.Decoder(_State)
_encode = msgspec.msgpack.Encoder().encode


def _carry_on(state: _State, before: _State, cached_tokens: int) -> None:
    """Take over what the conversation's earlier answers showed, at the same offer how its cache works."""
    state.hard, state.hard_s, state.simple_s = before.hard, before.hard_s, before.simple_s
    if (state.provider, state.upstream_model) != (before.provider, before.upstream_model):
        return
    state.cached = state.cached or before.cached
    state.share = before.share
    could = min(before.sent_tokens + before.written_tokens, state.sent_tokens)
    if could >= _LEAST_CACHED_TOKENS and state.used_s - before.used_s <= CACHE_LIFE_S:
        state.share = (before.share + min(1.0, max(0, cached_tokens) / could)) / 2
