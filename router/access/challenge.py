"""The wire of MPP: challenges, credentials and receipts of the HTTP scheme `Payment`.

Source: draft-httpauth-payment-00. A challenge's id is the HMAC of all that it says, so nothing is stored:
what comes back with the right id is what we had asked.
"""

from __future__ import annotations

import base64
import binascii
import calendar
import hmac
import re
import time
from collections.abc import Mapping
from typing import Any

import msgspec
import rfc8785
from msgspec import Raw, Struct

from router.access import reasons
from router.access.terms import HEADER_BYTES, Asset, Refused
from router.errors import BadRequest

SCHEME = "Payment"
OTHER_HEADER = "Payment-Authorization"
"""Where a credential goes while `Authorization` carries an API key."""
MAX_BRACKETS = 64
"""A credential has four objects; JSON with more brackets than this is not read, so it cannot nest deeply."""
_BASE64URL = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)
_DID = re.compile(r"did:pkh:eip155:([1-9][0-9]{0,17}):(0x[0-9a-fA-F]{40})", re.ASCII)
_MOMENT = re.compile(r"[0-9]{4}-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-5][0-9]Z", re.ASCII)
_MOMENT_FORMAT = "%Y-%m-%dT%H:%M:%SZ"


class Challenge(Struct, frozen=True, gc=False):
    """The parameters of a challenge as they stand on the wire; an absent one is empty.

    `request` and `opaque` are base64url of canonical JSON. mppx 0.5.12 sends `opaque` back as the object that
    it decoded, which `normal` undoes.
    """

    id: str
    realm: str
    method: str
    intent: str
    request: str
    expires: str = ""
    digest: str = ""
    opaque: str | dict[str, str] = ""

    def normal(self) -> Challenge:
        """Return it with `opaque` as the text that we had sent."""
        if isinstance(self.opaque, str):
            return self
        return msgspec.structs.replace(self, opaque=encode_json(self.opaque))

    def signed(self, secret: bytes) -> str:
        """Return the id that these parameters have, base64url of HMAC-SHA-256 over seven fixed slots."""
        opaque = self.opaque if isinstance(self.opaque, str) else encode_json(self.opaque)
        slots = (self.realm, self.method, self.intent, self.request, self.expires, self.digest, opaque)
        return encode(hmac.digest(secret, "|".join(slots).encode(), "sha256"))

    def is_ours(self, secret: bytes) -> bool:
        """Say whether it has the id that we would have given it, in constant time."""
        return hmac.compare_digest(self.id.encode(), self.signed(secret).encode())

    def header(self, description: str, *, other_header: bool) -> bytes:
        """Return the value of its `WWW-Authenticate` header.

        `other_header` asks for the credential in `Payment-Authorization`. The texts hold no quote and no
        backslash, which `is_quotable` says of those that are set by an operator.
        """
        parameters = {
            "id": self.id,
            "realm": self.realm,
            "method": self.method,
            "intent": self.intent,
            "request": self.request,
            "expires": self.expires,
            "digest": self.digest,
            "description": description,
            "opaque": self.opaque,
            "header": OTHER_HEADER if other_header else "",
        }
        texts = ", ".join(f'{name}="{value}"' for name, value in parameters.items() if value)
        return f"{SCHEME} {texts}".encode("ascii")


class Ask(Struct, frozen=True, gc=False):
    """What a challenge of ours asks for: `amount` atomic units of `asset` for `pay_to`, in time for `until`.

    `id` and `realm` are the challenge's. `until` (seconds since 1970) is when its price ends.
    """

    id: str
    realm: str
    asset: Asset
    pay_to: str
    amount: int
    until: int

    def payer(self, source: str, signer: str | None = None) -> str:
        """Return the address that pays, in lower case.

        `source` is what the credential says (`did:pkh:eip155:<chain>:<address>`, may be empty), and `signer`
        who signed, where that is known. Raises Refused where the two differ, BadRequest for neither.
        """
        found = _DID.fullmatch(source)
        if (source or signer is None) and found is None:
            raise malformed("its source is not did:pkh:eip155:<chain>:<address>")
        named = signer if found is None else found.group(2)
        if found is not None and int(found.group(1)) != self.asset.chain_id:
            raise Refused(reasons.NETWORK)
        if named is None or (signer is not None and named.lower() != signer.lower()):
            raise Refused(reasons.PAYER)
        return named.lower()


class Presented(Struct, frozen=True, gc=False):
    """A credential: the challenge that it answers, who says to pay (a DID), and the method's own payload."""

    challenge: Challenge
    payload: Raw
    source: str = ""


_presented = msgspec.json.Decoder(Presented)
_texts = msgspec.json.Decoder(dict[str, str])


def credential_text(authorization: bytes | None, headers: Mapping[str, str]) -> str | None:
    """Return the encoded credential of a request, None where there is none. Raises BadRequest."""
    found = [
        value
        for text in (_text_of(authorization), headers.get(OTHER_HEADER.lower()))
        if text is not None and (value := _after_scheme(text)) is not None
    ]
    if len(found) > 1:
        raise malformed("it came twice, in Authorization and in Payment-Authorization")
    return found[0] if found else None


def read_credential(text: str) -> Presented:
    """Decode a credential. Raises BadRequest for whatever is not well formed, and beyond 16 KB."""
    if len(text) > HEADER_BYTES:
        raise malformed(f"it is longer than {HEADER_BYTES} bytes")
    try:
        data = decode(text)
        data.decode()  # a part that is decoded later must not be the first that is no text
        if data.count(b"{") + data.count(b"[") > MAX_BRACKETS:
            raise malformed("it nests too deeply")
        return _presented.decode(data)
    except (ValueError, msgspec.MsgspecError):
        raise malformed("it is not base64url of the JSON {challenge, source?, payload}") from None


def read_opaque(text: str) -> dict[str, str]:
    """Decode what we had put into `opaque`. Raises ValueError."""
    return _texts.decode(decode(text))


def malformed(why: str) -> BadRequest:
    """Return the error for a credential that cannot be read."""
    return BadRequest(
        f"The payment credential is malformed: {why}. Ask again without it for a new challenge.",
        param="authorization",
        name="malformed_credential",
    )


def encode(data: bytes) -> str:
    """Return base64url without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def decode(text: str) -> bytes:
    """Return the bytes of base64url without padding. Raises ValueError for any other spelling of them."""
    if _BASE64URL.fullmatch(text) is None:
        raise ValueError("not base64url")
    try:
        data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except binascii.Error:
        raise ValueError("not base64url") from None
    if encode(data) != text:
        raise ValueError("not canonical base64url")
    return data


def encode_json(value: Mapping[str, Any]) -> str:
    """Return base64url of canonical JSON (RFC 8785)."""
    return encode(rfc8785.dumps(dict(value)))


def encode_own(value: Mapping[str, Any]) -> str:
    """Return the same as `encode_json`, ten times as fast, of what we write ourselves.

    That is texts of printable ASCII, whole numbers below 2**53, lists and objects of them.
    """
    return encode(msgspec.json.encode(value, order="sorted"))


def digest_text(sha256: bytes) -> str:
    """Return a body's digest as RFC 9530 writes it."""
    return f"sha-256=:{base64.b64encode(sha256).decode('ascii')}:"


def moment(seconds: float) -> str:
    """Return seconds since 1970 as RFC 3339, cut to the second."""
    return time.strftime(_MOMENT_FORMAT, time.gmtime(seconds))


def seconds_of(text: str) -> int | None:
    """Return the seconds since 1970 of a moment as we write them, None for any other text."""
    if _MOMENT.fullmatch(text) is None:
        return None
    try:
        return calendar.timegm(time.strptime(text, _MOMENT_FORMAT))
    except ValueError:
        return None


def _text_of(authorization: bytes | None) -> str | None:
    return None if authorization is None else authorization.decode("latin-1")


def _after_scheme(text: str) -> str | None:
    scheme, _, rest = text.strip().partition(" ")
    return rest.strip() if scheme.lower() == SCHEME.lower() else None
