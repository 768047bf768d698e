"""The tools of the payment tests work: every client pays a plain seller, on chain, exactly what was asked."""

from __future__ import annotations

import json
import subprocess

import httpx2 as httpx
import pytest

from tests.chain.anvil import RUNTIME
from tests.chain.clients import CLIENTS, OPENAI_EXACT, OPENAI_UPTO, Client
from tests.chain.facilitator import Facilitator
from tests.chain.parts import Parts
from tests.chain.probe_seller import ProbeSeller, Terms

BODY = {"model": "auto", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 16}
ASKED = 700
USED = 450


@pytest.mark.parametrize("client", CLIENTS, ids=str)
def test_every_client_pays_once_what_was_asked(
    parts: Parts, facilitator: Facilitator, client: Client
) -> None:
    payer, payee, money = parts.payer_for(client), parts.payee(), parts.money_for(client)
    with ProbeSeller(facilitator.url, parts.tempo.url, Terms(payee, ASKED, USED)) as seller:
        seen = parts.clients.pay(client, f"{seller.url}/chat/completions", payer, BODY | {"stream": True})
    assert (seen.status, seen.error, seen.chunks[-1]) == (200, None, "[DONE]")
    assert seen.receipt is not None
    want = USED if client.pays == "upto" else ASKED
    (moved,) = money.transfers(to=payee)
    assert (moved.sender, moved.value, money.balance_of(payee)) == (payer.address.lower(), want, want)
    assert moved.transaction in (seen.receipt.get("transaction"), seen.receipt.get("reference"))
    assert len(seen.credentials) == 1


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("client", [OPENAI_EXACT, OPENAI_UPTO], ids=str)
def test_the_openai_sdk_pays_over_such_a_fetch(
    parts: Parts, facilitator: Facilitator, client: Client, stream: bool
) -> None:
    payer, payee = parts.payer_for(client), parts.payee()
    with ProbeSeller(facilitator.url, parts.tempo.url, Terms(payee, ASKED, USED)) as seller:
        seen = parts.clients.pay(client, seller.url, payer, BODY | {"stream": stream})
    assert (seen.status, seen.error, seen.body) == (200, None, "paid answer")
    assert parts.usdc.balance_of(payee) == (USED if client.pays == "upto" else ASKED)


@pytest.mark.parametrize("client", [client for client in CLIENTS if client.pays == "upto"], ids=str)
def test_a_payer_that_approved_permit2_needs_no_sponsor(
    parts: Parts, facilitator: Facilitator, client: Client
) -> None:
    approved, plain, payee = parts.payer(approved=True), parts.payer(), parts.payee()
    terms = Terms(payee, ASKED, USED, sponsored=False)
    with ProbeSeller(facilitator.url, parts.tempo.url, terms) as seller:
        seen = parts.clients.pay(client, f"{seller.url}/chat/completions", approved, BODY)
        assert (seen.status, parts.usdc.balance_of(payee)) == (200, USED)
        assert "extensions" not in seen.credentials[0] or not seen.credentials[0]["extensions"]
        seen = parts.clients.pay(client, f"{seller.url}/chat/completions", plain, BODY)
    assert seen.status != 200
    assert facilitator.calls("verify")[-1]["answer"]["invalidReason"] == "permit2_allowance_required"


@pytest.mark.parametrize("client", [c for c in CLIENTS if c.task.get("mode") != "push"], ids=str)
def test_a_payment_can_be_signed_for_a_seller_and_kept(
    parts: Parts, facilitator: Facilitator, client: Client
) -> None:
    payee, money = parts.payee(), parts.money_for(client)
    with ProbeSeller(facilitator.url, parts.tempo.url, Terms(payee, ASKED, USED)) as seller:
        url = f"{seller.url}/chat/completions"
        payment = parts.clients.sign(client, url, parts.payer_for(client), BODY)
        assert (seller.paid, money.balance_of(payee)) == (0, 0)
        headers = {"content-type": "application/json", **payment.headers}
        assert httpx.post(url, content=payment.body, headers=headers, timeout=60).status_code == 200
    assert money.balance_of(payee) == (USED if client.pays == "upto" else ASKED)


def test_the_committed_code_is_what_the_sources_compile_to(parts: Parts) -> None:
    sources = sorted(str(path) for path in RUNTIME.parent.glob("*.sol"))
    done = subprocess.run(
        parts.clients.node("compile.mjs", *sources), capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == json.loads(RUNTIME.read_text("ascii"))
