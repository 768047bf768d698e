"""A payer of our own for MPP: reads challenges and signs credentials, also wrong ones when it is told to."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import rlp
from eth_hash.auto import keccak

from router.access.tempo import TRANSFER_WITH_MEMO
from router.access.terms import Asset
from tests.eth import Account

Wire = dict[str, Any]
EXPIRING = (1 << 256) - 1
_PARAMETER = re.compile(r'(\w+)="([^"]*)"')


def parse_challenge(header: str) -> Wire:
    """Return the parameters of one `WWW-Authenticate: Payment` value."""
    scheme, _, rest = header.partition(" ")
    assert scheme == "Payment"
    return dict(_PARAMETER.findall(rest))


def parse_challenges(headers: Iterable[tuple[str, str]]) -> dict[str, Wire]:
    """Return a 402's challenges by method."""
    found = [parse_challenge(value) for name, value in headers if name.lower() == "www-authenticate"]
    return {challenge["method"]: challenge for challenge in found}


def encode(data: bytes) -> str:
    """Return base64url without padding."""
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def decode(text: str) -> Any:
    """Return the JSON of base64url without padding."""
    return json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))


def authorization(challenge: Wire, payload: Wire, source: str | None = None) -> str:
    """Return the header of a credential; the unsigned parameters are sent back too, as clients do."""
    wire: Wire = {"challenge": challenge, "payload": payload}
    if source is not None:
        wire["source"] = source
    return "Payment " + encode(json.dumps(wire, separators=(",", ":")).encode())


@dataclass(frozen=True)
class MppWallet:
    """One key. Every keyword of its methods replaces what would have been signed."""

    key: str

    @property
    def address(self) -> str:
        """Return its address."""
        return str(Account.from_key(self.key).address)

    def source(self, chain_id: int) -> str:
        """Return what a credential says of who pays."""
        return f"did:pkh:eip155:{chain_id}:{self.address}"

    def evm_payload(self, challenge: Wire, asset: Asset, *, listed: bool = False, **changes: Any) -> Wire:
        """Sign an EIP-3009 authorization; `listed` binds it as pympp does, else as the specification says."""
        request = decode(challenge["request"])
        bound = challenge["id"] + challenge["realm"]
        if listed:
            bound = json.dumps([challenge["id"], challenge["realm"]], separators=(",", ":"))
        fields = {
            "from": self.address,
            "to": request["recipient"],
            "value": request["amount"],
            "validAfter": "0",
            "validBefore": str(_seconds(challenge["expires"])),
            "nonce": "0x" + keccak(bound.encode()).hex(),
            **changes,
        }
        return {"type": "authorization", **fields, "signature": self._sign_transfer(fields, asset)}

    def evm(self, challenge: Wire, asset: Asset, *, listed: bool = False, **changes: Any) -> str:
        """Return the header that pays an `evm` challenge."""
        payload = self.evm_payload(challenge, asset, listed=listed, **changes)
        return authorization(challenge, payload, self.source(asset.chain_id))

    def transaction(self, challenge: Wire, **changes: Any) -> bytes:
        """Sign Tempo's transaction that pays a challenge."""
        request = decode(challenge["request"])
        said = {
            "chain_id": request["methodDetails"]["chainId"],
            "token": request["currency"],
            "recipient": request["recipient"],
            "amount": int(request["amount"]),
            "memo": memo_of(challenge),
            "selector": "95777d59",
            "valid_before": _seconds(challenge["expires"]),
            "valid_after": b"",
            "fee_payer": b"",
            "authorizations": [],
            **changes,
        }
        data = bytes.fromhex(said["selector"]) + b"".join(
            part.rjust(32, b"\0")
            for part in (_bytes(said["recipient"]), said["amount"].to_bytes(32), said["memo"])
        )
        calls = said.get("calls", [[_bytes(said["token"]), 0, data]])
        fields = [said["chain_id"], 1, 20_000_000_000, 1_000_000, calls, [], EXPIRING, 0]
        fields += [said["valid_before"], said["valid_after"], _bytes(said["token"]), said["fee_payer"]]
        fields.append(said["authorizations"])
        hashed = keccak(b"\x76" + rlp.encode(fields))
        signed = Account.unsafe_sign_hash(hashed, self.key)
        signature = signed.r.to_bytes(32) + signed.s.to_bytes(32) + bytes((signed.v,))
        return b"\x76" + rlp.encode([*fields, said.get("signature", signature)])

    def tempo(self, challenge: Wire, **changes: Any) -> str:
        """Return the header that pays a `tempo` challenge by a transaction for the server to send."""
        raw = self.transaction(challenge, **changes)
        chain_id = decode(challenge["request"])["methodDetails"]["chainId"]
        payload = {"type": "transaction", "signature": "0x" + raw.hex()}
        return authorization(challenge, payload, self.source(chain_id))

    def _sign_transfer(self, fields: Wire, asset: Asset) -> str:
        domain = {
            "name": asset.name,
            "version": asset.version,
            "chainId": asset.chain_id,
            "verifyingContract": asset.address,
        }
        kinds = {"from": "address", "to": "address", "nonce": "bytes32"}
        types = {
            "TransferWithAuthorization": [
                {"name": name, "type": kinds.get(name, "uint256")}
                for name in ("from", "to", "value", "validAfter", "validBefore", "nonce")
            ]
        }
        numbers = {name: int(fields[name]) for name in ("value", "validAfter", "validBefore")}
        message = {**fields, **numbers, "nonce": _bytes(fields["nonce"])}
        signed = Account.sign_typed_data(self.key, domain, types, message)
        return "0x" + signed.signature.hex().removeprefix("0x")


def pushed(wallet: MppWallet, challenge: Wire) -> tuple[str, Wire]:
    """Return the header that says a `tempo` challenge was paid, and the receipt of that transfer."""
    request, hash_ = decode(challenge["request"]), "0x" + keccak(challenge["id"].encode()).hex()
    parties = [address[2:].lower().rjust(64, "0") for address in (wallet.address, request["recipient"])]
    topics = [TRANSFER_WITH_MEMO, *("0x" + party for party in parties), "0x" + memo_of(challenge).hex()]
    log = {"address": request["currency"], "topics": topics, "data": f"0x{int(request['amount']):064x}"}
    source = wallet.source(request["methodDetails"]["chainId"])
    receipt = {"transactionHash": hash_, "status": "0x1", "logs": [log], "blockNumber": "0x7"}
    return authorization(challenge, {"type": "hash", "hash": hash_}, source), receipt


def memo_of(challenge: Wire, client: bytes = bytes(10)) -> bytes:
    """Return the memo that names a challenge."""
    return (
        bytes.fromhex("ef1ed71201")
        + keccak(challenge["realm"].encode())[:10]
        + client
        + keccak(challenge["id"].encode())[:7]
    )


def _seconds(moment: str) -> int:
    return int(datetime.fromisoformat(moment.replace("Z", "+00:00")).timestamp())


def _bytes(text: str) -> bytes:
    return bytes.fromhex(text.removeprefix("0x"))
