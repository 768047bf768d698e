"""The facilitator: somebody who checks wallets' signatures and sends their transfers to the chain, for us.

x402 v2's facilitator interface over HTTP. It serves x402 and MPP's evm alike: `PaymentClaim.order` is the
PaymentPayload and the PaymentRequirements that it is asked with. Its word is believed only where it fits what
was asked, and never repeated: clients and the log get our own words.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import httpx2 as httpx
import msgspec
from pydantic import SecretStr

from router.access import reasons
from router.access.breaker import Breaker
from router.access.facilitator_answers import NoAnswer, Supported, read_settled, read_supported, read_verified
from router.access.orders import VERSION
from router.access.terms import Away, Refused, Settled, Settler, Unknown
from router.ledger.payments import PaymentClaim

UNSURE = "unknown:"
"""Begins what stands for the transaction of a transfer that happened and nobody could name."""
MAX_ANSWER_BYTES = 64 * 1024
# A no may come with one of these, as x402's HTTP transport says; a yes may not.
_REFUSALS = frozenset((400, 402, 412, 422))

_log = logging.getLogger("router.access")


_Read = TypeVar("_Read")


class _Order(msgspec.Struct):
    """What `PaymentClaim.order` holds."""

    payload: msgspec.Raw = msgspec.field(name="paymentPayload")
    requirements: dict[str, Any] = msgspec.field(name="paymentRequirements")


class _NotSent(Exception):
    """No connection came about: nothing was asked."""


class Facilitator(Settler):
    """Ask one facilitator about payments on one network by some schemes.

    `clock` never steps and times its rests, `now` tells the time (seconds since 1970). Every wait is bounded:
    `connect_s`, `verify_s` and `settle_s` for the whole of a call.
    """

    def __init__(
        self,
        url: str,
        network: str,
        schemes: Sequence[str],
        *,
        headers: Mapping[str, SecretStr],
        clock: Callable[[], float],
        now: Callable[[], float],
        transport: httpx.AsyncBaseTransport | None = None,
        connect_s: float = 5.0,
        verify_s: float = 20.0,
        settle_s: float = 60.0,
        pause_s: float = 1.0,
        breaker: Breaker | None = None,
    ) -> None:
        self._url = url.rstrip("/")
        self._network = network
        self._schemes = tuple(schemes)
        self._sent = {
            "accept": "application/json",
            "accept-encoding": "identity",
            "content-type": "application/json",
            **{name: value.get_secret_value() for name, value in headers.items()},
        }
        self._now = now
        self._transport = transport
        self._connect_s = connect_s
        self._verify_s = verify_s
        self._settle_s = settle_s
        self._pause_s = pause_s
        self._breaker = breaker or Breaker(clock)
        self._supported: Supported | None = None

    @property
    def available(self) -> bool:
        """Tell whether offers can be made: it is known what it supports, and it does not rest."""
        return self._supported is not None and self._breaker.closed

    @property
    def address(self) -> str | None:
        """Return the address that `upto` binds a payment to."""
        return self._supported.address if self._supported else None

    @property
    def addresses(self) -> frozenset[str]:
        """Return all of its addresses, in lower case."""
        return self._supported.addresses if self._supported else frozenset()

    @property
    def extensions(self) -> frozenset[str]:
        """Return the extensions of x402 that it supports."""
        return self._supported.extensions if self._supported else frozenset()

    async def start(self) -> None:
        """Learn what it supports. Raises Refused when one of our schemes is not, Away."""
        try:
            supported = await self._ask(
                "/supported",
                None,
                self._verify_s,
                lambda status, told: read_supported(status, told, self._network),
            )
        except (_NotSent, NoAnswer) as fault:
            raise Away("the facilitator (ROUTER_X402_FACILITATOR) does not answer GET /supported") from fault
        self.learn(supported)

    def learn(self, supported: Supported) -> None:
        """Take what it supports. Raises Refused when one of our schemes is not."""
        missing = [scheme for scheme in self._schemes if scheme not in supported.schemes]
        if missing:
            offered = ",".join(sorted(supported.schemes & {"upto", "exact"}))
            hint = (
                f"set ROUTER_X402_SCHEMES={offered}" if offered else "set ROUTER_X402_NETWORK to one of its"
            )
            raise Refused(
                f"the facilitator (ROUTER_X402_FACILITATOR) does not settle x402 version 2's"
                f" {' and '.join(missing)} on {self._network}: {hint}, or use another facilitator",
                fresh=False,
            )
        self._supported = supported

    async def verify(self, claim: PaymentClaim) -> None:
        """Ask whether a signature is good. Raises Refused, Away."""
        if not self._breaker.closed:
            raise Away("resting")
        told = await self._verify(claim)
        if told is not None:
            reason = reasons.known_reason(told)
            raise Refused(reason, fresh=reason != reasons.USED)

    async def settle(self, claim: PaymentClaim, amount: int) -> Settled:
        """Have so many atomic units moved; 0 moves nothing.

        What is pending or went wrong on the way is asked for once more, by the identical body: a signature
        moves money once at most. Raises Refused when nothing moved for sure, Unknown, and Away when nothing
        was sent.
        """
        if not 0 <= amount <= claim.amount or (claim.scheme != "upto" and amount != claim.amount):
            raise ValueError(f"{claim.scheme} over {claim.amount} cannot settle {amount}")
        if amount == 0:
            return Settled("", 0)
        body = _question(claim, amount)
        doubts: list[str | None] = []  # of each try that was heard of: its reason, None for no usable word
        for attempt in range(2):
            if attempt:
                await asyncio.sleep(self._pause_s)
            try:
                outcome = await self._ask(
                    "/settle",
                    body,
                    self._settle_s,
                    lambda status, told: read_settled(status, told, claim, amount),
                )
            except _NotSent:
                continue
            except NoAnswer:
                doubts.append(None)
                continue
            if outcome.failed is None:
                return Settled(outcome.transaction, amount)
            reason = reasons.known_reason(outcome.failed)
            # After a try that may have moved it, a no may be about the second transfer alone.
            if not doubts and reasons.is_definite(outcome.failed, outcome.transaction):
                # Whoever used it may have had it moved to us: paying anew may pay twice.
                raise Refused(reason, fresh=reason != reasons.USED)
            doubts.append(reason)
        if not doubts:
            raise Away("not reached")
        # Twice "the transaction failed" without a hash is no "no": x402's own facilitator says that of one
        # whose receipt it could not read, and until that is mined its nonce counts as unused.
        raise Unknown("the settlement's outcome is not known")

    async def moved(self, claim: PaymentClaim) -> Settled | None:
        """Say whether the money moved, by asking whether the signature is still good.

        A used one has moved it, in a transaction that is not told: `unknown:<key>` stands for it, with the
        most that the claim allows as the amount. None when no chain would ever have taken the signature.
        Raises Unknown for what may still be on its way, and for what became void unobserved.
        """
        if self._now() >= claim.expires_at:
            raise Unknown("the signature is void by now, and its facilitator tells of good ones only")
        try:
            told = await self._verify(claim)
        except Away as fault:
            raise Unknown("the facilitator does not answer") from fault
        reason = None if told is None else reasons.known_reason(told)
        if reason == reasons.USED:
            return Settled(UNSURE + claim.key, claim.amount)
        if reason in reasons.NEVER:
            return None
        raise Unknown("the signature has not been used yet")

    async def aclose(self) -> None:
        """Close the connections."""
        if self._transport is not None:
            await self._transport.aclose()

    async def _verify(self, claim: PaymentClaim) -> str | None:
        """Return None for a good signature, else the facilitator's reason. Raises Away."""
        body = _question(claim, claim.amount)
        try:
            return await self._ask(
                "/verify", body, self._verify_s, lambda status, told: read_verified(status, told, claim)
            )
        except (_NotSent, NoAnswer) as fault:
            raise Away("no answer") from fault

    async def _ask(
        self, path: str, body: bytes | None, limit_s: float, read: Callable[[int, bytes], _Read]
    ) -> _Read:
        """Return what was read of an answer. Raises _NotSent, NoAnswer."""
        try:
            status, answer = await self._exchange(path, body, limit_s)
            if status != 200 and status not in _REFUSALS:
                raise NoAnswer(f"status_{status}")
            told = read(status, answer)
        except (httpx.ConnectError, httpx.ConnectTimeout) as fault:
            self._silent(path, "unreachable")
            raise _NotSent from fault
        except (httpx.TimeoutException, TimeoutError) as fault:
            self._silent(path, "timeout")
            raise NoAnswer("timeout") from fault
        except httpx.HTTPError as fault:
            self._silent(path, "connection_broken")
            raise NoAnswer("connection_broken") from fault
        except NoAnswer as fault:
            self._silent(path, fault.word)
            raise
        self._breaker.answered()
        return told

    async def _exchange(self, path: str, body: bytes | None, limit_s: float) -> tuple[int, bytes]:
        transport = await self._opened()
        timeout = httpx.Timeout(limit_s, connect=self._connect_s).as_dict()
        # Straight to the transport: a client's redirects, cookies and logins are none of ours, and cost time.
        request = httpx.Request(
            "GET" if body is None else "POST",
            self._url + path,
            headers=self._sent,
            content=body,
            extensions={"timeout": timeout},
        )
        async with asyncio.timeout(limit_s):  # the transport's own time-out starts anew with every piece
            response = await transport.handle_async_request(request)
            try:
                return response.status_code, await _body_of(response)
            finally:
                await response.aclose()

    async def _opened(self) -> httpx.AsyncBaseTransport:
        if self._transport is None:
            self._transport = await asyncio.to_thread(_transport)
        return self._transport

    def _silent(self, path: str, word: str) -> None:
        self._breaker.silent()
        _log.warning("the facilitator gives no answer to %s: %s", path, word)


async def _body_of(response: httpx.Response) -> bytes:
    """Read an answer, up to what one may have. Raises NoAnswer."""
    if response.headers.get("content-encoding", "identity") != "identity":
        raise NoAnswer("compressed")  # not asked for, and it may unpack to anything
    pieces: list[bytes] = []
    size = 0
    async for piece in response.aiter_raw():
        size += len(piece)
        if size > MAX_ANSWER_BYTES:
            raise NoAnswer("too_large")
        pieces.append(piece)
    return b"".join(pieces)


def _transport() -> httpx.AsyncHTTPTransport:
    """Return a pool of its own; to load the certificates takes tens of milliseconds.

    It has no limit: cancelled requests would eat it up (encode/httpcore issue 1093).
    """
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=32, keepalive_expiry=30.0)
    return httpx.AsyncHTTPTransport(limits=limits, trust_env=False)


def _question(claim: PaymentClaim, amount: int) -> bytes:
    """Return the body of a call: the claim's order, with what `upto` asks at last as the required amount."""
    order = msgspec.json.decode(claim.order, type=_Order)
    required = {**order.requirements, "amount": str(amount)}
    return msgspec.json.encode(
        {"x402Version": VERSION, "paymentPayload": order.payload, "paymentRequirements": required}
    )
