"""Tempo's transactions as others sign them, and bytes that are none."""

from __future__ import annotations

import pytest
import rlp
from hypothesis import given
from hypothesis import strategies as st

from router.access.tempo_transaction import (
    Call,
    OtherSignature,
    Sponsored,
    Transfer,
    read_transaction,
    transfer_of,
)

PATH_USD = "0x20c0000000000000000000000000000000000000"
PAY_TO = "0x" + "ab" * 20
VIEM_MEMO = "ef1ed712011a7b4dcdad483ec9d703000000000000000000007a87440486013f"
# Made with viem 2.50.4 and the first key of every development chain.
VIEM = bytes.fromhex(
    "76f90111821079018504a817c800830186a0f87ef87c9420c000000000000000000000000000000000000080b86495777d59"
    "000000000000000000000000abababababababababababababababababababab000000000000000000000000000000000000"
    "0000000000000000000000001388ef1ed712011a7b4dcdad483ec9d703000000000000000000007a87440486013fc0a0ffff"
    "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff80846b49d219809420c000000000000000000000"
    "000000000000000080c0b8419d66baf0b0535e57e94a365b6f814f0c4e7d2985241a827f6b41bf43382204dd3f58e2edbad0"
    "ff402c3db7c4fe197b65fd472c0baab9ace4c272b6b527723b101b"
)
ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141  # secp256k1's n
# Made with pytempo 0.6.2 and the second of those keys: as its account, and as an access key of another one.
PYTEMPO = bytes.fromhex(
    "76f9010c8210790105830186a0f87ef87c9420c000000000000000000000000000000000000080b86495777d590000000000"
    "00000000000000abababababababababababababababababababab0000000000000000000000000000000000000000000000"
    "0000000000000013881111111111111111111111111111111111111111111111111111111111111111c0a0ffffffffffffff"
    "ffffffffffffffffffffffffffffffffffffffffffffffffff80846b49d219809420c0000000000000000000000000000000"
    "00000080c0b841b0b086c1ccb79763c9aa4045737701e78bfaccec3a5c72e4a836cdc4daf3653f271f45de5d645f856220ea"
    "3fc147e6d508928f0dbc3b35ba44e07dfaa550b17d1b"
)
PYTEMPO_KEY = bytes.fromhex(
    "76f901218210790105830186a0f87ef87c9420c000000000000000000000000000000000000080b86495777d590000000000"
    "00000000000000abababababababababababababababababababab0000000000000000000000000000000000000000000000"
    "0000000000000013881111111111111111111111111111111111111111111111111111111111111111c0a0ffffffffffffff"
    "ffffffffffffffffffffffffffffffffffffffffffffffffff80846b49d219809420c0000000000000000000000000000000"
    "00000080c0b85604cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd624507f1107f362aae62ff3920eae598962e5bac14f1"
    "e2f9a86a4cbc3c4c852f0470b53391c4980dccc73b6c4b26bb870d52eb1cd3556b47b5a2c766f01730631c"
)


def test_a_transaction_of_viem_is_read() -> None:
    read = read_transaction(VIEM)
    assert read.sender == "0xf39fd6e51aad88f6f4ce6ab8827279cfffb92266"
    assert read.hash == "0x023cf305cd1d6d3030d1d074cefa4f398daaa7e392aa623148806c2f39c1e6a8"
    assert (read.chain_id, read.valid_before, read.valid_after) == (4217, 1_800_000_025, None)
    assert [transfer_of(call) for call in read.calls] == [
        Transfer(PATH_USD, PAY_TO, 5000, bytes.fromhex(VIEM_MEMO))
    ]


def test_a_transaction_of_pytempo_is_read() -> None:
    read = read_transaction(PYTEMPO)
    assert read.sender == "0x70997970c51812dc3a010c7d01b50e0d17dc79c8"
    assert read.hash == "0x71a25eb92d2f4245c81b0c7c0760623db2e7c0b938a5a8705c21e23ea0db2b5b"
    assert transfer_of(read.calls[0]) == Transfer(PATH_USD, PAY_TO, 5000, b"\x11" * 32)


def signed_by(signature: bytes) -> bytes:
    return b"\x76" + rlp.encode([*rlp.decode(VIEM[1:])[:-1], signature])


def test_an_access_key_is_not_believed_to_sign_for_the_account_that_it_names() -> None:
    with pytest.raises(OtherSignature):
        read_transaction(PYTEMPO_KEY)


@pytest.mark.parametrize(
    "signature",
    [
        b"\x01" + bytes(129),  # P-256
        b"\x02" + bytes(200),  # WebAuthn
        b"\x03" + b"\xcd" * 20 + bytes(65),  # an access key
        b"\x04" + b"\xcd" * 20 + bytes(65),
        b"\x05" + bytes(90),
        bytes(64),
        b"\x01",
    ],
)
def test_no_signature_is_taken_that_does_not_say_its_sender(signature: bytes) -> None:
    with pytest.raises(OtherSignature):
        read_transaction(signed_by(signature))


def test_the_other_signature_of_the_same_key_is_refused_as_the_chain_refuses_it() -> None:
    signature = rlp.decode(VIEM[1:])[-1]
    high = (ORDER - int.from_bytes(signature[32:64])).to_bytes(32)
    flipped = signature[:32] + high + bytes((55 - signature[64],))  # 27 is 28
    with pytest.raises(ValueError, match="EIP-2"):
        read_transaction(signed_by(flipped))


def test_what_hands_out_rights_is_told_apart() -> None:
    fields = rlp.decode(VIEM[1:])
    assert not read_transaction(VIEM).authorizes
    assert read_transaction(b"\x76" + rlp.encode([*fields[:-1], [b"\1"], fields[-1]])).authorizes
    fields[12] = [[b"\1"]] * 20
    assert read_transaction(b"\x76" + rlp.encode(fields)).authorizes


def test_another_signature_is_another_sender() -> None:
    fields = rlp.decode(VIEM[1:])
    fields[7] = b"\x01"  # another nonce than was signed
    changed = b"\x76" + rlp.encode(fields)
    assert read_transaction(changed).sender != read_transaction(VIEM).sender


@pytest.mark.parametrize(
    "call",
    [
        Call(PATH_USD, 1, bytes.fromhex("95777d59") + bytes(96)),
        Call(PATH_USD, 0, bytes.fromhex("95777d59") + bytes(95)),
        Call(PATH_USD, 0, bytes.fromhex("95777d59") + bytes(97)),
        Call(PATH_USD, 0, bytes.fromhex("a9059cbb") + bytes(96)),
        Call(PATH_USD, 0, bytes.fromhex("95777d59") + b"\x01" + bytes(95)),
        Call(PATH_USD, 0, b""),
    ],
)
def test_another_call_is_no_transfer(call: Call) -> None:
    assert transfer_of(call) is None


def test_who_waits_for_a_fee_payer_is_told_apart() -> None:
    fields = rlp.decode(VIEM[1:])
    for said in (b"\0", [b"\1", b"\2", b"\3"]):
        fields[11] = said
        with pytest.raises(Sponsored):
            read_transaction(b"\x76" + rlp.encode(fields))
    with pytest.raises(Sponsored):
        read_transaction(b"\x78" + VIEM[1:])


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\x76",
        b"\x02" + VIEM[1:],
        VIEM[:-1],
        VIEM + b"\0",
        b"\x76" + rlp.encode([b""] * 13),
        b"\x76" + rlp.encode([b""] * 16),
        b"\x76" + b"\xc1" * 4000,
        b"\x76\xf8\x01\x80",  # a length that fits the short form
        b"\x76\xf9\x00\x01\x80",  # a length with a leading zero
        b"\x76\x80",
    ],
)
def test_what_is_no_transaction_is_refused(raw: bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        read_transaction(raw)


def test_a_field_that_is_not_what_it_should_be_is_refused() -> None:
    for place, value in (
        (0, b"\0\1"),
        (0, []),
        (4, b""),
        (4, [b""]),
        (4, [[b""] * 4]),
        (8, b"\0"),
        (12, b""),
        (13, b""),
    ):
        fields = rlp.decode(VIEM[1:])
        fields[place] = value
        with pytest.raises(ValueError, match=r".+"):
            read_transaction(b"\x76" + rlp.encode(fields))


def test_too_many_calls_are_refused() -> None:
    fields = rlp.decode(VIEM[1:])
    fields[4] = fields[4] * 17
    with pytest.raises(ValueError, match="too long"):
        read_transaction(b"\x76" + rlp.encode(fields))


@given(st.binary(max_size=400))
def test_no_bytes_break_the_reader(data: bytes) -> None:
    for raw in (data, b"\x76" + data, b"\x76" + rlp.encode([data] * 14)):
        try:
            read_transaction(raw)
        except (ValueError, Sponsored, OtherSignature):
            continue


@given(st.integers(min_value=0, max_value=len(VIEM) - 1), st.integers(min_value=0, max_value=255))
def test_no_changed_byte_keeps_the_sender_but_the_signatures_parity(place: int, value: int) -> None:
    changed = VIEM[:place] + bytes((value,)) + VIEM[place + 1 :]
    try:
        sender = read_transaction(changed).sender
    except (ValueError, Sponsored, OtherSignature):
        return
    same = changed[:-1] == VIEM[:-1] and changed[-1] in (0, 27)  # both write the same parity
    assert (sender == read_transaction(VIEM).sender) == same
