"""Nothing but an answer to an offer of ours is taken: every field changed, and headers of any kind."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from router.access.assets import BASE_SEPOLIA, USDC
from router.access.evm import PERMIT2
from router.access.terms import HEADER_BYTES, Refused
from router.access.x402 import X402
from router.errors import BadRequest
from tests.unit.x402_parts import (
    AMOUNT,
    FACILITATOR,
    LONGEST_S,
    MAX_TIMEOUT_S,
    NOW,
    OTHER,
    PAY_TO,
    PAYER,
    QUOTE,
    SELLER,
    asked,
    payment,
    read,
    seller,
)
from tests.wallets import Json

Bend = Callable[[Json], object]


def put(*path: str, value: Any) -> Bend:
    """Return a change of one member; MISSING takes it away."""

    def bend(tree: Json) -> None:
        for name in path[:-1]:
            tree = tree[name]
        if value is MISSING:
            del tree[path[-1]]
        else:
            tree[path[-1]] = value

    return bend


MISSING = object()
OFFER_FIELDS: dict[str, list[Any]] = {
    "scheme": ["exact", "permit", "", 1, None, MISSING],
    "network": ["eip155:8453", "base-sepolia", None, MISSING],
    "amount": [
        "4321",
        "4323",
        "04322",
        "4322 ",
        "0",
        "-4322",
        "1e9",
        "4322.0",
        4322,
        None,
        "9" * 79,
        MISSING,
    ],
    "asset": [OTHER, USDC["eip155:8453"].address, None, [], MISSING],
    "payTo": [OTHER, "", None, MISSING],
    "maxTimeoutSeconds": [MAX_TIMEOUT_S + 1, float(MAX_TIMEOUT_S), str(MAX_TIMEOUT_S), True, None, MISSING],
    "extra": [{}, None, [], "USDC", MISSING],
    "more": [None, 1],
}
EXTRA_FIELDS: dict[str, list[Any]] = {
    "name": ["USD Coin", "usdc", None, MISSING],
    "version": ["1", 2, None, MISSING],
    "quote": ["", "1.2.3", None, 5, MISSING],
    "facilitatorAddress": [OTHER, None, 7, MISSING],
    "assetTransferMethod": ["permit2", None],
}
OFFER_CHANGES = [
    *((name, value) for name, values in OFFER_FIELDS.items() for value in values),
    *((f"extra.{name}", value) for name, values in EXTRA_FIELDS.items() for value in values),
]


@pytest.mark.parametrize(("name", "value"), OFFER_CHANGES)
@pytest.mark.parametrize("scheme", ["upto", "exact"])
def test_an_offer_that_we_did_not_make_is_refused(scheme: str, name: str, value: Any) -> None:
    paid = payment(scheme)
    path = ("accepted", *name.split("."))
    if scheme == "exact" and name == "scheme" and value == "exact":
        value = "upto"
    if scheme == "exact" and name == "extra.facilitatorAddress" and value is MISSING:
        value = FACILITATOR  # what `upto` has is too much here
    put(*path, value=value)(paid)
    with pytest.raises(Refused):
        read(paid)


@pytest.mark.parametrize("part", range(3))
def test_every_part_of_a_quote_counts(part: int) -> None:
    paid = payment("exact")
    parts = paid["accepted"]["extra"]["quote"].split(".")
    for position in range(len(parts[part])):
        old = parts[part][position]
        new = "1" if old != "1" else "2"
        changed = parts[part][:position] + new + parts[part][position + 1 :]
        paid["accepted"]["extra"]["quote"] = ".".join([*parts[:part], changed, *parts[part + 1 :]])
        with pytest.raises(Refused, match="offer_unknown"):
            read(paid)


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        ({"body": hashlib.sha256(b"longer body").digest()}, "offer_unknown"),
        ({"route": hashlib.sha256(b"other route").digest()}, "offer_unknown"),
        ({"now": NOW + 200}, "quote_expired"),
    ],
)
def test_a_quote_is_for_one_request_and_a_while(request_: Json, reason: str) -> None:
    paid = payment("exact")
    assert read(paid, now=NOW + 199)
    with pytest.raises(Refused, match=reason):
        read(paid, **request_)


@pytest.mark.parametrize(
    "other",
    [
        seller(secret=b"t" * 32),
        seller(asset=USDC["eip155:8453"]),
        seller(asset=replace(USDC[BASE_SEPOLIA], address=OTHER)),
        seller(asset=replace(USDC[BASE_SEPOLIA], name="Other")),
        seller(pay_to=OTHER),
        seller(schemes=("upto",)),
    ],
)
def test_an_offer_of_another_seller_is_refused(other: X402) -> None:
    with pytest.raises(Refused, match="offer_unknown"):
        read(payment("exact"), other)


def test_upto_above_the_most_is_refused() -> None:
    dear = replace(QUOTE, nusd=10**10 + 1_000)
    paid = payment("exact", quote=dear)
    assert read(paid).claim.amount == 10**7 + 1
    paid["accepted"]["scheme"] = "upto"
    paid["accepted"]["extra"]["facilitatorAddress"] = FACILITATOR
    with pytest.raises(Refused, match="offer_unknown"):
        read(paid)


SOON = str(int(NOW) + LONGEST_S + 29)
LATE = str(int(NOW) + 86_401)
EXACT_CHANGES: list[tuple[str, Any, type[Exception], str]] = [
    ("to", OTHER, Refused, "recipient_mismatch"),
    ("value", str(AMOUNT - 1), Refused, "amount_mismatch"),
    ("value", str(AMOUNT + 1), Refused, "amount_mismatch"),
    ("validAfter", str(int(NOW) + 1), Refused, "authorization_not_yet_valid"),
    ("validBefore", SOON, Refused, "authorization_expired"),
    ("validBefore", "0", Refused, "authorization_expired"),
    ("validBefore", LATE, Refused, "authorization_lasts_too_long"),
    ("validBefore", "9" * 78, Refused, "authorization_lasts_too_long"),
    *(("from", value, BadRequest, "from") for value in ("0x12", "", PAYER.address[2:], 5, None, MISSING)),
    *(("to", value, BadRequest, "to") for value in (PAY_TO + "0", PAY_TO + "\n", "0X" + PAY_TO[2:], MISSING)),
    *(
        ("value", value, BadRequest, "value")
        for value in ("4322\n", " 4322", "+1", "1_0", "٣", 4322, "", "9" * 79)
    ),
    *(("validAfter", value, BadRequest, "validAfter") for value in ("-1", "0x0", 0, MISSING)),
    *(("validBefore", value, BadRequest, "validBefore") for value in ("soon", 1e9, MISSING)),
    *(("nonce", value, BadRequest, "nonce") for value in ("0x" + "g" * 64, "0x" + "1" * 63, "1", MISSING)),
]


@pytest.mark.parametrize(("name", "value", "error", "words"), EXACT_CHANGES)
def test_every_field_of_an_authorization_is_checked(
    name: str, value: Any, error: type[Exception], words: str
) -> None:
    paid = payment("exact")
    put("payload", "authorization", name, value=value)(paid)
    with pytest.raises(error, match=words):
        read(paid)


UPTO_CHANGES: list[tuple[str, Any, type[Exception], str]] = [
    ("permitted.token", OTHER, Refused, "asset_mismatch"),
    ("permitted.amount", str(AMOUNT + 1), Refused, "amount_mismatch"),
    ("permitted.amount", str(AMOUNT - 1), Refused, "amount_mismatch"),
    ("spender", PERMIT2, Refused, "spender_mismatch"),
    ("witness.to", OTHER, Refused, "recipient_mismatch"),
    ("witness.facilitator", OTHER, Refused, "facilitator_mismatch"),
    ("witness.validAfter", str(int(NOW) + 1), Refused, "authorization_not_yet_valid"),
    ("deadline", SOON, Refused, "authorization_expired"),
    ("deadline", LATE, Refused, "authorization_lasts_too_long"),
    ("nonce", str(2**256), Refused, "payment_invalid"),
    ("from", "0x", BadRequest, "from"),
    ("permitted", MISSING, BadRequest, "permitted"),
    ("permitted.token", MISSING, BadRequest, "token"),
    ("permitted.amount", AMOUNT, BadRequest, "amount"),
    ("spender", MISSING, BadRequest, "spender"),
    ("nonce", "0x1", BadRequest, "nonce"),
    ("nonce", MISSING, BadRequest, "nonce"),
    ("deadline", "", BadRequest, "deadline"),
    ("witness", [], BadRequest, "witness"),
    ("witness.to", "me", BadRequest, "to"),
    ("witness.facilitator", MISSING, BadRequest, "facilitator"),
    ("witness.validAfter", MISSING, BadRequest, "validAfter"),
]


@pytest.mark.parametrize(("name", "value", "error", "words"), UPTO_CHANGES)
def test_every_field_of_a_permit_is_checked(
    name: str, value: Any, error: type[Exception], words: str
) -> None:
    paid = payment("upto")
    put("payload", "permit2Authorization", *name.split("."), value=value)(paid)
    with pytest.raises(error, match=words):
        read(paid)


@pytest.mark.parametrize("scheme", ["exact", "upto"])
@pytest.mark.parametrize("value", ["0x", "0x" + "1" * 128, "0x" + "1" * 132, "1" * 132, 5, None, MISSING])
def test_a_signature_has_65_bytes(scheme: str, value: Any) -> None:
    paid = payment(scheme)
    put("payload", "signature", value=value)(paid)
    with pytest.raises(BadRequest, match="signature"):
        read(paid)


@pytest.mark.parametrize(
    ("bend", "words"),
    [
        (put("x402Version", value=1), "x402Version is 1"),
        (put("x402Version", value=True), "x402Version"),
        (put("x402Version", value="2"), "x402Version"),
        (put("x402Version", value=MISSING), "x402Version"),
        (put("accepted", value=MISSING), "accepted"),
        (put("accepted", value=[]), "accepted"),
        (put("payload", value=MISSING), "payload"),
        (put("payload", value="0x"), "payload"),
        (put("payload", value={}), "signature"),
        (put("extensions", value=[]), "extensions"),
    ],
)
def test_what_is_not_well_formed_is_a_bad_request(bend: Bend, words: str) -> None:
    paid = payment("exact")
    bend(paid)
    with pytest.raises(BadRequest, match=words) as caught:
        read(paid)
    assert caught.value.param == "payment-signature"


def nested(depth: int) -> str:
    return base64.b64encode(b'{"a":' * depth + b"1" + b"}" * depth).decode()


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ("", "JSON"),
        ("e30", "base64"),
        ("e30=\n", "base64"),
        (" e30=", "base64"),
        ("e31=", "base64"),
        ("e3_=", "base64"),
        ("é30=", "base64"),
        ("%7B%7D", "base64"),
        (base64.b64encode(b"{").decode(), "JSON"),
        (base64.b64encode(b'{"x402Version":NaN}').decode(), "JSON"),
        (base64.b64encode(b'{"a":"\xff"}').decode(), "JSON"),
        (base64.b64encode(b"{} {}").decode(), "JSON"),
        (base64.b64encode(b"[" * 12_000).decode(), "JSON"),
        (nested(2_000), "(JSON|deeper)"),
        (nested(17), "deeper"),
        ("A" * (HEADER_BYTES + 4), "over 16384 bytes"),
        ("bnVsbA==", "PaymentPayload"),
    ],
)
def test_what_is_no_header_is_a_bad_request(header: str, words: str) -> None:
    with pytest.raises(BadRequest, match=words):
        SELLER.read(asked(header))


def test_version_1_is_told_of_version_2() -> None:
    with pytest.raises(BadRequest, match="version 2"):
        SELLER.read(asked(headers={"x-payment": "e30="}))


def test_a_request_without_a_payment_brings_none() -> None:
    assert SELLER.read(asked()) is None


@given(st.text(max_size=200) | st.binary(max_size=300).map(lambda raw: base64.b64encode(raw).decode()))
def test_any_header_is_read_or_a_bad_request(header: str) -> None:
    with pytest.raises(BadRequest):
        SELLER.read(asked(header))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
VALID = {scheme: payment(scheme) for scheme in ("exact", "upto")}
SIGNED = {"accepted", "payload", "x402Version"}


def paths(tree: Any, prefix: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    if not isinstance(tree, dict):
        return [prefix]
    return [prefix, *(path for name, inner in tree.items() for path in paths(inner, (*prefix, name)))]


PLACES = [
    (scheme, path) for scheme, paid in VALID.items() for path in paths(paid) if path and path[0] in SIGNED
]


@given(st.sampled_from(PLACES), JSON)
def test_anything_anywhere_is_refused_or_reads_as_before(
    place: tuple[str, tuple[str, ...]], value: Any
) -> None:
    scheme, path = place
    paid = json.loads(json.dumps(VALID[scheme]))
    put(*path, value=value)(paid)
    try:
        credential = SELLER.read(asked(base64.b64encode(msgspec.json.encode(paid)).decode()))
    except (BadRequest, Refused):
        return
    assert credential is not None
    assert credential.claim.amount == AMOUNT
    assert credential.claim.pay_to == PAY_TO.lower()
    # Only what the payer alone decides may differ and be good all the same.
    assert path[-1] in {"nonce", "validAfter", "validBefore", "deadline"}
