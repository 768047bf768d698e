"""What is no credential of MPP: a 400 in words, whatever stands in the header."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.access.terms import Refused
from router.errors import BadRequest
from tests.mpp_wallet import Wire, authorization, encode
from tests.unit.mpp_parts import PAY_TO, QUOTE, USDC, WALLET, asked, challenges, credential, seller


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("evm", {"from": "0x12"}),
        ("evm", {"to": PAY_TO + "\n"}),
        ("evm", {"value": "1e3"}),
        ("evm", {"value": "-5"}),
        ("evm", {"value": 5000}),
        ("evm", {"value": "9" * 79}),
        ("evm", {"validBefore": "\u0661"}),
        ("evm", {"nonce": "0x" + "0" * 63}),
        ("evm", {"signature": "0x" + "00" * 66}),
        ("tempo", {"signature": "0x7"}),
        ("tempo", {"signature": "0x75c0"}),
        ("tempo", {"signature": "0x76c0"}),
    ],
)
def test_odd_members_of_a_payload_are_malformed(name: str, change: Wire) -> None:
    said = challenges()[name]
    payload = (
        WALLET.evm_payload(said, USDC)
        if name == "evm"
        else {"type": "transaction", "signature": "0x" + WALLET.transaction(said).hex()}
    )
    header = authorization(said, {**payload, **change}, WALLET.source(USDC.chain_id))
    with pytest.raises(BadRequest) as caught:
        seller().read(asked(header))
    assert caught.value.name == "malformed_credential"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "!!!!",
        "e30=",
        "e31",  # the last character says more than its bytes do
        encode(b"[]"),
        encode(b"{}"),
        encode(b'{"challenge": {}, "payload": {}}'),
        encode(b'{"challenge": "x", "payload": {}}'),
        encode(b"\xff\xfe"),
        encode(b'{"payload": ' + b"[" * 6000 + b"]" * 6000 + b"}"),
        encode(b'{"a": "' + b"a" * 16_384 + b'"}'),
    ],
)
def test_what_is_not_a_credential_is_malformed(text: str) -> None:
    with pytest.raises(BadRequest) as caught:
        seller().read(asked(f"Payment {text}"))
    assert (caught.value.status, caught.value.name) == (400, "malformed_credential")


def test_a_good_credential_in_another_spelling_is_malformed() -> None:
    said = challenges()["evm"]
    wire = {"challenge": said, "payload": WALLET.evm_payload(said, USDC)}

    def spelt(**more: Any) -> bytes:
        return json.dumps({**wire, "source": WALLET.source(84532), **more}).encode()

    plain = next(text for pad in range(3) if (text := encode(spelt(a="a" * pad)))[-1] in "AQgw")
    changed = plain[:-1] + chr(ord(plain[-1]) + 1)  # the same bytes, and bits that belong to none
    long, deep = encode(spelt(a="a" * 12_288)), encode(spelt(a=json.loads("[" * 64 + "]" * 64)))
    assert credential(f"Payment {plain}").quote == QUOTE
    for text in (changed, plain + "=", long, deep):
        with pytest.raises(BadRequest):
            seller().read(asked(f"Payment {text}"))


def test_two_credentials_at_once_are_malformed() -> None:
    header = WALLET.evm(challenges()["evm"], USDC)
    with pytest.raises(BadRequest):
        seller().read(asked(header, headers={"payment-authorization": header}))


@given(st.binary(max_size=600) | st.text(max_size=300).map(str.encode))
def test_whatever_stands_in_the_header_is_refused_in_words(data: bytes) -> None:
    for header in (b"Payment " + data, b"Payment " + encode(data).encode()):
        with pytest.raises((BadRequest, Refused)):
            seller().read(asked(header))
