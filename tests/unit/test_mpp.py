"""MPP as a seller: what a challenge says, which credentials answer it, and what each change comes to."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json

import pytest
import rlp
from hypothesis import given
from hypothesis import strategies as st

from router.access.assets import checksummed
from router.access.challenge import Challenge, encode_json, encode_own, seconds_of
from router.access.mpp import TEMPO_CHALLENGE_S, Way
from router.access.terms import Asset, Quote, Settled
from tests.mpp_wallet import Wire, authorization, decode, encode, memo_of, parse_challenges
from tests.unit.mpp_parts import (
    BODY,
    NOW,
    PATH_USD,
    PAY_TO,
    QUOTE,
    REALM,
    ROUTE,
    SECRET,
    STRANGER,
    USDC,
    WALLET,
    Idle,
    asked,
    challenges,
    credential,
    refusal,
    seller,
)


def test_a_challenge_says_what_is_asked_and_for_how_long() -> None:
    evm, tempo = challenges().values()
    assert (evm["method"], tempo["method"]) == ("evm", "tempo")
    assert {evm["intent"], tempo["intent"]} == {"charge"}
    assert {evm["realm"], tempo["realm"]} == {REALM}
    assert decode(evm["request"]) == {
        "amount": "5000",  # 4,999,001 nano-USD, rounded up to units of 1,000
        "currency": USDC.address,
        "recipient": PAY_TO,
        "methodDetails": {"chainId": 84532, "credentialTypes": ["authorization"], "decimals": 6},
    }
    assert decode(tempo["request"])["methodDetails"] == {"chainId": 4217, "supportedModes": ["pull"]}
    assert evm["expires"] == "2027-01-15T08:15:30Z"  # the price's end, and the wait for an answer
    assert seconds_of(tempo["expires"]) == int(NOW) + TEMPO_CHALLENGE_S
    assert evm["digest"] == f"sha-256=:{base64.b64encode(BODY).decode()}:"
    assert evm["description"] == "One request, at most 0.004999001 USD"
    assert all(isinstance(value, str) for value in decode(evm["opaque"]).values())


def test_a_challenges_id_is_the_hmac_of_seven_slots() -> None:
    for said in challenges().values():
        names = ("realm", "method", "intent", "request", "expires", "digest", "opaque")
        slots = "|".join(said[name] for name in names)
        made = base64.urlsafe_b64encode(hmac.new(SECRET, slots.encode(), hashlib.sha256).digest())
        assert said["id"] == made.decode().rstrip("=")


def test_the_id_is_the_one_that_another_implementation_computes() -> None:
    # mppx 0.11.0, Challenge.from with this secret and these members.
    request = {
        "amount": "5000",
        "currency": USDC.address,
        "recipient": PAY_TO,
        "methodDetails": {"chainId": 84532, "credentialTypes": ["authorization"], "decimals": 6},
    }
    said = Challenge(
        id="x5uE3GoxkWR8mcvvWb_lzBCKmX9Wxgf961qeLX7ifWw",
        realm=REALM,
        method="evm",
        intent="charge",
        request=encode_json(request),
        expires="2026-11-22T20:45:00Z",
        digest="sha-256=:RBNvo1WzZ4oRRq0W9+hknpT7T8If536DEMBg9hyq/4o=:",
        opaque={"b": "two", "a": "one"},
    )
    assert said.is_ours(SECRET)
    assert said.normal().opaque == "eyJhIjoib25lIiwiYiI6InR3byJ9"
    assert not said.is_ours(SECRET[::-1])


def test_no_two_challenges_have_the_same_id() -> None:
    assert len({challenges()[name]["id"] for name in ("evm", "tempo") for _ in range(20)}) == 40


def test_a_method_that_cannot_be_settled_now_is_not_offered() -> None:
    ways = {"evm": Way(USDC, Idle(available=False)), "tempo": Way(PATH_USD, Idle())}
    assert [*challenges(seller(ways=ways))] == ["tempo"]


def test_an_api_key_keeps_its_header_to_itself() -> None:
    with_key = challenges(authorization=b"Bearer sk-123")
    assert {said["header"] for said in with_key.values()} == {"Payment-Authorization"}
    assert not any("header" in said for said in challenges().values())
    header = WALLET.evm(with_key["evm"], USDC)
    found = credential("Bearer sk-123", headers={"payment-authorization": header})
    assert found.claim.payer == WALLET.address.lower()


def test_a_request_without_a_payment_has_no_credential() -> None:
    assert seller().read(asked()) is None
    assert seller().read(asked("Bearer sk-123")) is None
    assert seller().read(asked("Paymentish abc")) is None


@pytest.mark.parametrize("listed", [False, True])
def test_an_authorization_becomes_a_claim_and_the_order_of_a_facilitator(listed: bool) -> None:
    said = challenges()["evm"]
    payload = WALLET.evm_payload(said, USDC, listed=listed)
    found = credential(authorization(said, payload, WALLET.source(84532)))
    assert (found.quote, found.when) == (QUOTE, "before")
    claim = found.claim
    payer = WALLET.address.lower()
    assert claim.key == f"eip3009:eip155:84532:{USDC.address.lower()}:{payer}:{payload['nonce']}"
    assert (claim.challenge, claim.protocol, claim.scheme) == (said["id"], "mpp", "evm/charge")
    assert (claim.network, claim.asset, claim.payer) == (USDC.network, USDC.address.lower(), payer)
    assert (claim.pay_to, claim.amount, claim.expires_at) == (PAY_TO, 5000, QUOTE.expires_at + 630)
    order = json.loads(claim.order)
    assert order["paymentRequirements"]["scheme"] == "exact"
    assert order["paymentRequirements"]["extra"] == {"name": "USDC", "version": "2"}
    assert order["paymentPayload"]["accepted"] == order["paymentRequirements"]
    names = ("from", "to", "value", "validAfter", "validBefore", "nonce")
    assert order["paymentPayload"]["payload"] == {
        "signature": payload["signature"],
        "authorization": {name: payload[name] for name in names} | {"to": checksummed(PAY_TO)},
    }


def test_a_signed_transaction_becomes_a_claim() -> None:
    said = challenges()["tempo"]
    raw = WALLET.transaction(said, memo=memo_of(said, b"ten bytes!"))
    payload = {"type": "transaction", "signature": "0x" + raw.hex()}
    claim = credential(authorization(said, payload)).claim
    assert claim.payer == WALLET.address.lower()
    assert (claim.scheme, claim.network, claim.amount) == ("tempo/charge", "eip155:4217", 5000)
    assert claim.expires_at == int(NOW) + TEMPO_CHALLENGE_S
    assert claim.key.startswith(f"tempo:eip155:4217:{PATH_USD.address}:0x")


def test_a_hash_is_one_key_whoever_says_to_have_paid() -> None:
    first, second = challenges()["tempo"], challenges()["tempo"]
    payload = {"type": "hash", "hash": "0x" + "Ab" * 32}
    mine = credential(authorization(first, payload, WALLET.source(4217))).claim
    theirs = credential(authorization(second, payload, STRANGER.source(4217))).claim
    assert mine.key == theirs.key
    assert mine.challenge != theirs.challenge


def test_an_opaque_that_came_back_as_an_object_is_the_same() -> None:
    said = challenges()["evm"]
    expanded = {**said, "opaque": decode(said["opaque"])}
    header = authorization(expanded, WALLET.evm_payload(said, USDC), WALLET.source(84532))
    assert credential(header).quote == QUOTE


@pytest.mark.parametrize("name", ["evm", "tempo"])
@pytest.mark.parametrize(
    "member", ["id", "realm", "method", "intent", "request", "expires", "digest", "opaque"]
)
def test_each_signed_parameter_is_held_to(name: str, member: str) -> None:
    said = challenges()[name]
    # It is paid for as it was; then one parameter is another, or is left out where it may be.
    header = WALLET.evm(said, USDC) if name == "evm" else WALLET.tempo(said)
    wire = decode(header.partition(" ")[2])
    other = challenges(seller(realm="other.example", pay_to="0x" + "cd" * 20), now=NOW + 7)
    swapped = {**said, "method": "tempo" if name == "evm" else "evm", "intent": "session"}
    swapped["digest"] = "sha-256=:" + base64.b64encode(ROUTE).decode() + ":"
    swapped["expires"] = "2027-01-15T08:15:31Z"
    wire["challenge"][member] = swapped[member] if swapped[member] != said[member] else other[name][member]
    changed = "Payment " + encode(json.dumps(wire).encode())
    assert refusal(changed) == ("invalid_challenge", "invalid-challenge")
    if member in ("expires", "digest", "opaque"):
        del wire["challenge"][member]
        assert refusal("Payment " + encode(json.dumps(wire).encode()))[1] == "invalid-challenge"


def test_no_shift_of_texts_between_the_slots_is_taken_for_ours() -> None:
    said = challenges()["evm"]
    shifted = {**said, "realm": f"{said['realm']}|evm", "method": "charge", "intent": said["request"]}
    shifted |= {"request": said["expires"], "expires": said["digest"], "digest": said["opaque"]}
    del shifted["opaque"]
    assert refusal(authorization(shifted, WALLET.evm_payload(said, USDC)))[1] == "invalid-challenge"


def test_a_challenge_is_for_one_body_one_routing_one_realm_and_a_while() -> None:
    header = WALLET.evm(challenges()["evm"], USDC)
    assert refusal(header, body=ROUTE) == ("body_changed", "invalid-challenge")
    assert refusal(header, route=BODY) == ("routing_changed", "invalid-challenge")
    assert refusal(header, seller(realm="other")) == ("realm_mismatch", "invalid-challenge")
    assert refusal(header, seller(pay_to=STRANGER.address)) == ("terms_changed", "invalid-challenge")
    assert refusal(header, seller(ways={"tempo": Way(PATH_USD, Idle())})) == (
        "method_unsupported",
        "method-unsupported",
    )
    assert refusal(header, seller(secret=SECRET[::-1])) == ("invalid_challenge", "invalid-challenge")
    assert refusal(header, now=QUOTE.expires_at) == ("quote_expired", "payment-expired")
    assert credential(header, now=QUOTE.expires_at - 1).quote == QUOTE


def test_another_intent_under_our_own_secret_is_not_ours() -> None:
    said = challenges()["evm"]
    names = ("realm", "method", "intent", "request", "expires", "digest", "opaque")
    session = Challenge(id="", **{name: said[name] for name in names} | {"intent": "session"})
    changed = {**said, "intent": "session", "id": session.signed(SECRET)}
    assert refusal(WALLET.evm(changed, USDC)) == ("method_unsupported", "method-unsupported")


def test_a_challenge_of_another_chain_or_token_is_not_ours_any_more() -> None:
    header = WALLET.evm(challenges()["evm"], USDC)
    for changed in (("network", "eip155:8453"), ("address", PATH_USD.address), ("decimals", 18)):
        fields = {name: getattr(USDC, name) for name in USDC.__struct_fields__}
        other = Asset(**{**fields, changed[0]: changed[1]})
        assert refusal(header, seller(ways={"evm": Way(other, Idle())}))[0] == "terms_changed"


@pytest.mark.parametrize(
    ("change", "reason", "problem"),
    [
        ({"to": STRANGER.address}, "recipient_mismatch", "verification-failed"),
        ({"value": "4999"}, "payment_insufficient", "payment-insufficient"),
        ({"value": "0"}, "payment_insufficient", "payment-insufficient"),
        ({"value": "5001"}, "amount_mismatch", "verification-failed"),
        ({"nonce": "0x" + "00" * 32}, "nonce_mismatch", "verification-failed"),
        ({"validAfter": str(int(NOW) + 1)}, "authorization_not_yet_valid", "verification-failed"),
        ({"validBefore": str(int(NOW) + 630)}, "authorization_expired", "verification-failed"),
        ({"validBefore": str(2**256 - 1)}, "authorization_lasts_too_long", "verification-failed"),
        ({"from": STRANGER.address}, "payer_mismatch", "verification-failed"),
    ],
)
def test_an_authorization_for_anything_else_is_refused(change: Wire, reason: str, problem: str) -> None:
    assert refusal(WALLET.evm(challenges()["evm"], USDC, **change)) == (reason, problem)


@pytest.mark.parametrize(
    ("change", "reason", "problem"),
    [
        ({"recipient": STRANGER.address}, "recipient_mismatch", "verification-failed"),
        ({"token": USDC.address}, "recipient_mismatch", "verification-failed"),
        ({"selector": "a9059cbb"}, "recipient_mismatch", "verification-failed"),
        ({"calls": []}, "recipient_mismatch", "verification-failed"),
        ({"chain_id": 42431}, "network_mismatch", "verification-failed"),
        ({"amount": 4999}, "payment_insufficient", "payment-insufficient"),
        ({"amount": 5001}, "amount_mismatch", "verification-failed"),
        ({"memo": bytes(32)}, "memo_mismatch", "verification-failed"),
        ({"valid_after": int(NOW) + 1}, "authorization_not_yet_valid", "verification-failed"),
        ({"valid_before": b""}, "authorization_lasts_too_long", "verification-failed"),
        ({"valid_before": int(NOW) + 601}, "authorization_lasts_too_long", "verification-failed"),
        ({"valid_before": int(NOW) + 1}, "authorization_expired", "payment-expired"),
        ({"fee_payer": b"\0"}, "fee_payer_unsupported", "method-unsupported"),
        ({"authorizations": [[b"\1"]]}, "more_than_a_transfer", "method-unsupported"),
    ],
)
def test_a_transaction_for_anything_else_is_refused_unsent(change: Wire, reason: str, problem: str) -> None:
    assert refusal(WALLET.tempo(challenges()["tempo"], **change)) == (reason, problem)


def test_a_transfer_beside_other_calls_is_refused() -> None:
    said = challenges()["tempo"]
    (transfer,) = rlp.decode(WALLET.transaction(said)[1:])[4]
    swap = [bytes(20), b"", b"\x12\x34\x56\x78"]
    for calls in ([transfer, transfer], [swap, transfer], [transfer, swap]):
        refused = refusal(WALLET.tempo(said, calls=calls))
        assert refused == ("more_than_a_transfer", "method-unsupported")
    assert refusal(WALLET.tempo(said, calls=[swap]))[0] == "recipient_mismatch"


@pytest.mark.parametrize("kind", [1, 2, 3, 4])
def test_who_only_names_the_account_that_pays_is_refused(kind: int) -> None:
    said = challenges()["tempo"]
    named = bytes((kind,)) + bytes.fromhex(STRANGER.address[2:]) + b"\1" * 200
    signed = WALLET.transaction(said, signature=named[:130] if kind == 1 else named)
    payload = {"type": "transaction", "signature": "0x" + signed.hex()}
    for source in (None, STRANGER.source(4217), WALLET.source(4217)):
        refused = refusal(authorization(said, payload, source))
        assert refused == ("signature_unsupported", "method-unsupported")


def test_a_memo_of_another_challenge_or_realm_is_refused() -> None:
    said = challenges()["tempo"]
    for other in (challenges()["tempo"], {**said, "realm": "other.example"}):
        assert refusal(WALLET.tempo(said, memo=memo_of(other)))[0] == "memo_mismatch"


def test_who_pays_is_who_signed() -> None:
    said = challenges()["tempo"]
    payload = {"type": "transaction", "signature": "0x" + WALLET.transaction(said).hex()}
    assert refusal(authorization(said, payload, STRANGER.source(4217)))[0] == "payer_mismatch"
    assert refusal(authorization(said, payload, WALLET.source(42431)))[0] == "network_mismatch"


def test_a_transfer_that_was_sent_in_time_is_taken_until_the_price_ends() -> None:
    said = challenges()["tempo"]
    sent = authorization(said, {"type": "hash", "hash": "0x" + "ab" * 32}, WALLET.source(4217))
    signed = WALLET.tempo(said, valid_before=QUOTE.expires_at)
    late = NOW + TEMPO_CHALLENGE_S
    assert refusal(signed, now=late) == ("quote_expired", "payment-expired")
    assert credential(sent, now=late).claim.expires_at == QUOTE.expires_at
    assert refusal(sent, now=QUOTE.expires_at) == ("quote_expired", "payment-expired")


@pytest.mark.parametrize(
    ("name", "payload"),
    [
        ("tempo", {"type": "proof", "signature": "0x" + "00" * 65}),
        ("tempo", {"type": "authorization"}),
        ("evm", {"type": "permit2"}),
        ("evm", {"type": "hash", "hash": "0x" + "ab" * 32}),
    ],
)
def test_other_ways_to_pay_are_refused(name: str, payload: Wire) -> None:
    header = authorization(challenges()[name], payload, WALLET.source(84532))
    assert refusal(header) == ("method_unsupported", "method-unsupported")


def test_a_receipt_names_the_transfer_the_challenge_and_the_request() -> None:
    said = challenges()["evm"]
    claim = credential(WALLET.evm(said, USDC)).claim
    name, value = seller().receipt(claim, Settled("0x" + "12" * 32, 5000), "req_1", NOW)
    assert name == b"payment-receipt"
    assert decode(value.decode()) == {
        "status": "success",
        "method": "evm",
        "timestamp": "2027-01-15T08:00:00Z",
        "reference": "0x" + "12" * 32,
        "challengeId": said["id"],
        "externalId": "req_1",
    }


@pytest.mark.parametrize("realm", ["", 'a "b"', "a\\b", "a\nb", "straße", "Payment here"])
def test_a_realm_that_a_client_could_not_read_is_refused_at_the_start(realm: str) -> None:
    with pytest.raises(ValueError, match="realm"):
        seller(realm=realm)


@given(st.integers(min_value=0, max_value=10**15), st.integers(min_value=1, max_value=2**40))
def test_a_quote_comes_back_whatever_it_was(nusd: int, expires_at: int) -> None:
    quote = Quote(nusd, BODY, ROUTE, "catalog", expires_at + int(NOW) + 60)
    headers = seller().offers(quote, asked(), None)
    said = parse_challenges((name.decode(), value.decode()) for name, value in headers)["tempo"]
    assert int(decode(said["request"])["amount"]) == max(1, -(-nusd // 1000))
    assert credential(WALLET.tempo(said)).quote == quote


def test_what_we_write_ourselves_is_canonical() -> None:
    printable = "".join(map(chr, range(32, 127)))
    details = {"decimals": 6, "chainId": 2**53 - 1, "credentialTypes": ["authorization"], "yes": True}
    written = {"z": printable, "amount": "1", "methodDetails": details, "Z": "", "currency": "0xAb"}
    assert encode_own(written) == encode_json(written)
