"""Read a signed transaction of Tempo (type 0x76): what it pays to whom, from whom, and until when.

The form is `0x76 || rlp([chain id, priority fee, fee, gas, calls, access list, nonce key, nonce, valid
before, valid after, fee token, fee payer's signature, authorizations, key authorization?, signature])`, each
call `[to, value, data]`; the fees, the access list and the nonces are not read. Source: Tempo's transaction
specification, as viem 2.50 and pytempo 0.6 write it.
"""

from __future__ import annotations

from dataclasses import dataclass

from coincurve import PublicKey
from eth_hash.auto import keccak

TYPE = 0x76
SPONSORED_TYPE = 0x78
"""A transaction that waits for the signature of who pays its fee."""
MAX_CALLS = 16
TRANSFER_WITH_MEMO = bytes.fromhex("95777d59")  # transferWithMemo(address,uint256,bytes32)
_FIELDS = (14, 15)
_CALLS, _VALID_BEFORE, _VALID_AFTER, _FEE_PAYER, _AUTHORIZATIONS = 4, 8, 9, 11, 12
_WORD = 32
_HALF_ORDER = 0x7FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF5D576E7357A4501DDFE92F46681B20A0  # SEC 2, n // 2


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a transaction; `to` is a lower-case address."""

    to: str
    value: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Transaction:
    """What a transaction says. `valid_before` and `valid_after` are seconds since 1970, None where open.

    `authorizes` says that it hands out rights beside its calls: code for accounts (EIP-7702), an access key.
    """

    hash: str
    sender: str
    chain_id: int
    calls: tuple[Call, ...]
    authorizes: bool
    valid_before: int | None
    valid_after: int | None


@dataclass(frozen=True, slots=True)
class Transfer:
    """A `transferWithMemo` of a token; addresses are in lower case."""

    token: str
    recipient: str
    amount: int
    memo: bytes


@dataclass(frozen=True, slots=True)
class _Item:
    """One RLP item: `head` is where it begins, `start` to `stop` its content."""

    listed: bool
    head: int
    start: int
    stop: int


class Sponsored(Exception):
    """Somebody else than the sender is to pay the transaction's fee, or does."""


class OtherSignature(Exception):
    """The signature is not the account's own of secp256k1: by P-256, WebAuthn or an access key."""


def read_transaction(raw: bytes) -> Transaction:
    """Decode a transaction and say who signed it. Raises ValueError, Sponsored, OtherSignature.

    The sender is recovered, never believed: an access key only names its account, and whether it may sign for
    it nobody but the chain can say, when it is too late.
    """
    if raw[:1] == bytes((SPONSORED_TYPE,)):
        raise Sponsored
    if raw[:1] != bytes((TYPE,)):
        raise ValueError("not a Tempo transaction")
    outer = _item(raw, 1, len(raw))
    if not outer.listed or outer.stop != len(raw):
        raise ValueError("not one list")
    fields = _items(raw, outer, _FIELDS[-1])
    if len(fields) not in _FIELDS:
        raise ValueError("not the fields of a transaction")
    if fields[_FEE_PAYER].listed or fields[_FEE_PAYER].start != fields[_FEE_PAYER].stop:
        raise Sponsored
    return Transaction(
        hash="0x" + keccak(raw).hex(),
        sender=_sender(raw, fields),
        chain_id=_number(raw, fields[0]),
        calls=_calls(raw, fields[_CALLS]),
        authorizes=len(fields) > _FIELDS[0] or bool(_items(raw, fields[_AUTHORIZATIONS], len(raw))),
        valid_before=_moment(raw, fields[_VALID_BEFORE]),
        valid_after=_moment(raw, fields[_VALID_AFTER]),
    )


def transfer_of(call: Call) -> Transfer | None:
    """Return the transfer with a memo that a call makes, None where it is something else."""
    if call.value != 0 or len(call.data) != 4 + 3 * _WORD or call.data[:4] != TRANSFER_WITH_MEMO:
        return None
    to, amount, memo = (call.data[at : at + _WORD] for at in range(4, len(call.data), _WORD))
    if any(to[:12]):
        return None
    return Transfer(call.to, "0x" + to[12:].hex(), int.from_bytes(amount), memo)


def _calls(raw: bytes, field: _Item) -> tuple[Call, ...]:
    found = []
    for item in _items(raw, field, MAX_CALLS):
        parts = _items(raw, item, 3)
        if len(parts) != 3:
            raise ValueError("not a call")
        to, value, data = parts
        found.append(Call("0x" + _text(raw, to).hex(), _number(raw, value), _text(raw, data)))
    return tuple(found)


def _sender(raw: bytes, fields: list[_Item]) -> str:
    signature = _text(raw, fields[-1])
    if not signature:
        raise ValueError("not signed")
    if len(signature) != 65:
        raise OtherSignature
    # What was signed is the transaction without the signature; its fee payer's place is empty here.
    signed = raw[fields[0].head : fields[-1].head]
    return _recovered(signature, keccak(bytes((TYPE,)) + _list_head(len(signed)) + signed))


def _recovered(signature: bytes, hashed: bytes) -> str:
    parity = signature[64] - 27 if signature[64] >= 27 else signature[64]
    if parity not in (0, 1):
        raise ValueError("not a recovery id")
    if int.from_bytes(signature[32:64]) > _HALF_ORDER:
        raise ValueError("the other of two signatures, which no chain takes (EIP-2)")
    key = PublicKey.from_signature_and_message(signature[:64] + bytes((parity,)), hashed, hasher=None)
    return _address(key.format(compressed=False)[1:])


def _address(public_key: bytes) -> str:
    return "0x" + keccak(public_key)[-20:].hex()


def _moment(raw: bytes, item: _Item) -> int | None:
    return _number(raw, item) or None


def _number(raw: bytes, item: _Item) -> int:
    text = _text(raw, item)
    if len(text) > _WORD or text[:1] == b"\0":
        raise ValueError("not a number")
    return int.from_bytes(text)


def _text(raw: bytes, item: _Item) -> bytes:
    if item.listed:
        raise ValueError("a list where bytes belong")
    return raw[item.start : item.stop]


def _items(raw: bytes, outer: _Item, most: int) -> list[_Item]:
    """Return the items of a list, one level deep."""
    if not outer.listed:
        raise ValueError("bytes where a list belongs")
    found: list[_Item] = []
    at = outer.start
    while at < outer.stop:
        if len(found) == most:
            raise ValueError("a list is too long")
        found.append(_item(raw, at, outer.stop))
        at = found[-1].stop
    return found


def _item(raw: bytes, at: int, end: int) -> _Item:
    """Return the RLP item at a place; the shortest spelling is the only one (Ethereum yellow paper, B)."""
    if at >= end:
        raise ValueError("it is cut short")
    first = raw[at]
    listed = first >= 0xC0
    if first < 0x80:
        return _Item(False, at, at, at + 1)
    short = first - (0xC0 if listed else 0x80)
    if short <= 55:
        start, length = at + 1, short
    else:
        start = at + 1 + short - 55
        said = raw[at + 1 : start]
        length = int.from_bytes(said)
        if said[:1] == b"\0" or length <= 55:
            raise ValueError("a length is not in its shortest form")
    if start + length > end:
        raise ValueError("it is cut short")
    if not listed and length == 1 and raw[start] < 0x80:
        raise ValueError("a byte is not in its shortest form")
    return _Item(listed, at, start, start + length)


def _list_head(length: int) -> bytes:
    if length <= 55:
        return bytes((0xC0 + length,))
    said = length.to_bytes((length.bit_length() + 7) // 8)
    return bytes((0xF7 + len(said),)) + said
