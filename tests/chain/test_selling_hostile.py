"""Payers who cheat and facilitators who do not tell, where only the chain can say what moved."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import rlp

from tests.chain.anvil import TEMPO_CHAIN_ID, Account
from tests.chain.facilitator import Facilitator
from tests.chain.parts import Parts
from tests.chain.selling import MODEL, shop
from tests.mpp_wallet import MppWallet, Wire, authorization, parse_challenges
from tests.paying import WAYS, Way, at_once, header_lines, offers_anew, offers_nothing, payments_of, signed
from tests.router import RouterServer
from tests.service.walking import Client, question, wait_all_ended, wait_for
from tests.upstream import Gate, ScriptedUpstream, stream
from tests.wallets import Wallet

WHOLE, STREAM = question(max_tokens=50), question(max_tokens=50, stream=True)
WORDS = "one two three four five six"
UNITS = 1_000_000


def payer(parts: Parts) -> tuple[Account, Wallet]:
    """Return an account with money that Permit2 may take, and the wallet that signs for it."""
    account = parts.payer(UNITS, approved=True)
    return account, Wallet(account.key)


def empty(parts: Parts, account: Account) -> None:
    """Move everything away, as a payer can at any moment."""
    parts.chain.call("anvil_setBalance", account.address, hex(10**18))
    parts.usdc.transfer(account.address, parts.payee(), parts.usdc.balance_of(account.address))


def held_up(
    router: RouterServer, upstream: ScriptedUpstream, headers: dict[str, str], after: int
) -> tuple[Client, Gate]:
    """Send a paid request whose signature has been checked, and whose upstream waits for the gate."""
    gate = Gate()
    upstream.on(MODEL, stream(WORDS, gate=gate, gate_after=after))
    client = Client(router, STREAM, headers)
    upstream.wait_requests(1)
    return client, gate


@pytest.mark.parametrize("way", WAYS)
def test_of_twelve_copies_one_moves_money(
    parts: Parts, facilitator: Facilitator, tmp_path: Path, way: Way
) -> None:
    payee = parts.payee()
    account, wallet = payer(parts)
    with shop(parts, facilitator, tmp_path, payee, mpp_methods="evm") as (router, _):
        headers = signed(router, wallet, way, WHOLE)
        answers = at_once([router], 12, WHOLE, headers)
        again = router.request("POST", "/v1/chat/completions", WHOLE, headers)
        wait_all_ended(router)
        (payment,) = payments_of(router)
    assert Counter(answer.status for answer in [*answers, again]) == {200: 1, 403: 12}
    assert all(offers_nothing(answer) for answer in [*answers, again] if answer.status == 403)
    (moved,) = parts.usdc.transfers(to=payee)
    assert moved.transaction in again.error["message"]
    assert (payment.state, payment.taken) == ("settled", moved.value)
    assert UNITS - parts.usdc.balance_of(account.address) == moved.value


@pytest.mark.parametrize("way", ["exact", "evm"])
def test_who_empties_the_wallet_after_the_check_gets_nothing(
    parts: Parts, facilitator: Facilitator, tmp_path: Path, way: Way
) -> None:
    payee = parts.payee()
    account, wallet = payer(parts)
    with shop(parts, facilitator, tmp_path, payee, mpp_methods="evm") as (router, upstream):
        client, gate = held_up(router, upstream, signed(router, wallet, way, STREAM), 0)
        empty(parts, account)
        gate.open()
        head = client.head()
        body = client.read_rest()
        rows = wait_all_ended(router)
    assert offers_anew(head)
    assert b"one" not in body
    assert [row.kind for row in rows] == ["hold", "release"]
    assert rows[1].upstream_cost_nusd > 0
    assert parts.usdc.balance_of(payee) == 0


def test_who_empties_the_wallet_during_an_upto_stream_is_served_once_and_blocked(
    parts: Parts, facilitator: Facilitator, tmp_path: Path
) -> None:
    payee = parts.payee()
    account, wallet = payer(parts)
    with shop(parts, facilitator, tmp_path, payee, mpp_methods="evm") as (router, upstream):
        client, gate = held_up(router, upstream, signed(router, wallet, "upto", STREAM), 3)
        assert client.head().status == 200
        empty(parts, account)
        gate.open()
        assert b"[DONE]" in client.read_rest()
        (payment,) = payments_of(router)
        assert (payment.state, payment.unpaid) == ("failed", True)
        parts.usdc.mint(account.address, UNITS)
        blocked = router.request(
            "POST", "/v1/chat/completions", STREAM, signed(router, wallet, "exact", STREAM)
        )
    assert (blocked.status, blocked.error["name"]) == (403, "payer_blocked")
    assert parts.usdc.balance_of(payee) == 0


@pytest.mark.parametrize("way", ["exact", "evm"])
def test_a_settlement_that_nobody_confirms_is_found_on_the_chain_and_not_asked_for_again(
    parts: Parts, facilitator: Facilitator, tmp_path: Path, way: Way
) -> None:
    payee = parts.payee()
    account, wallet = payer(parts)
    with shop(parts, facilitator, tmp_path, payee, mpp_methods="evm") as (router, _):
        headers = signed(router, wallet, way, WHOLE)
        facilitator.order("settle", drop=True)
        answer = router.request("POST", "/v1/chat/completions", WHOLE, headers)
        assert (answer.status, answer.error["name"]) == (503, "settlement_unknown")
        assert offers_nothing(answer)
        assert parts.usdc.balance_of(payee) == UNITS - parts.usdc.balance_of(account.address) > 0

        def look() -> bool | None:
            return payments_of(router)[0].unserved or None

        wait_for(look, "the settlement", 15)
        again = router.request("POST", "/v1/chat/completions", WHOLE, headers)
        assert (again.status, offers_nothing(again)) == (403, True)
    assert len(parts.usdc.transfers(to=payee)) == 1


PENNILESS = MppWallet("0x" + "5e" * 32)
TEMPO_REFUSED = {
    "alone": "simulation_failed",
    "behind another call": "more_than_a_transfer",
    "by an access key that nobody gave": "signature_unsupported",
}


def unpaid(challenge: Wire, rich: str, how: str) -> dict[str, str]:
    """Return the header of a transfer on Tempo that the chain would never do."""
    changes: Wire = {}
    if how == "behind another call":
        (transfer,) = rlp.decode(PENNILESS.transaction(challenge)[1:])[4]
        changes["calls"] = [[*transfer[:2], b"\x70\xa0\x82\x31" + bytes(32)], transfer]
    if how == "by an access key that nobody gave":
        key = rlp.decode(PENNILESS.transaction(challenge)[1:])[-1]
        changes["signature"] = b"\3" + bytes.fromhex(rich[2:]) + key
    payload = {
        "type": "transaction",
        "signature": "0x" + PENNILESS.transaction(challenge, **changes).hex(),
    }
    payer = f"did:pkh:eip155:{TEMPO_CHAIN_ID}:{rich}" if "signature" in changes else ""
    return {"authorization": authorization(challenge, payload, payer or None)}


@pytest.mark.parametrize("how", TEMPO_REFUSED)
def test_who_has_nothing_on_tempo_is_refused_before_the_upstream_is_paid(
    parts: Parts, facilitator: Facilitator, tmp_path: Path, how: str
) -> None:
    payee, rich = parts.payee(), parts.tempo.account()
    before = parts.path_usd.balance_of(rich.address)
    assert (before > UNITS, parts.path_usd.balance_of(PENNILESS.address)) == (True, 0)
    with shop(parts, facilitator, tmp_path, payee) as (router, upstream):
        challenge = parse_challenges(header_lines(router, WHOLE))["tempo"]
        headers = unpaid(challenge, rich.address, how)
        answer = router.request("POST", "/v1/chat/completions", WHOLE, headers)
        assert (offers_anew(answer), upstream.requests, payments_of(router)) == (True, [], [])
    assert f"({TEMPO_REFUSED[how]})" in answer.error["message"]
    assert (parts.path_usd.balance_of(rich.address), parts.path_usd.balance_of(payee)) == (before, 0)
