"""Payments whose money went another way than the router saw."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.facilitator import lying, refused, says
from tests.paying import Shop, Way, counter, offers_nothing
from tests.service.walking import question

BODY = question(max_tokens=50)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory, database_url: str | None) -> Iterator[Shop]:
    with counter(tmp_path_factory.mktemp("shop"), database_url=database_url) as open_shop:
        yield open_shop


@pytest.mark.parametrize("way", ["exact", "evm"])
def test_what_was_used_between_check_and_settlement_brings_no_new_offer(shop: Shop, way: Way) -> None:
    headers = shop.sign(shop.payer(), way, BODY)
    shop.facilitator.on("/settle", refused("invalid_exact_evm_nonce_already_used"))
    answer = shop.ask(BODY, headers)
    assert (answer.status, answer.error["name"]) == (403, "authorization_used")
    assert offers_nothing(answer)


@pytest.mark.parametrize("way", ["exact", "evm"])
def test_a_transfer_whose_receipt_cannot_be_read_is_found_out_and_not_asked_for_anew(
    shop: Shop, way: Way
) -> None:
    headers = shop.sign(shop.payer(), way, BODY)
    failed = {"success": False, "errorReason": "transaction_failed", "transaction": ""}
    shop.facilitator.on("/settle", lying(**failed), says(failed))
    answer = shop.ask(BODY, headers)
    assert (answer.status, answer.error["name"]) == (503, "settlement_unknown")
    assert offers_nothing(answer)
    assert shop.payment("settled").unserved
