"""What a node cannot be asked about beforehand buys nothing on Tempo: the upstream is never paid for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import rlp

from tests.mpp_wallet import MppWallet, Wire, authorization, parse_challenges
from tests.paying import Shop, counter, header_lines, offers_anew
from tests.rpc_node import RpcNode, error, result
from tests.service.walking import question

BODY = question(max_tokens=50)
PENNILESS, RICH = MppWallet("0x" + "01" * 32), MppWallet("0x" + "02" * 32)


@pytest.fixture(scope="module")
def node() -> Iterator[RpcNode]:
    """Serve a chain on which every transfer would go through."""
    with RpcNode() as made:
        made.on("eth_chainId", result(hex(4217)))
        made.on("eth_call", result("0x"))
        yield made


@pytest.fixture(scope="module")
def shop(node: RpcNode, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    with counter(tmp_path_factory.mktemp("shop"), mpp_tempo_rpc=node.url) as made:
        yield made


def asked(shop: Shop) -> Wire:
    return parse_challenges(header_lines(shop.router, BODY))["tempo"]


def beside(challenge: Wire) -> Wire:
    (transfer,) = rlp.decode(PENNILESS.transaction(challenge)[1:])[4]
    return {"calls": [[bytes(20), b"", b"\x12\x34\x56\x78"], transfer]}


def in_the_name_of_the_rich(kind: int) -> bytes:
    return bytes((kind,)) + bytes.fromhex(RICH.address[2:]) + b"\1" * 65


UNPAYABLE: dict[str, tuple[Callable[[Wire], Wire], str]] = {
    "a call before the transfer": (beside, "more_than_a_transfer"),
    "an authorization": (lambda _: {"authorizations": [[b"\1"]]}, "more_than_a_transfer"),
    "an access key": (lambda _: {"signature": in_the_name_of_the_rich(3)}, "signature_unsupported"),
    "a later access key": (lambda _: {"signature": in_the_name_of_the_rich(4)}, "signature_unsupported"),
    "a passkey": (lambda _: {"signature": b"\2" + b"\1" * 200}, "signature_unsupported"),
    "P-256": (lambda _: {"signature": b"\1" * 130}, "signature_unsupported"),
}


@pytest.mark.parametrize("name", UNPAYABLE)
def test_what_cannot_be_tried_is_refused_before_anybody_is_asked(
    shop: Shop, node: RpcNode, name: str
) -> None:
    changes, reason = UNPAYABLE[name]
    challenge = asked(shop)
    signed = PENNILESS.transaction(challenge, **changes(challenge))
    payload = {"type": "transaction", "signature": "0x" + signed.hex()}
    named = RICH if reason == "signature_unsupported" else PENNILESS
    before = node.methods()
    answer = shop.ask(BODY, {"authorization": authorization(challenge, payload, named.source(4217))})
    assert offers_anew(answer), (answer.status, answer.body)
    assert f"({reason})" in answer.error["message"]
    assert answer.json["type"].endswith("/method-unsupported")
    assert node.methods() == before
    assert (shop.upstream.requests, shop.payments()) == ([], [])


def test_who_has_not_the_money_is_refused_before_the_upstream_is_asked(shop: Shop, node: RpcNode) -> None:
    node.on("eth_call", error(3))
    challenge = asked(shop)
    answer = shop.ask(BODY, {"authorization": PENNILESS.tempo(challenge)})
    assert offers_anew(answer), (answer.status, answer.body)
    assert "(simulation_failed)" in answer.error["message"]
    assert answer.json["type"].endswith("/payment-insufficient")
    (question_asked, *_) = node.asked[-1][1]
    assert question_asked["from"] == PENNILESS.address.lower()
    assert (shop.upstream.requests, shop.payments()) == ([], [])
