"""Selling by x402: what is offered, what an answer to it is read as, and the receipts."""

from __future__ import annotations

import json

import pytest
from msgspec.structs import replace

from router.access.assets import BASE_SEPOLIA, USDC
from router.access.evm import PERMIT2, UPTO_PROXY
from router.access.facilitator import UNSURE
from router.access.terms import Asset, Quote, Refused, Settled
from router.access.x402 import X402, receipt_comment, refusal
from router.errors import BadRequest
from tests.unit.x402_parts import (
    AMOUNT,
    FACILITATOR,
    MAX_TIMEOUT_S,
    NOW,
    OTHER,
    PAY_TO,
    PAYER,
    QUOTE,
    SELLER,
    URL,
    asked,
    offers,
    payment,
    read,
    seller,
    told,
)
from tests.wallets import Json, decoded


def test_offers_what_clients_sign() -> None:
    required = offers()
    assert required["x402Version"] == 2
    assert required["resource"]["url"] == URL
    assert [offer["scheme"] for offer in required["accepts"]] == ["upto", "exact"]
    upto, exact = required["accepts"]
    assert exact == {
        "scheme": "exact",
        "network": BASE_SEPOLIA,
        "amount": str(AMOUNT),
        "asset": USDC[BASE_SEPOLIA].address,
        "payTo": PAY_TO,
        "maxTimeoutSeconds": MAX_TIMEOUT_S,
        "extra": {"name": "USDC", "version": "2", "quote": exact["extra"]["quote"]},
    }
    assert upto["extra"] == {**exact["extra"], "facilitatorAddress": FACILITATOR}
    assert {**upto, "scheme": "exact", "extra": exact["extra"]} == exact
    info = required["extensions"]["eip2612GasSponsoring"]
    assert info["info"]["version"] == "1"
    assert set(info["schema"]["required"]) == set(PAYER.sign_gas(upto))


def test_one_quote_is_told_alike() -> None:
    assert offers() == offers()
    assert offers(seller())["accepts"] == offers()["accepts"]


def test_an_offer_fits_into_a_header() -> None:
    ((_, value),) = SELLER.offers(QUOTE, asked(), None)
    assert len(value) < 4_096


def test_says_what_was_wrong() -> None:
    assert told(SELLER.offers(QUOTE, asked(), "the quote is over"))["error"] == "the quote is over"


@pytest.mark.parametrize(
    ("x402", "quote", "schemes", "sponsored"),
    [
        (seller(schemes=("exact", "upto")), QUOTE, ["exact", "upto"], True),
        (seller(schemes=("exact",)), QUOTE, ["exact"], False),
        (seller(extensions=frozenset()), QUOTE, ["upto", "exact"], False),
        (SELLER, replace(QUOTE, nusd=10**10), ["upto", "exact"], True),
        (SELLER, replace(QUOTE, nusd=10**10 + 1), ["exact"], False),
    ],
)
def test_offers_by_the_settings(x402: X402, quote: Quote, schemes: list[str], sponsored: bool) -> None:
    required = offers(x402, quote)
    assert [offer["scheme"] for offer in required["accepts"]] == schemes
    assert ("eip2612GasSponsoring" in required["extensions"]) is sponsored


def test_offers_nothing_that_nobody_settles() -> None:
    assert seller(schemes=("upto",)).offers(replace(QUOTE, nusd=10**11), asked(), None) == []


@pytest.mark.parametrize(
    ("nusd", "decimals", "amount"),
    [(0, 6, 1), (1, 6, 1), (1_000, 6, 1), (1_001, 6, 2), (1, 18, 10**9), (10**7, 2, 1), (10**7 + 1, 2, 2)],
)
def test_amounts_are_rounded_up(nusd: int, decimals: int, amount: int) -> None:
    x402 = seller(asset=Asset(BASE_SEPOLIA, OTHER, "Coin", "1", decimals))
    quote = replace(QUOTE, nusd=nusd)
    assert offers(x402, quote)["accepts"][1]["amount"] == str(amount)
    credential = read(payment("exact", x402, quote), x402)
    assert credential.claim.amount == amount
    assert credential.quote.nusd >= nusd


def test_reads_exact() -> None:
    paid = payment("exact")
    signed = paid["payload"]["authorization"]
    credential = read(paid)
    claim = credential.claim
    assert credential.when == "before"
    assert credential.quote == replace(QUOTE, nusd=AMOUNT * 1_000)
    asset = USDC[BASE_SEPOLIA].address.lower()
    assert claim.key == f"eip3009:{BASE_SEPOLIA}:{asset}:{PAYER.address.lower()}:{signed['nonce']}"
    assert (claim.protocol, claim.scheme, claim.challenge) == ("x402", "exact", None)
    assert (claim.network, claim.asset, claim.payer) == (BASE_SEPOLIA, asset, PAYER.address.lower())
    assert (claim.pay_to, claim.amount) == (PAY_TO.lower(), AMOUNT)
    assert claim.expires_at == int(signed["validBefore"]) == int(NOW) + MAX_TIMEOUT_S
    assert claim.exposure_nusd == 2 * 10**10


def test_reads_upto() -> None:
    paid = payment("upto")
    signed = paid["payload"]["permit2Authorization"]
    credential = read(paid)
    claim = credential.claim
    assert credential.when == "after"
    asset = USDC[BASE_SEPOLIA].address.lower()
    assert claim.key == f"permit2:{BASE_SEPOLIA}:{asset}:{PAYER.address.lower()}:{int(signed['nonce'])}"
    assert (claim.scheme, claim.amount, claim.expires_at) == ("upto", AMOUNT, int(signed["deadline"]))
    assert claim.exposure_nusd == 2 * 10**10


@pytest.mark.parametrize("scheme", ["exact", "upto"])
def test_an_order_holds_what_was_checked_and_no_more(scheme: str) -> None:
    paid = payment(scheme)
    paid["payload"]["more"] = paid["extra"] = {"a": 1}
    paid["extensions"]["other"] = {"info": {}}
    order = json.loads(read(paid).claim.order)
    del paid["payload"]["more"]
    assert order == {
        "paymentPayload": {"x402Version": 2, "accepted": paid["accepted"], "payload": paid["payload"]},
        "paymentRequirements": paid["accepted"],
    }


def test_a_gas_permit_goes_into_the_order() -> None:
    paid = payment("upto")
    PAYER.adds_gas(paid)
    order = json.loads(read(paid).claim.order)
    info = paid["extensions"]["eip2612GasSponsoring"]["info"]
    del info["description"]
    assert order["paymentPayload"]["extensions"] == {"eip2612GasSponsoring": {"info": info}}


@pytest.mark.parametrize(
    ("changed", "error"),
    [
        ({"from": OTHER}, Refused),
        ({"asset": OTHER}, Refused),
        ({"spender": UPTO_PROXY}, Refused),
        ({"amount": str(AMOUNT - 1)}, Refused),
        ({"amount": str(2**256)}, Refused),
        ({"nonce": str(2**256)}, Refused),
        ({"deadline": str(2**256)}, Refused),
        ({"deadline": str(int(NOW) + 10)}, Refused),
        ({"amount": "-1"}, BadRequest),
        ({"amount": 5_000}, BadRequest),
        ({"nonce": "0x1"}, BadRequest),
        ({"signature": "0x12"}, BadRequest),
        ({"spender": PERMIT2 + "\n"}, BadRequest),
        ({"version": "1;"}, BadRequest),
    ],
)
def test_a_gas_permit_that_does_not_help_is_refused(changed: Json, error: type[Exception]) -> None:
    paid = payment("upto")
    PAYER.adds_gas(paid)
    paid["extensions"]["eip2612GasSponsoring"]["info"].update(changed)
    with pytest.raises(error):
        read(paid)


def test_the_case_of_an_address_says_nothing() -> None:
    paid = payment("upto", nonce=str(2**200 + 7))
    for name in ("asset", "payTo"):
        paid["accepted"][name] = paid["accepted"][name].lower()
    signed = paid["payload"]["permit2Authorization"]
    signed["spender"] = signed["spender"].lower()
    signed["witness"]["to"] = "0x" + signed["witness"]["to"][2:].upper()
    signed["nonce"] = "000" + signed["nonce"]
    plain = json.loads(json.dumps(paid))
    plain["payload"]["permit2Authorization"]["nonce"] = signed["nonce"].lstrip("0")
    assert read(paid).claim.key == read(plain).claim.key


def test_another_address_of_the_facilitator_is_its_own() -> None:
    elsewhere = seller(address=OTHER)
    assert read(payment("upto", elsewhere), seller(addresses=frozenset({OTHER}))).claim.payer
    with pytest.raises(Refused):
        read(payment("upto", elsewhere))


def test_a_receipt_tells_the_transfer_and_the_request() -> None:
    exact, upto = read(payment("exact")).claim, read(payment("upto")).claim
    name, value = SELLER.receipt(exact, Settled("0x" + "1" * 64, AMOUNT), "req-1", NOW)
    assert name == b"payment-response"
    assert decoded(value) == {
        "success": True,
        "transaction": "0x" + "1" * 64,
        "network": BASE_SEPOLIA,
        "payer": PAYER.address.lower(),
        "extensions": {"llmRouter": {"requestId": "req-1"}},
    }
    assert decoded(SELLER.receipt(upto, Settled("0x" + "1" * 64, 450), "req-2", NOW)[1])["amount"] == "450"
    nothing = decoded(SELLER.receipt(upto, Settled("", 0), "req-3", NOW)[1])
    assert (nothing["transaction"], nothing["amount"]) == ("", "0")
    unsure = Settled(UNSURE + exact.key, AMOUNT)
    assert decoded(SELLER.receipt(exact, unsure, "req-4", NOW)[1])["transaction"] == ""


def test_a_failed_settlement_is_told_in_our_words() -> None:
    _, value = refusal(BASE_SEPOLIA, OTHER, "insufficient_funds")
    assert decoded(value) == {
        "success": False,
        "errorReason": "insufficient_funds",
        "transaction": "",
        "network": BASE_SEPOLIA,
        "payer": OTHER,
    }
    assert decoded(refusal(BASE_SEPOLIA, OTHER, "rpc https://...")[1])["errorReason"] == "payment_invalid"


def test_a_streams_receipt_is_a_comment() -> None:
    _, value = refusal(BASE_SEPOLIA, OTHER, "insufficient_funds")
    comment = receipt_comment(value)
    assert comment.startswith(b": payment-response ")
    assert comment.endswith(b"\n\n")
    assert comment.count(b"\n") == 2
