"""What an upstream's 402 asks for, by x402 or MPP, read as a stranger's text; and what is sent in answer.

x402 v2: the scheme `exact` by EIP-3009. `upto` is left out: it needs an allowance of the wallet for Permit2,
which takes a transaction of its own or one more signature. MPP (draft-httpauth-payment-00): `evm/charge` with
a credential of type `authorization`, which is the same signature; `tempo/charge` is left out, since it signs
a whole transaction of another chain.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import secrets
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

import msgspec
from msgspec import Raw, Struct, field

from router.access.assets import USDC, checksummed
from router.access.terms import HEADER_BYTES, Asset
from router.access.wallet_key import Transfer, keccak

LONGEST_S: Final = 600
"""The longest that a signature of ours is good."""
SHORTEST_S: Final = 10
"""The shortest time in which one can be used; facilitators want 6 s."""
_AMOUNT = re.compile(r"[1-9][0-9]{0,38}", re.ASCII)
_ADDRESS = re.compile(r"0x[0-9a-fA-F]{40}", re.ASCII)
_HASH = re.compile(r"0x[0-9a-fA-F]{64}", re.ASCII)
_PARAMETER = re.compile(
    r"\s*(?:,\s*)?(?:([A-Za-z][\w-]*)[ \t]+)?([\w-]+)[ \t]*=[ \t]*(?:\"((?:[^\"\\]|\\.)*)\"|([^\s,\"]+))",
    re.ASCII,
)
_OTHER_HEADER: Final = "payment-authorization"
_Headers = Iterable[tuple[bytes, bytes]]


class NotPayable(Exception):
    """A demand that is not paid; the text is ours, for the operator's log."""


class Demanded(Protocol):
    """One thing that may be paid."""

    @property
    def asset(self) -> Asset:
        """The token, as our table describes it."""
        ...

    @property
    def amount(self) -> int:
        """How many atomic units of it."""
        ...

    @property
    def pay_to(self) -> str:
        """The payee, in lower case."""
        ...

    def transfer(self, now: float) -> Transfer:
        """Return what is to be signed. Raises NotPayable for a time that does not fit."""
        ...

    def answer(self, transfer: Transfer, payer: str, signature: str) -> tuple[bytes, bytes]:
        """Return the header that carries the signature."""
        ...


class Exact(Struct, frozen=True):
    """One of x402's `accepts`, which goes back as it came, and the resource that it is for."""

    asset: Asset
    amount: int
    pay_to: str
    valid_s: int
    accepted: Raw
    resource: Raw

    def transfer(self, now: float) -> Transfer:
        """Return what is to be signed; its nonce is random."""
        return Transfer(
            self.asset, self.pay_to, self.amount, 0, int(now) + self.valid_s, secrets.token_bytes(32)
        )

    def answer(self, transfer: Transfer, payer: str, signature: str) -> tuple[bytes, bytes]:
        """Return PAYMENT-SIGNATURE."""
        payload = {
            "x402Version": 2,
            "resource": self.resource,
            "accepted": self.accepted,
            "payload": {"signature": signature, "authorization": _authorization(transfer, payer)},
        }
        return b"payment-signature", base64.b64encode(msgspec.json.encode(payload))


class Charge(Struct, frozen=True):
    """One challenge of MPP's `evm/charge`; its parameters go back as they came."""

    asset: Asset
    amount: int
    pay_to: str
    parameters: dict[str, str]
    expires_at: float | None

    def transfer(self, now: float) -> Transfer:
        """Return what is to be signed; its nonce binds it to this challenge."""
        valid_s = LONGEST_S if self.expires_at is None else min(LONGEST_S, int(self.expires_at - now))
        if valid_s < SHORTEST_S:
            raise NotPayable("its challenge has expired")
        nonce = keccak((self.parameters["id"] + self.parameters["realm"]).encode())
        return Transfer(self.asset, self.pay_to, self.amount, 0, int(now) + valid_s, nonce)

    def answer(self, transfer: Transfer, payer: str, signature: str) -> tuple[bytes, bytes]:
        """Return the credential's header: `Authorization`, unless the challenge names the other one."""
        credential = {
            "challenge": {name: text for name, text in self.parameters.items() if name != "header"},
            "source": f"did:pkh:{self.asset.network}:{payer}",
            "payload": {
                "type": "authorization",
                **_authorization(transfer, payer),
                "signature": signature,
            },
        }
        text = base64.urlsafe_b64encode(msgspec.json.encode(credential)).rstrip(b"=")
        other = self.parameters.get("header", "").lower() == _OTHER_HEADER
        return _OTHER_HEADER.encode() if other else b"authorization", b"Payment " + text


def x402_demands(headers: _Headers, url: str) -> list[Demanded]:
    """Return what a 402 of x402 offers and we could sign, cheapest first. Raises NotPayable."""
    value = _only(headers, b"payment-required")
    try:
        text = base64.b64decode(value, validate=True).decode()  # all of it: its parts are decoded later
        required = msgspec.json.decode(text, type=_Required)
    except (msgspec.MsgspecError, binascii.Error, ValueError, RecursionError):
        raise NotPayable("its PAYMENT-REQUIRED is not base64 of an x402 v2 PaymentRequired") from None
    if required.version != 2:
        raise NotPayable(f"it speaks x402 version {required.version}, not 2")
    _check_resource(required.resource, url)
    return _payable([(_exact, (raw, required.resource)) for raw in required.accepts])


def mpp_demands(headers: _Headers, body: bytes) -> list[Demanded]:
    """Return the challenges of a 402 that we could sign, cheapest first. Raises NotPayable."""
    values = [value for name, value in headers if name == b"www-authenticate"]
    if sum(map(len, values)) > HEADER_BYTES:
        raise NotPayable(f"its challenges are over {HEADER_BYTES} bytes")
    found = [parameters for value in values for parameters in _challenges(value.decode("latin-1"))]
    return _payable([(_charge, (parameters, body)) for parameters in found])


def transaction_of(headers: _Headers) -> str | None:
    """Return the transaction that a receipt of either protocol tells; None where there is none to believe."""
    for name, value in headers:
        if len(value) > HEADER_BYTES:
            continue
        try:
            if name == b"payment-response":
                settled = msgspec.json.decode(base64.b64decode(value, validate=True), type=_Settled)
                told = settled.transaction if settled.success else ""
            elif name == b"payment-receipt":
                receipt = msgspec.json.decode(_unpadded(value.decode("ascii")), type=_Receipt)
                told = receipt.reference if receipt.status == "success" else ""
            else:
                continue
        except (msgspec.MsgspecError, binascii.Error, ValueError, RecursionError):
            continue
        if _HASH.fullmatch(told):
            return told.lower()
    return None


class _Requirements(Struct, rename="camel"):
    scheme: str
    network: str
    amount: str
    asset: str
    pay_to: str
    max_timeout_seconds: int
    extra: dict[str, Any] = {}


class _Required(Struct):
    version: int = field(name="x402Version")
    accepts: list[Raw] = []
    resource: Raw = Raw(b"null")


class _Resource(Struct):
    url: str = ""


class _Settled(Struct):
    success: bool = False
    transaction: str = ""


class _Receipt(Struct):
    status: str = ""
    reference: str = ""


class _Details(Struct, rename="camel"):
    chain_id: int
    credential_types: list[str] | None = None
    decimals: int | None = None


class _ChargeRequest(Struct, rename="camel"):
    amount: str
    currency: str
    recipient: str
    method_details: _Details


def _payable(offered: Sequence[tuple[Any, tuple[Any, ...]]]) -> list[Demanded]:
    """Read each offer; one that cannot be signed is left out, and told where none is left."""
    found: list[Demanded] = []
    reasons: list[str] = []
    for read, arguments in offered:
        try:
            found.append(read(*arguments))
        except NotPayable as fault:
            reasons.append(str(fault))
    if not found:
        raise NotPayable("; ".join(dict.fromkeys(reasons))[:500] or "it offers nothing to sign")
    return sorted(found, key=lambda demand: demand.asset.nusd_up(demand.amount))


def _exact(raw: Raw, resource: Raw) -> Exact:
    try:
        asked = msgspec.json.decode(raw, type=_Requirements)
    except (msgspec.MsgspecError, RecursionError):
        raise NotPayable("one of its `accepts` is malformed") from None
    if asked.scheme != "exact":
        raise NotPayable("it takes a scheme other than `exact`")
    if asked.extra.get("assetTransferMethod", "eip3009") != "eip3009":
        raise NotPayable("it takes `exact` by Permit2 only")
    asset = _asset(asked.network, asked.asset, asked.extra.get("decimals"))
    if asked.max_timeout_seconds < SHORTEST_S:
        raise NotPayable(f"it wants a signature that is void within {SHORTEST_S} s")
    return Exact(
        asset,
        _amount(asked.amount),
        _payee(asked.pay_to),
        min(LONGEST_S, asked.max_timeout_seconds),  # theirs is a maximum too
        Raw(bytes(raw)),
        Raw(bytes(resource)),
    )


def _charge(parameters: dict[str, str], body: bytes) -> Charge:
    if (parameters.get("method"), parameters.get("intent")) != ("evm", "charge"):
        raise NotPayable("it takes a method other than `evm/charge`")
    if not parameters.get("id") or not parameters.get("realm"):
        raise NotPayable("its challenge has no id or no realm")
    try:
        asked = msgspec.json.decode(_unpadded(parameters.get("request", "")), type=_ChargeRequest)
        expires = parameters.get("expires")
        expires_at = None if expires is None else datetime.fromisoformat(expires).timestamp()
    except (msgspec.MsgspecError, binascii.Error, ValueError, OverflowError, RecursionError):
        raise NotPayable("its challenge is malformed") from None
    details = asked.method_details
    if details.credential_types is not None and "authorization" not in details.credential_types:
        raise NotPayable("it takes no credential of type `authorization`")
    digest = parameters.get("digest")
    if digest is not None and digest != _digest(body):
        raise NotPayable("its challenge is for another body")
    asset = _asset(f"eip155:{details.chain_id}", asked.currency, details.decimals)
    return Charge(asset, _amount(asked.amount), _payee(asked.recipient), parameters, expires_at)


def _asset(network: str, address: str, decimals: object) -> Asset:
    """Return our own description of a token. Raises NotPayable for one that is not in our table."""
    asset = USDC.get(network)
    if asset is None or asset.address.lower() != address.lower():
        raise NotPayable("it wants a token or a network that this wallet does not pay with")
    if decimals is not None and decimals != asset.decimals:
        raise NotPayable("it is wrong about the token's decimals")
    return asset


def _amount(text: str) -> int:
    if _AMOUNT.fullmatch(text) is None:
        raise NotPayable("its amount is not a positive whole number")
    return int(text)


def _payee(address: str) -> str:
    if _ADDRESS.fullmatch(address) is None:
        raise NotPayable("its payee is not an address")
    return address.lower()


def _authorization(transfer: Transfer, payer: str) -> dict[str, str]:
    return {
        "from": checksummed(payer),
        "to": checksummed(transfer.to),
        "value": str(transfer.value),
        "validAfter": str(transfer.valid_after),
        "validBefore": str(transfer.valid_before),
        "nonce": "0x" + transfer.nonce.hex(),
    }


def _only(headers: _Headers, wanted: bytes) -> bytes:
    values = [value for name, value in headers if name == wanted]
    if len(values) != 1:
        raise NotPayable(f"it sent {wanted.decode().upper()} {len(values)} times, not once")
    if len(values[0]) > HEADER_BYTES:
        raise NotPayable(f"its {wanted.decode().upper()} is over {HEADER_BYTES} bytes")
    return values[0]


def _check_resource(raw: Raw, url: str) -> None:
    """Refuse what is for sale elsewhere: who passes another seller's 402 on would have us pay for that."""
    try:
        resource = msgspec.json.decode(raw, type=_Resource | None)
        named = urlsplit("" if resource is None else resource.url).hostname
    except (msgspec.MsgspecError, ValueError, RecursionError):
        raise NotPayable("its `resource` is malformed") from None
    if named and named != urlsplit(url).hostname:
        raise NotPayable("it asks for the payment of another host's resource")


def _challenges(value: str) -> Iterator[dict[str, str]]:
    """Yield the parameters of each challenge of the scheme Payment (RFC 9110 section 11.6.1)."""
    at, scheme, parameters = 0, "", dict[str, str]()
    while found := _PARAMETER.match(value, at):
        begins, name, quoted, plain = found.groups()
        if begins is not None:
            if scheme == "payment":
                yield parameters
            scheme, parameters = begins.lower(), {}
        parameters.setdefault(name.lower(), plain if quoted is None else re.sub(r"\\(.)", r"\1", quoted))
        at = found.end()
    if scheme == "payment":
        yield parameters


def _digest(body: bytes) -> str:
    return f"sha-256=:{base64.b64encode(hashlib.sha256(body).digest()).decode()}:"


def _unpadded(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
