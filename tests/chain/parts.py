"""What a payment test is handed, and the payers that it asks for."""

from __future__ import annotations

from dataclasses import dataclass

from tests.chain.anvil import Account, Chain, Token
from tests.chain.clients import Client, Clients
from tests.chain.facilitator import Facilitator


@dataclass(frozen=True)
class Parts:
    """The chains, the money on them, the facilitator and the clients; shared by the whole session.

    Tests keep apart by accounts that nobody else uses: a payer and a payee of their own each.
    """

    chain: Chain
    tempo: Chain
    usdc: Token
    path_usd: Token
    facilitator: Facilitator
    clients: Clients

    def payer(self, units: int = 1_000_000, *, approved: bool = False) -> Account:
        """Return an EVM account with USDC and no coin for gas; `approved`: Permit2 may take all of it."""
        account = self.chain.account()
        self.usdc.mint(account.address, units)
        if approved:
            self.usdc.approve(account.address)
        self.chain.call("anvil_setBalance", account.address, "0x0")
        return account

    def payer_for(self, client: Client) -> Account:
        """Return a payer on the chain where a client pays; on Tempo each account holds more than enough."""
        return self.tempo.account() if client.pays == "tempo" else self.payer()

    def payee(self) -> str:
        """Return an address with no dollar on any chain, in the mixed case that x402's Python parts want."""
        return self.chain.account().address

    def money_for(self, client: Client) -> Token:
        """Return the token in which a client pays."""
        return self.path_usd if client.pays == "tempo" else self.usdc
