"""What an answer teaches: how fast its offer was, how long answers are, which conversation it belongs to."""

from __future__ import annotations

from collections.abc import Callable

from router.catalog.snapshot import Policy
from router.routing.live import LiveTable
from router.routing.sessions import Session, Sessions
from router.upstream.stream import StreamRelay
from router.upstream.usage import Bill
from router.walk import Walk


class Learning:
    """Tell the live table and the sessions about one walk; `monotonic` in seconds."""

    def __init__(
        self,
        live: LiveTable,
        sessions: Sessions,
        monotonic: Callable[[], float],
        tell: Callable[[str, Session | None, float], None] | None = None,
    ) -> None:
        """`tell` passes on what is known of a conversation, where replicas share it."""
        self._live = live
        self._sessions = sessions
        self._monotonic = monotonic
        self._tell = tell

    def whole(self, walk: Walk, bill: Bill) -> None:
        """Note how long a whole answer took."""
        if walk.candidate is not None and not bill.estimated:
            took_s = self._monotonic() - walk.attempt_s
            self._live.note_whole(walk.candidate.offer.key, took_s, bill.tokens.completion)

    def stream(self, walk: Walk, relay: StreamRelay, ended_s: float, client_s: float) -> None:
        """Note how fast a stream was, or that it broke after it had begun.

        `client_s` is how long the client was waited for: its pace is not the offer's.
        """
        if walk.candidate is None or walk.first_piece_s is None:
            return
        key = walk.candidate.offer.key
        if relay.broke is not None:
            self._live.note_failure(key, relay.broke.kind, None, len(walk.candidates) == 1)
            return
        tokens = relay.bill_so_far().tokens.completion
        self._live.note_stream(key, walk.attempt_s, walk.first_piece_s, ended_s, tokens, client_s)

    def answered(self, walk: Walk, policy: Policy) -> None:
        """Let the next turn of the conversation, and the next of the category, know of an answer."""
        bill, candidate, decision, caller = walk.bill, walk.candidate, walk.decision, walk.caller
        if bill is None or candidate is None or decision is None or caller is None or walk.outcome != "ok":
            return
        tokens, need = bill.tokens, decision.need
        if not bill.estimated:
            self._live.note_output(decision.categorised.category, tokens.completion // need.choices)
        self._sessions.note(
            caller.account,
            walk.session,
            candidate.offer,
            walk.said,
            tokens.prompt,
            tokens.cached,
            tokens.completion,
            self._monotonic(),
            idle_s=policy.session_idle_s,
            estimated_tokens=need.prompt_tokens,
        )
        if self._tell is not None:
            self._tell(caller.account, walk.session, policy.session_idle_s)
