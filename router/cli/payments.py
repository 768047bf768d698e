"""`router ledger payments` and `router ledger forgive`: what wallets paid, and what they owe."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import click
import msgspec

from router.cli.ledger import ledger, with_storage
from router.cli.options import config_option, data_option, settings_of
from router.errors import NotFound
from router.ledger.ledger import Storage
from router.ledger.money import nusd_to_usd
from router.ledger.payments import Payment
from router.ledger.rows import utc_text


@ledger.command()
@click.option(
    "--all", "everything", is_flag=True, help="Include payments that are in order or still running."
)
@config_option
@data_option
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line, amounts in nano-USD.")
def payments(config: Path | None, data: Path | None, everything: bool, as_json: bool) -> None:
    """List what was served and not paid, or paid and not served.

    Each wallet payment is shown with what to do about it.
    """
    encoder = msgspec.json.Encoder()
    count = 0

    async def show(storage: Storage) -> None:
        nonlocal count
        async for payment in storage.payments.all(open_only=not everything):
            if not everything and not needs_looking_at(payment):
                continue
            if as_json:
                sys.stdout.buffer.write(encoder.encode(_document(payment)) + b"\n")
            else:
                click.echo("\n  ".join(_lines(payment)))
            count += 1

    with_storage(settings_of(config, data=data), show)
    if not as_json and not count:
        if everything:
            click.echo("No wallet has paid here yet.")
        else:
            click.echo("Everything that was served is paid, and everything that was paid was served.")


@ledger.command()
@click.argument("payment", metavar="KEY-OR-REQUEST-ID")
@config_option
@data_option
def forgive(payment: str, config: Path | None, data: Path | None) -> None:
    """Write off what a wallet owes; it is served again.

    `router ledger payments` shows the payment's request id and key. Only a payment that failed, or whose
    outcome nobody could learn, can be written off.
    """

    async def write_off(storage: Storage) -> tuple[Payment, int]:
        found = await storage.payments.find(payment) or await storage.payments.of_request(payment)
        if found is None:
            raise NotFound(
                f"no payment has the key or the request id {payment!r}; `router ledger payments --all --json`"
                " shows both"
            )
        return found, await storage.payments.forgive(found.claim.key, now=utc_text(time.time()))

    found, nusd = with_storage(settings_of(config, data=data), write_off)
    click.echo(f"{nusd_to_usd(nusd)} USD of {found.account} written off for {found.request_id}.")


def needs_looking_at(payment: Payment) -> bool:
    """Say whether something was served and is not paid, or paid and not served, as far as anybody knows."""
    unsure = payment.state == "unknown" and payment.forgiven_nusd is None and not payment.running
    return payment.unpaid or payment.unserved or unsure


def advice(payment: Payment) -> str:
    """Return what an operator can do about a payment, nothing where it is in order."""
    if payment.running:
        return "it runs"
    if payment.forgiven_nusd is not None:
        return "forgiven"
    if payment.unserved:
        return "the money is on the payer's account: refund it by hand, or leave it there"
    if payment.state == "failed" and payment.unpaid:
        return f"the payer is refused: router ledger forgive {payment.request_id}"
    if payment.state == "unknown":
        return f"look the payer's nonce up on chain, then: router ledger forgive {payment.request_id}"
    if payment.unpaid:
        return "the service settles it while it runs"
    return ""


def _document(payment: Payment) -> dict[str, object]:
    claim = payment.claim
    return {
        "key": claim.key,
        "request_id": payment.request_id,
        "account": payment.account,
        "protocol": claim.protocol,
        "scheme": claim.scheme,
        "network": claim.network,
        "asset": claim.asset,
        "payer": claim.payer,
        "pay_to": claim.pay_to,
        "state": payment.state,
        "running": payment.running,
        "amount": str(claim.amount),
        "amount_nusd": payment.amount_nusd,
        "taken": None if payment.taken is None else str(payment.taken),
        "taken_nusd": payment.taken_nusd,
        "served_nusd": payment.served_nusd,
        "metered_nusd": payment.metered_nusd,
        "forgiven_nusd": payment.forgiven_nusd,
        "transaction": payment.transaction,
        "reason": payment.reason,
        "expires_at": claim.expires_at,
        "created_at": payment.created_at,
        "updated_at": payment.updated_at,
        "unpaid": payment.unpaid,
        "unserved": payment.unserved,
        "advice": advice(payment),
    }


def _lines(payment: Payment) -> list[str]:
    """Return a payment as a headline and what belongs to it."""
    reason = f" ({payment.reason})" if payment.reason else ""
    paid_by = f"{payment.claim.protocol} {payment.claim.scheme} of {payment.account}"
    money = f"served {_usd(payment.served_nusd)}, taken {_usd(payment.taken_nusd)}"
    lines = [f"{payment.created_at}  {payment.request_id}  {payment.state}{reason}", f"{paid_by}: {money}"]
    if payment.transaction:
        lines.append(f"transaction {payment.transaction}")
    if told := advice(payment):
        lines.append(f"-> {told}")
    return lines


def _usd(nusd: int | None) -> str:
    return "nothing" if nusd is None else f"{nusd_to_usd(nusd)} USD"
