"""What a payer changes of an offer or of what was signed: refused, nothing served, nothing settled."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.facilitator import ScriptedFacilitator
from tests.mpp_wallet import MppWallet, authorization, encode, parse_challenges
from tests.mpp_wallet import decode as undone
from tests.paying import (
    ASSET,
    FUNDS,
    PAYEE,
    WAYS,
    Shop,
    Way,
    counter,
    offers_anew,
    offers_nothing,
    signing,
)
from tests.router import Answer
from tests.service.walking import question
from tests.wallets import Json, Wallet, encoded

BODY = question(max_tokens=50)
OTHER = "0x" + "d" * 40
WINDOWS = 2 * 10**9
Bend = Callable[[Json], object]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    with counter(tmp_path_factory.mktemp("shop")) as open_shop:
        yield open_shop


@pytest.fixture
def payer(shop: Shop) -> Iterator[Wallet]:
    """A payer who has paid nothing when the test is over, whose next honest payment is taken."""
    wallet, calls, settles = shop.payer(), len(shop.upstream.requests), shop.settles()
    yield wallet
    shop.ended()
    assert len(shop.upstream.requests) == calls, "it was served"
    assert shop.settles() == settles, "it was settled"
    assert shop.facilitator.balance(wallet.address) == FUNDS
    assert shop.pay(wallet, "exact", BODY).status == 200


def check_refused(answer: Answer) -> None:
    assert offers_anew(answer), (answer.status, answer.body)
    assert answer.error["name"] == "payment_refused"
    assert answer.headers["cache-control"] == "no-store"
    assert "payment-response" not in answer.headers
    assert b"Say hello" not in answer.body


def in_accepted(**members: Any) -> Bend:
    return lambda payment: payment["accepted"].update(members)


def in_extra(**members: Any) -> Bend:
    return lambda payment: payment["accepted"]["extra"].update(members)


def without(name: str) -> Bend:
    return lambda payment: payment["accepted"].pop(name)


ACCEPTED: dict[str, Bend] = {
    "less": in_accepted(amount="1"),
    "more": in_accepted(amount=str(10**6)),
    "0": in_accepted(amount="0"),
    "negative": in_accepted(amount="-1"),
    "zeros before": lambda payment: payment["accepted"].update(amount="0" + payment["accepted"]["amount"]),
    "a number": lambda payment: payment["accepted"].update(amount=int(payment["accepted"]["amount"])),
    "another digit's script": in_accepted(amount="\u0661\u0662\u0663"),
    "no amount": without("amount"),
    "another payee": in_accepted(payTo=OTHER),
    "another network": in_accepted(network="eip155:8453"),
    "another spelling of the network": in_accepted(network="EIP155:84532"),
    "another asset": in_accepted(asset=OTHER),
    "another scheme": lambda payment: payment["accepted"].update(
        scheme="upto" if payment["accepted"]["scheme"] == "exact" else "exact"
    ),
    "an unknown scheme": in_accepted(scheme="free"),
    "no scheme": without("scheme"),
    "longer": in_accepted(maxTimeoutSeconds=10**6),
    "for ever": in_accepted(maxTimeoutSeconds=10**30),
    "a fraction": in_accepted(maxTimeoutSeconds=0.5),
    "infinite": in_accepted(maxTimeoutSeconds=1e400),
    "one more member": in_accepted(note="?"),
    "a huge member": in_accepted(note=10**40),
    "another name": in_extra(name="Other"),
    "another version": in_extra(version="1"),
    "no quote": lambda payment: payment["accepted"]["extra"].pop("quote"),
    "no extra": without("extra"),
    "extra as a list": in_accepted(extra=[]),
    "another quote": in_extra(quote="1.abc." + "A" * 43),
    "a quote of digits of another script": in_extra(quote="\u0661.abc." + "A" * 43),
    "a later quote": lambda payment: payment["accepted"]["extra"].update(
        quote="9999999999" + payment["accepted"]["extra"]["quote"][10:]
    ),
    "another facilitator": in_extra(facilitatorAddress=OTHER),
    "a surrogate": in_accepted(note="\ud800"),
}


@pytest.mark.parametrize("name", ACCEPTED)
@pytest.mark.parametrize("scheme", ["exact", "upto"])
def test_an_offer_that_was_changed_is_refused(shop: Shop, payer: Wallet, scheme: Way, name: str) -> None:
    answer = shop.ask(BODY, shop.sign(payer, scheme, BODY, edit=ACCEPTED[name]))
    if name in ("a surrogate", "infinite"):  # no JSON
        assert (answer.status, offers_nothing(answer)) == (400, True)
    else:
        check_refused(answer)


@pytest.mark.parametrize(
    "signed",
    [
        {"to": OTHER},
        {"value": "1"},
        {"value": str(10**9)},
        {"validAfter": str(WINDOWS)},
        {"validBefore": "1"},
        {"validBefore": str(2**256 - 1)},
        {"from": OTHER},
    ],
    ids=str,
)
def test_another_authorization_than_was_asked_is_refused(
    shop: Shop, payer: Wallet, signed: dict[str, str]
) -> None:
    check_refused(shop.ask(BODY, shop.sign(payer, "exact", BODY, **signed)))


@pytest.mark.parametrize(
    "signed",
    [
        {"permitted": {"token": OTHER}},
        {"permitted": {"amount": "1"}},
        {"witness": {"to": OTHER}},
        {"witness": {"facilitator": OTHER}},
        {"witness": {"validAfter": str(WINDOWS)}},
        {"spender": OTHER},
        {"deadline": "1"},
        {"deadline": str(2**256 - 1)},
        {"from": OTHER},
    ],
    ids=str,
)
def test_another_permit_than_was_asked_is_refused(shop: Shop, payer: Wallet, signed: Json) -> None:
    check_refused(shop.ask(BODY, shop.sign(payer, "upto", BODY, **signed)))


PAYLOADS: dict[str, Bend] = {
    "another signature": lambda payload: payload.update(signature="0x" + "1" * 130),
    "another nonce": lambda payload: _signed(payload).update(
        nonce="0x" + "1" * 64 if "authorization" in payload else "1"
    ),
    "another payer": lambda payload: _signed(payload).update({"from": OTHER}),
}


def _signed(payload: Json) -> Json:
    found: Json = payload.get("authorization") or payload["permit2Authorization"]
    return found


@pytest.mark.parametrize("name", PAYLOADS)
@pytest.mark.parametrize("scheme", ["exact", "upto"])
def test_what_was_not_signed_is_refused_and_the_signature_stays_good(
    shop: Shop, payer: Wallet, scheme: Way, name: str
) -> None:
    check_refused(
        shop.ask(
            BODY, shop.sign(payer, scheme, BODY, edit=lambda payment: PAYLOADS[name](payment["payload"]))
        )
    )


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "body",
    [question("Say more", max_tokens=50), question(max_tokens=51), question(max_tokens=50, stream=True)],
    ids=["words", "bound", "stream"],
)
def test_another_body_is_refused(shop: Shop, payer: Wallet, way: Way, body: Json) -> None:
    check_refused(shop.ask(body, shop.sign(payer, way, BODY)))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["x-llm-router-mode", "x-llm-router-max-cost-usd"])
def test_another_routing_is_refused(shop: Shop, payer: Wallet, way: Way, name: str) -> None:
    value = {"x-llm-router-mode": "quality", "x-llm-router-max-cost-usd": "1"}[name]
    headers = shop.sign(payer, way, BODY)
    check_refused(shop.ask(BODY, headers | {name: value}))
    check_refused(shop.ask(BODY, shop.sign(payer, way, BODY, {name: value})))


@pytest.mark.parametrize("way", WAYS)
def test_a_promise_ends(shop: Shop, payer: Wallet, way: Way) -> None:
    headers = shop.sign(payer, way, BODY)
    shop.router.step(3_000)
    try:
        check_refused(shop.ask(BODY, headers))
    finally:
        shop.router.step(-3_000)


CHALLENGES: dict[str, Bend] = {
    "id": lambda challenge: challenge.update(id="A" * 43),
    "realm": lambda challenge: challenge.update(realm="other"),
    "method": lambda challenge: challenge.update(method="tempo"),
    "intent": lambda challenge: challenge.update(intent="session"),
    "expires": lambda challenge: challenge.update(expires="2999-01-01T00:00:00Z"),
    "digest": lambda challenge: challenge.update(digest="sha-256=:AAAA:"),
    "opaque": lambda challenge: challenge.update(opaque=encode(b'{"nusd":"1"}')),
    "amount": lambda challenge: challenge.update(request=_requested(challenge, amount="1")),
    "currency": lambda challenge: challenge.update(request=_requested(challenge, currency=OTHER)),
    "recipient": lambda challenge: challenge.update(request=_requested(challenge, recipient=OTHER)),
    "chain": lambda challenge: challenge.update(
        request=_requested(challenge, methodDetails={"chainId": 8453, "credentialTypes": ["authorization"]})
    ),
}


def _requested(challenge: Json, **changed: Any) -> str:
    asked = undone(challenge["request"]) | changed
    return encode(json.dumps(asked, sort_keys=True, separators=(",", ":")).encode())


@pytest.mark.parametrize("name", CHALLENGES)
def test_a_challenge_that_was_changed_is_refused(shop: Shop, payer: Wallet, name: str) -> None:
    challenge = parse_challenges(shop.ask(BODY).headers.items())["evm"]
    signed = dict(challenge)
    CHALLENGES[name](signed)
    try:  # the client believes what it changed, and one that only says so
        answers = [shop.ask(BODY, {"authorization": MppWallet(payer.key).evm(signed, ASSET)})]
    except KeyError:
        answers = []
    honest = MppWallet(payer.key).evm_payload(challenge, ASSET)
    answers.append(shop.ask(BODY, {"authorization": authorization(signed, honest)}))
    for answer in answers:
        check_refused(answer)
        assert answer.json["type"].startswith("https://paymentauth.org/problems/")


@pytest.mark.parametrize(
    "signed",
    [{"to": OTHER}, {"value": "1"}, {"nonce": "0x" + "1" * 64}, {"validBefore": "1"}, {"from": OTHER}],
    ids=str,
)
def test_another_credential_than_was_asked_is_refused(
    shop: Shop, payer: Wallet, signed: dict[str, str]
) -> None:
    check_refused(shop.ask(BODY, shop.sign(payer, "evm", BODY, **signed)))


def test_the_offers_of_another_router_buy_nothing_here(
    shop: Shop, payer: Wallet, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with counter(
        tmp_path_factory.mktemp("other"),
        facilitator=ScriptedFacilitator(),
        x402_pay_to=PAYEE,
        mpp_secret="another secret of the tests, 32 bytes or more",
    ) as other:
        asked = other.ask(BODY)
        for way in WAYS:
            check_refused(shop.ask(BODY, signing(asked, payer, way)))


BAD: dict[str, str] = {
    "empty": "",
    "not base64": "not base64!",
    "unpadded": encoded({"x402Version": 2}).rstrip("="),
    "url alphabet": "_-8=",
    "not JSON": base64.b64encode(b"{").decode(),
    "a list": encoded([]),
    "a number": encoded(7),
    "no members": encoded({}),
    "version 1": encoded({"x402Version": 1, "accepted": {}, "payload": {}}),
    "version as a text": encoded({"x402Version": "2", "accepted": {}, "payload": {}}),
    "members of other kinds": encoded({"x402Version": 2, "accepted": [], "payload": "x"}),
    "a bomb": base64.b64encode(b'{"x402Version":2,"accepted":' + b"[" * 9_000).decode(),
    "a closed bomb": base64.b64encode(b"[" * 5_000 + b"]" * 5_000).decode(),
    "deep": base64.b64encode(
        b'{"x402Version":2,"payload":{},"accepted":' + b'{"a":' * 40 + b"1" + b"}" * 41
    ).decode(),
    "16 KB": "A" * 16_388,
    "60 KB": "A" * 60_000,
    "not ASCII": "\u00e9\u00e9\u00e9\u00e9",
    "not UTF-8": base64.b64encode(b'{"x402Version":2,"accepted":{"a":"\xff"},"payload":{}}').decode(),
    "a huge number": base64.b64encode(b'{"x402Version":' + b"9" * 4_000 + b"}").decode(),
    "a huge exponent": base64.b64encode(b'{"x402Version":2,"accepted":{"a":1e99999},"payload":{}}').decode(),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_payment_is_a_bad_request(shop: Shop, name: str) -> None:
    calls = len(shop.upstream.requests)
    answers = [
        shop.ask(BODY, {"PAYMENT-SIGNATURE": BAD[name].encode("latin-1", "replace").decode("latin-1")}),
        shop.ask(BODY, {"Authorization": f"Payment {BAD[name]}"}),
        shop.ask(BODY, {"Payment-Authorization": f"Payment {BAD[name].rstrip('=')}"}),
    ]
    for answer in answers:
        if answer.status == 402:  # JSON of the right form that answers no offer of ours
            assert name == "a huge exponent"
            continue
        assert answer.status == 400, (answer.status, answer.body)
        assert offers_nothing(answer)
        assert answer.error["type"] == "invalid_request_error"
    assert len(shop.upstream.requests) == calls


FORMS: dict[str, Bend] = {
    "short signature": lambda payload: payload.update(signature="0x" + "1" * 128),
    "signature of a contract": lambda payload: payload.update(signature="0x" + "1" * 400),
    "no signature": lambda payload: payload.pop("signature"),
    "a value with a sign": lambda payload: _signed(payload).update(
        {"value": "+1"} if "authorization" in payload else {"deadline": "+1"}
    ),
    "a nonce of other digits": lambda payload: _signed(payload).update(nonce="\u0661" * 64),
    "a moment as a number": lambda payload: _signed(payload).update(
        {"validBefore": 1} if "authorization" in payload else {"deadline": 1}
    ),
    "79 digits": lambda payload: _signed(payload).update(
        {"validBefore": "9" * 79} if "authorization" in payload else {"deadline": "9" * 79}
    ),
    "a short address": lambda payload: _signed(payload).update({"from": "0x" + "1" * 39}),
    "a line end after an address": lambda payload: _signed(payload).update({"from": OTHER + "\n"}),
    "a list": lambda payload: payload.update(authorization=[], permit2Authorization=[]),
}


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("way", WAYS)
def test_a_payload_of_another_form_is_a_bad_request(shop: Shop, payer: Wallet, way: Way, name: str) -> None:
    if way == "evm":
        challenge = parse_challenges(shop.ask(BODY).headers.items())["evm"]
        payload = MppWallet(payer.key).evm_payload(challenge, ASSET)
        signature = payload.pop("signature")
        bent = {"authorization": payload, "signature": signature}
        FORMS[name](bent)
        flat = bent["authorization"] or {}
        whole = {
            "type": "authorization",
            **flat,
            **({"signature": bent["signature"]} if "signature" in bent else {}),
        }
        headers = {"authorization": authorization(challenge, whole)}
    else:
        headers = shop.sign(payer, way, BODY, edit=lambda payment: FORMS[name](payment["payload"]))
    answer = shop.ask(BODY, headers)
    assert answer.status == 400, answer.body
    assert offers_nothing(answer)


def test_version_1_is_told_of_version_2(shop: Shop) -> None:
    answer = shop.ask(BODY, {"X-PAYMENT": encoded({"x402Version": 1})})
    assert (answer.status, offers_nothing(answer)) == (400, True)
    assert "PAYMENT-SIGNATURE" in answer.error["message"]
