"""Selling by x402 v2: the offers of a 402, the payments that answer them, the receipts.

Wire format: the x402 v2 specification with its HTTP transport, schemes `exact` (EIP-3009) and `upto`
(Permit2) for EVM. Our own member of an offer is `extra.quote` (see quotes.py): clients send the
offer that they accept back as it was, so nothing has to be remembered.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec

from router.access import evm, reasons
from router.access.facilitator import UNSURE, Facilitator
from router.access.gas import GAS_OFFER, gas_permit
from router.access.orders import GAS_SPONSORING, VERSION, order, requirements
from router.access.quotes import amount_of, seal, unseal
from router.access.signer import check_permit_signer, check_transfer_signer
from router.access.strict import decode_header, encode_header
from router.access.terms import Asked, Asset, Credential, Headers, Method, Quote, Refused, Settled, Settler
from router.errors import BadRequest
from router.ledger.payments import PaymentClaim, Protocols

REQUIRED = b"payment-required"
SIGNATURE = "payment-signature"
RESPONSE = b"payment-response"
RECEIPT_EXTENSION = "llmRouter"
"""Where a receipt holds our request id: `extensions.llmRouter.requestId`."""
SETTLE_ROOM_S = 30
"""How long a signature must outlive the longest answer, to be settled after it."""
SIGN_ROOM_S = 270
"""How long a client may take to sign, and its clock be wrong."""

_DESCRIPTION = "An answer of a language model"
_AMOUNT = re.compile(r"[1-9][0-9]{0,77}", re.ASCII)
_Form = TypeVar("_Form", evm.ExactPayload, evm.UptoPayload)


class _Payment(msgspec.Struct, frozen=True):
    """The members of a PaymentPayload that are looked at."""

    version: int = msgspec.field(name="x402Version")
    accepted: dict[str, Any]
    payload: dict[str, Any]
    extensions: dict[str, Any] | None = None


class X402(Method):
    """Make offers in one token and read what answers them.

    `first_byte_s` is the longest that an answer takes to begin, when `exact` is settled; `longest_s` the
    longest that it takes to end, when `upto` is.

    `upto` is not offered above `max_nusd`; a payer's unsettled payments may come to `open_nusd` in all.
    """

    def __init__(
        self,
        *,
        pay_to: str,
        asset: Asset,
        schemes: Sequence[str],
        secret: bytes,
        facilitator: Facilitator,
        longest_s: float,
        first_byte_s: float = 300.0,
        max_nusd: int,
        open_nusd: int,
    ) -> None:
        self._pay_to = pay_to
        self._asset = asset
        self._schemes = tuple(schemes)
        self._secret = secret
        self._facilitator = facilitator
        self._exact_room_s = int(first_byte_s) + SETTLE_ROOM_S
        self._upto_room_s = int(longest_s) + SETTLE_ROOM_S
        self._max_nusd = max_nusd
        self._open_nusd = open_nusd

    @property
    def protocol(self) -> Protocols:
        """Its name in claims."""
        return "x402"

    def offers(self, quote: Quote, asked: Asked, why: str | None) -> Headers:
        """Return the header of a 402; none where no scheme takes so much, or the facilitator rests."""
        accepts = self._accepts(quote) if self._facilitator.available else []
        if not accepts:
            return []
        required = {
            "x402Version": VERSION,
            "error": why
            or "this request needs a payment: sign one of `accepts`, send it as PAYMENT-SIGNATURE",
            "resource": {
                "url": asked.resource_url,
                "description": _DESCRIPTION,
                "mimeType": "application/json",
            },
            "accepts": accepts,
            "extensions": GAS_OFFER if self._sponsors(accepts) else {},
        }
        return [(REQUIRED, encode_header(required))]

    def read(self, asked: Asked) -> Credential | None:
        """Return the payment that a request brings, None where it brings none.

        Raises BadRequest for what is not x402 v2, Refused for what does not answer an offer of ours.
        """
        header = asked.headers.get(SIGNATURE)
        if header is None:
            if asked.headers.get("x-payment") is not None:
                raise BadRequest(
                    "X-PAYMENT is x402 version 1; this service takes version 2: send PAYMENT-SIGNATURE",
                    param=SIGNATURE,
                )
            return None
        try:
            tree = decode_header("PAYMENT-SIGNATURE", header)
            paid = msgspec.convert(tree, _Payment)
        except msgspec.ValidationError as fault:
            raise _malformed(str(fault)) from None
        except ValueError as fault:
            raise BadRequest(f"{fault}; it is base64 of x402's PaymentPayload", param=SIGNATURE) from None
        if paid.version != VERSION:
            raise BadRequest(f"x402Version is {paid.version}; this service takes {VERSION}", param=SIGNATURE)
        quote = self._quoted(paid.accepted, asked)
        accepted = self._answered(paid.accepted, quote)
        if accepted["scheme"] == "upto":
            return self._read_upto(paid, accepted, quote, asked.now)
        return self._read_exact(paid, accepted, quote, asked.now)

    def takes(self, claim: PaymentClaim) -> bool:
        """Say whether the facilitator is asked about the network of a claim."""
        return claim.network == self._asset.network

    def settler_of(self, claim: PaymentClaim) -> Settler:
        """Return the facilitator."""
        return self._facilitator

    def settlers(self) -> Sequence[Settler]:
        """Return the facilitator."""
        return (self._facilitator,)

    def receipt(
        self, claim: PaymentClaim, settled: Settled, request_id: str, now: float
    ) -> tuple[bytes, bytes]:
        """Return PAYMENT-RESPONSE; its transaction is empty where none was needed, or none is known."""
        transaction = "" if settled.transaction.startswith(UNSURE) else settled.transaction
        body = {
            "success": True,
            "transaction": transaction,
            "network": claim.network,
            "payer": claim.payer,
            **({"amount": str(settled.amount)} if claim.scheme == "upto" else {}),
            "extensions": {RECEIPT_EXTENSION: {"requestId": request_id}},
        }
        return RESPONSE, encode_header(body)

    def failure(self, claim: PaymentClaim, reason: str) -> Headers:
        """Return the PAYMENT-RESPONSE of a settlement that failed."""
        return [refusal(claim.network, claim.payer, reason)]

    def _accepts(self, quote: Quote, facilitator: str | None = None) -> list[dict[str, Any]]:
        amount = amount_of(quote, self._asset)
        token = seal(quote, amount, self._asset, self._secret)
        found = []
        for scheme in self._schemes:
            extra = {"quote": token}
            if scheme == "upto":
                address = facilitator or self._facilitator.address
                if address is None or quote.nusd > self._max_nusd:
                    continue
                extra["facilitatorAddress"] = address
            room_s = self._upto_room_s if scheme == "upto" else self._exact_room_s
            valid_s = room_s + SIGN_ROOM_S
            found.append(requirements(scheme, self._asset, self._pay_to, amount, valid_s, extra))
        return found

    def _sponsors(self, accepts: list[dict[str, Any]]) -> bool:
        upto = any(offer["scheme"] == "upto" for offer in accepts)
        return upto and GAS_SPONSORING in self._facilitator.extensions

    def _quoted(self, accepted: dict[str, Any], asked: Asked) -> Quote:
        """Return what we had promised for this request. Raises Refused."""
        amount, extra = accepted.get("amount"), accepted.get("extra")
        token = extra.get("quote") if isinstance(extra, dict) else None
        if not isinstance(amount, str) or not isinstance(token, str) or _AMOUNT.fullmatch(amount) is None:
            raise Refused(reasons.OFFER_UNKNOWN)
        quote = unseal(token, int(amount), self._asset, asked, self._secret)
        if quote is None:
            raise Refused(reasons.OFFER_UNKNOWN)
        if quote.expires_at <= asked.now:
            raise Refused(reasons.QUOTE_EXPIRED)
        return quote

    def _answered(self, accepted: dict[str, Any], quote: Quote) -> dict[str, Any]:
        """Return the offer that was accepted, as we made it. Raises Refused unless every member is equal."""
        # A facilitator has several addresses and names any of them: another worker's offer is ours too.
        address = accepted["extra"].get("facilitatorAddress")
        known = isinstance(address, str) and address.lower() in self._facilitator.addresses
        ours = next(
            (
                offer
                for offer in self._accepts(quote, address if known else None)
                if offer["scheme"] == accepted.get("scheme")
            ),
            None,
        )
        if ours is None or not hmac.compare_digest(_comparable(accepted), _comparable(ours)):
            raise Refused(reasons.OFFER_UNKNOWN)
        return ours

    def _read_exact(self, paid: _Payment, accepted: dict[str, Any], quote: Quote, now: float) -> Credential:
        payload = _converted(paid.payload, evm.ExactPayload)
        signed = payload.authorization
        amount = amount_of(quote, self._asset)
        evm.check_authorization(
            signed, pay_to=self._pay_to, amount=amount, now=now, room_s=self._exact_room_s
        )
        check_transfer_signer(self._asset, signed, payload.signature)
        claim = PaymentClaim(
            key=evm.authorization_key(self._asset, signed),
            challenge=None,
            protocol="x402",
            scheme="exact",
            network=self._asset.network,
            asset=self._asset.address.lower(),
            payer=signed.from_.lower(),
            pay_to=self._pay_to.lower(),
            amount=amount,
            expires_at=int(signed.valid_before),
            order=order(accepted, payload),
            exposure_nusd=max(self._open_nusd, quote.nusd),  # one is always let in
        )
        return Credential(claim, quote, "before")

    def _read_upto(self, paid: _Payment, accepted: dict[str, Any], quote: Quote, now: float) -> Credential:
        payload = _converted(paid.payload, evm.UptoPayload)
        signed = payload.permit2_authorization
        amount = amount_of(quote, self._asset)
        evm.check_permit(
            signed,
            asset=self._asset,
            pay_to=self._pay_to,
            facilitator=accepted["extra"]["facilitatorAddress"],
            amount=amount,
            now=now,
            room_s=self._upto_room_s,
        )
        check_permit_signer(self._asset, signed, payload.signature)
        gas = None
        if GAS_SPONSORING in self._facilitator.extensions:
            try:
                gas = gas_permit(paid.extensions, signed, now=now, room_s=self._upto_room_s)
            except msgspec.ValidationError as fault:
                raise _malformed(str(fault)) from None
        claim = PaymentClaim(
            key=evm.permit_key(self._asset, signed),
            challenge=None,
            protocol="x402",
            scheme="upto",
            network=self._asset.network,
            asset=self._asset.address.lower(),
            payer=signed.from_.lower(),
            pay_to=self._pay_to.lower(),
            amount=amount,
            expires_at=int(signed.deadline),
            order=order(accepted, payload, gas),
            exposure_nusd=self._open_nusd,
        )
        return Credential(claim, quote, "after")


def refusal(network: str, payer: str, reason: str) -> tuple[bytes, bytes]:
    """Return the PAYMENT-RESPONSE of a settlement that failed; `errorReason` is one of our words."""
    body = {
        "success": False,
        "errorReason": reason if reason in reasons.REASONS else reasons.INVALID,
        "transaction": "",
        "network": network,
        "payer": payer,
    }
    return RESPONSE, encode_header(body)


def receipt_comment(receipt: bytes) -> bytes:
    """Return the value of a receipt as a comment of a stream, which no header can follow."""
    return b": payment-response " + receipt + b"\n\n"


def _comparable(offer: dict[str, Any]) -> bytes:
    """Return an offer as bytes that are equal for equal offers; the case of an address says nothing."""
    plain = dict(offer)
    for name in ("asset", "payTo"):
        if isinstance(text := plain.get(name), str):
            plain[name] = text.lower()
    return msgspec.json.encode(plain, order="deterministic")


def _converted(payload: dict[str, Any], form: type[_Form]) -> _Form:
    try:
        return msgspec.convert(payload, form)
    except msgspec.ValidationError as fault:
        raise _malformed(str(fault)) from None


def _malformed(fault: str) -> BadRequest:
    return BadRequest(
        f"PAYMENT-SIGNATURE is not a PaymentPayload of x402 version 2: {fault}", param=SIGNATURE
    )
