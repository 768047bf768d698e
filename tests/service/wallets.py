"""Wallet payments for tests of the ledger: claims, the holds that bring them, what is stored of them."""

from typing import Any

from msgspec.structs import replace

from router.ledger.ledger import Ledger
from router.ledger.payments import Payment, PaymentClaim
from router.ledger.rows import HoldRequest, Settlement
from tests.service.ledgers import NOW, Books, request, settlement

ADDRESS = "0x00000000000000000000000000000000000000aa"
PAYER = f"payer:eip155:8453:{ADDRESS}"
LARGE = 10**20  # of an asset with 18 decimals: beyond 64 bits


def claim(number: int | str = 1, **changed: Any) -> PaymentClaim:
    """Return what a wallet signed; an `upto` of x402 unless something else is said."""
    usual = PaymentClaim(
        key=f"authorization:eip155:8453:0xusdc:{ADDRESS}:{number}",
        challenge=None,
        protocol="x402",
        scheme="upto",
        network="eip155:8453",
        asset="0xusdc",
        payer=ADDRESS,
        pay_to="0xseller",
        amount=LARGE,
        expires_at=1_793_600_000,
        order=b'{"payload": {}}',
    )
    return replace(usual, **changed)


def paying(
    number: int | str, paid: PaymentClaim | None = None, amount: int = 10, account: str = PAYER
) -> HoldRequest:
    """Return a hold that brings a payment, by default one of its own number."""
    hold = request(number, amount, account=account, credit=False)
    return replace(hold, payment=paid or claim(number))


def metered(number: int | str, charge: int = 4, of: int | None = None) -> Settlement:
    """Return the settlement of a paying request."""
    return replace(settlement(number, charge), metered_nusd=charge if of is None else of)


async def serve(ledger: Ledger, number: int | str, paid: PaymentClaim | None = None, charge: int = 4) -> str:
    """Hold and settle a paying request; return its payment's key."""
    hold = paying(number, paid)
    await ledger.hold(hold)
    await ledger.settle(metered(number, charge))
    assert hold.payment is not None
    return hold.payment.key


async def pay(
    ledger: Ledger, key: str, transaction: str = "0xabc", taken: int = 4_000, nusd: int = 4
) -> bool:
    """Settle a payment as a facilitator would."""
    assert await ledger.payments.settling(key, taken, nusd, now=NOW)
    return await ledger.payments.settled(key, transaction, now=NOW)


def stored(books: Books, number: int | str = 1) -> Payment | None:
    """Return the payment of a request."""
    return books.ask(lambda storage: storage.payments.of_request(f"req-{number}"))


def listed(books: Books, *, open_only: bool = False) -> list[Payment]:
    """Return the payments as a command lists them."""

    async def read(storage: Any) -> list[Payment]:
        return [payment async for payment in storage.payments.all(open_only=open_only)]

    return books.ask(read)


def faults(books: Books) -> list[str]:
    """Return everything that `router ledger check` would find."""
    return [str(found) for found in books.differences()] + books.ask(lambda storage: storage.books.faults())
