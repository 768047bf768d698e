"""`router wallet`: the wallet that pays upstreams, while the service runs and before its first start."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec
from rich.console import Console

from router.cli.ledger import with_storage
from router.cli.options import config_option, data_option, settings_of
from router.ledger.engines import has_storage
from router.ledger.ledger import Storage

if TYPE_CHECKING:
    from router.settings import Settings


@click.command()
@click.option(
    "--make", is_flag=True, help="Make a key if there is none, so that there is an address to fund."
)
@click.option("--json", "as_json", is_flag=True, help="Machine-readable output.")
@config_option
@data_option
def wallet(make: bool, as_json: bool, config: Path | None, data: Path | None) -> None:
    """Show the wallet that pays upstreams: address, caps, spent.

    It pays providers whose file says pays = "x402" or "mpp", in USDC, within ROUTER_WALLET_CAP_REQUEST_USD
    and ROUTER_WALLET_CAP_DAY_USD. Its key is ROUTER_WALLET_KEY, else wallet.key in the data folder. Balances
    are shown where ROUTER_WALLET_RPC is set.
    """
    from router.access.wallet_key import FILE, WalletFault, make_key

    settings = settings_of(config, data=data)
    if make and settings.wallet_key is None:
        try:
            make_key(settings.data / FILE)
        except WalletFault as fault:
            raise click.ClickException(str(fault)) from None
    document = _document(settings)
    if as_json:
        click.echo(msgspec.json.encode(document))
    else:
        _show(document, settings.data / FILE)


def _document(settings: Settings) -> dict[str, Any]:
    """Return the document; without a database nothing was spent, and none is made."""
    from router.access.wallet import Wallet, caps_of, unpayable, wallet_document
    from router.ledger.spending import NoSpending, Spending

    async def ask(spending: Spending) -> dict[str, Any]:
        found = Wallet(settings, settings.data, spending, monotonic=time.monotonic)
        try:
            blocked = unpayable(settings, settings.data)
            now = datetime.now(UTC)
            return await wallet_document(found, caps_of(settings), blocked, now, payments=True)
        finally:
            await found.aclose()

    async def ask_storage(storage: Storage) -> dict[str, Any]:
        return await ask(storage.spending)

    if not has_storage(settings.data, settings.storage_url):
        return asyncio.run(ask(NoSpending()))
    return with_storage(settings, ask_storage)


def _show(document: dict[str, Any], path: Path) -> None:
    console = Console(highlight=False, soft_wrap=True)
    address = document["address"]
    if address is None and document["blocked"] is None:
        address = f"none yet; made in {path} when an offer needs it, or now by: router wallet --make"
    console.print(f"address   {address or 'none that can be used'}")
    if document["blocked"] is not None:
        console.print(f"blocked   {document['blocked']}")
    for network in document["networks"]:
        balance = network["balance_usd"]
        has = "" if balance is None else f", has {_text(balance)}"
        console.print(f"network   {network['name']} ({network['network']}): {network['token']}{has}")
    caps, today = document["caps"], document["today"]
    console.print(
        f"caps      {_text(caps['request_usd'])} USD a request, {_text(caps['day_usd'])} USD a day (UTC)"
    )
    console.print(
        f"today     {_text(today['spent_usd'])} USD spent, {_text(today['reserved_usd'])} set aside,"
        f" {_text(today['left_usd'])} left"
    )
    for payment in document["payments"]:
        console.print(
            f"{payment['created_at']}  {payment['provider']}  {_text(payment['usd'])} USD  {payment['state']}"
            f"  {payment['transaction'] or '-'}"
        )


def _text(number: msgspec.Raw) -> str:
    return bytes(number).decode()
