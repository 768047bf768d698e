"""Sell by MPP: a challenge a method in a 402, a credential with the next request, a receipt with the answer.

`evm` takes an EIP-3009 authorization, which the facilitator settles as it settles x402's `exact`; `tempo`
takes a signed transaction of that chain, or the hash of one that was sent. Sources:
draft-httpauth-payment-00, and what mppx 0.5.12 and 0.11.0 and pympp 0.16.0 send.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, cast, get_args

import msgspec
from msgspec import Raw, Struct, structs

from router.access import mpp_evm, mpp_tempo, reasons
from router.access.challenge import (
    Ask,
    Challenge,
    credential_text,
    decode,
    digest_text,
    encode,
    encode_own,
    malformed,
    moment,
    read_credential,
    read_opaque,
    seconds_of,
)
from router.access.terms import Asked, Asset, Credential, Headers, Quote, Refused, Settled, Settler
from router.ledger.money import nusd_to_usd
from router.ledger.payments import PaymentClaim, Protocols
from router.payment_settings import is_quotable

INTENT = "charge"
SALT_BYTES = 12
SETTLE_ROOM_S = 30
"""How long an authorization must outlive the wait for the answer's beginning, to be settled then."""
TEMPO_CHALLENGE_S = 25
"""How long a challenge of `tempo` runs.

pympp signs a transaction that is valid until then, at most for 60 s, and Tempo refuses one with an expiring
nonce that is valid for more than 30 s (300 s since its hardfork T11); mppx signs for 25 s whatever we say.
"""

Name = Literal["evm", "tempo"]
Payload = mpp_evm.Authorized | mpp_tempo.Pull | mpp_tempo.Push


class Way(Struct, frozen=True, gc=False):
    """One method of MPP: the token that it takes and who settles it."""

    asset: Asset
    settler: Settler


class Mpp:
    """Make challenges, read credentials, write receipts; implements `Method`.

    `secret` signs the challenges, 32 bytes or more. `ways` are the methods that are offered, in that order.
    `first_byte_s` is the longest that an answer takes to begin: it is paid for then. A payer's unsettled
    payments may come to `open_nusd` in all. `salt` returns so many
    random bytes: each challenge is another one, since each serves once. Raises ValueError for a realm that
    some client could not read.
    """

    def __init__(
        self,
        secret: bytes,
        realm: str,
        pay_to: str,
        ways: Mapping[Name, Way],
        *,
        first_byte_s: float = 600.0,
        open_nusd: int | None = None,
        salt: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        if not is_quotable(realm):
            raise ValueError(
                f"the MPP realm {realm!r} must be plain ASCII without quotes; the host name is a good one"
            )
        self._secret = secret
        self._realm = realm
        self._pay_to = pay_to
        self._open_nusd = open_nusd
        self._ways = dict(ways)
        self._room_s = int(first_byte_s) + SETTLE_ROOM_S
        self._salt = salt

    @property
    def protocol(self) -> Protocols:
        """Its name in claims."""
        return "mpp"

    def offers(self, quote: Quote, asked: Asked, why: str | None) -> Headers:
        """Return one `www-authenticate` header for each method that can be settled now.

        With an API key in `Authorization` the credential is asked for in another header.
        """
        description = f"One request, at most {nusd_to_usd(quote.nusd)} USD"
        other = _carries_key(asked.authorization)
        return [
            (
                b"www-authenticate",
                self._challenge(name, way, quote, asked.now).header(description, other_header=other),
            )
            for name, way in self._ways.items()
            if way.settler.available
        ]

    def read(self, asked: Asked) -> Credential | None:
        """Return the credential that a request brings, None where it brings none of MPP.

        Raises BadRequest for what is not well formed, Refused for what does not answer a challenge of ours.
        """
        text = credential_text(asked.authorization, asked.headers)
        if text is None:
            return None
        presented = read_credential(text)
        challenge = presented.challenge.normal()
        if not challenge.is_ours(self._secret):
            raise Refused(reasons.CHALLENGE, problem="invalid-challenge")
        promise = _promise(challenge)
        payload = _payload(challenge.method, presented.payload)
        _check_time(challenge, promise, payload, asked.now)
        ask = self._check_terms(challenge, promise, asked)
        if isinstance(payload, mpp_evm.Authorized):
            claim = mpp_evm.claim(ask, payload, presented.source, asked.now, self._room_s)
        else:
            claim = mpp_tempo.claim(ask, payload, presented.source, asked.now)
        quote = promise.quote(asked)
        if self._open_nusd is not None:
            claim = structs.replace(claim, exposure_nusd=max(self._open_nusd, quote.nusd))
        # Who pushed has paid already: that is in the books before anything can go wrong.
        return Credential(claim, quote, "at once" if isinstance(payload, mpp_tempo.Push) else "before")

    def takes(self, claim: PaymentClaim) -> bool:
        """Say whether the method of a claim is offered, on its network."""
        way = self._ways.get(_method_of(claim))
        return way is not None and way.asset.network == claim.network

    def settler_of(self, claim: PaymentClaim) -> Settler:
        """Return who settles such a claim."""
        return self._ways[_method_of(claim)].settler

    def failure(self, claim: PaymentClaim, reason: str) -> Headers:
        """Return nothing: a receipt is for success alone."""
        return []

    def receipt(
        self, claim: PaymentClaim, settled: Settled, request_id: str, now: float
    ) -> tuple[bytes, bytes]:
        """Return the `payment-receipt` header of a settled payment."""
        receipt = {
            "status": "success",
            "method": _method_of(claim),
            "timestamp": moment(now),
            "reference": settled.transaction,
            "challengeId": claim.challenge,
            "externalId": request_id,
        }
        return b"payment-receipt", encode_own(receipt).encode("ascii")

    def settlers(self) -> Sequence[Settler]:
        """Return everybody who settles for MPP."""
        return [way.settler for way in self._ways.values()]

    def _challenge(self, name: Name, way: Way, quote: Quote, now: float) -> Challenge:
        # What is signed for `evm` ends with its challenge: it must outlive the wait for the answer.
        ends = quote.expires_at + self._room_s
        if name == "tempo":
            ends = min(int(now) + TEMPO_CHALLENGE_S, quote.expires_at)
        challenge = Challenge(
            id="",
            realm=self._realm,
            method=name,
            intent=INTENT,
            request=self._request(name, way.asset, quote.nusd),
            expires=moment(ends),
            digest=digest_text(quote.body),
            opaque=encode_own(_Promise.of(quote).texts(self._salt(SALT_BYTES))),
        )
        return msgspec.structs.replace(challenge, id=challenge.signed(self._secret))

    def _request(self, name: Name, asset: Asset, nusd: int) -> str:
        """Return what is asked for a quote, as base64url of canonical JSON."""
        request: dict[str, Any] = {
            "amount": str(_amount(asset, nusd)),
            "currency": asset.address,
            "recipient": self._pay_to,
            "methodDetails": (mpp_evm if name == "evm" else mpp_tempo).details(asset),
        }
        return encode_own(request)

    def _check_terms(self, challenge: Challenge, promise: _Promise, asked: Asked) -> Ask:
        """Return what a challenge of ours asks for, if it is what we would ask now. Raises Refused."""
        name = cast("Name", challenge.method)
        way = self._ways.get(name)
        if way is None or challenge.intent != INTENT:
            raise Refused(reasons.METHOD, problem="method-unsupported")
        if challenge.realm != self._realm:
            raise Refused(reasons.REALM, problem="invalid-challenge")
        if challenge.digest != digest_text(asked.body):
            raise Refused(reasons.BODY, problem="invalid-challenge")
        if promise.route != asked.route:
            raise Refused(reasons.ROUTING, problem="invalid-challenge")
        # Equal texts are equal requests: ours is canonical, and so is what had our id.
        if challenge.request != self._request(name, way.asset, promise.nusd):
            raise Refused(reasons.TERMS, problem="invalid-challenge")
        amount = _amount(way.asset, promise.nusd)
        return Ask(challenge.id, self._realm, way.asset, self._pay_to, amount, promise.until)


class _Promise(Struct, frozen=True, gc=False):
    """What `opaque` keeps of a quote; the body stands in the challenge's digest."""

    nusd: int
    route: bytes
    catalog: str
    until: int

    @classmethod
    def of(cls, quote: Quote) -> _Promise:
        """Return what is kept of a quote."""
        return cls(quote.nusd, quote.route, quote.catalog, quote.expires_at)

    @classmethod
    def read(cls, texts: Mapping[str, str]) -> _Promise:
        """Read what `texts` wrote. Raises KeyError, ValueError."""
        return cls(
            nusd=int(texts["nusd"]),
            route=decode(texts["route"]),
            catalog=texts["catalog"],
            until=int(texts["until"]),
        )

    def texts(self, salt: bytes) -> dict[str, str]:
        """Return it as the flat object of texts that `opaque` is; `salt` makes that another one each time."""
        return {
            "nusd": str(self.nusd),
            "route": encode(self.route),
            "catalog": self.catalog,
            "until": str(self.until),
            "salt": encode(salt),
        }

    def quote(self, asked: Asked) -> Quote:
        """Return the quote, for a request whose body has been checked."""
        return Quote(self.nusd, asked.body, self.route, self.catalog, self.until)


class _Kind(Struct, frozen=True, gc=False):
    type: str


_kind = msgspec.json.Decoder(_Kind)


def _promise(challenge: Challenge) -> _Promise:
    """Return what a challenge of ours had promised; its id is right, so only another service's can be odd."""
    try:
        return _Promise.read(read_opaque(str(challenge.opaque)))
    except (KeyError, ValueError, msgspec.MsgspecError):
        raise Refused(reasons.CHALLENGE, problem="invalid-challenge") from None


def _payload(method: str, raw: Raw) -> Payload:
    """Decode a method's payload. Raises BadRequest, and Refused for one that is another way to pay."""
    try:
        kind = _kind.decode(raw).type
    except msgspec.MsgspecError:
        raise malformed("its payload has no type") from None
    if (method, kind) == ("evm", mpp_evm.KIND):
        return mpp_evm.read_payload(raw)
    if method == "tempo" and kind in (mpp_tempo.PULL, mpp_tempo.PUSH):
        return mpp_tempo.read_payload(kind, raw)
    raise Refused(reasons.METHOD, problem="method-unsupported")


def _check_time(challenge: Challenge, promise: _Promise, payload: Payload, now: float) -> None:
    """Refuse a challenge that has ended, or whose price has.

    A client that has sent the money by itself is held to the price alone, which lasts longer: a person may
    have had to agree to it, and what is sent cannot be had back.
    """
    ends = seconds_of(challenge.expires)
    over = ends is None or (ends <= now and not isinstance(payload, mpp_tempo.Push))
    if over or promise.until <= now:
        raise Refused(reasons.QUOTE_EXPIRED, problem="payment-expired")


def _amount(asset: Asset, nusd: int) -> int:
    """Return what is asked for so many nano-USD: at least one unit, since 0 would ask for no payment."""
    return max(1, asset.amount_up(nusd))


def _carries_key(authorization: bytes | None) -> bool:
    return bool(authorization) and credential_text(authorization, {}) is None


def _method_of(claim: PaymentClaim) -> Name:
    name = claim.scheme.partition("/")[0]
    if name not in get_args(Name):
        raise ValueError(f"{claim.scheme} is not a scheme of MPP")
    return cast("Name", name)
