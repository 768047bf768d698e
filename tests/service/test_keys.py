import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.access.keys import Keys, NewKey, authorization_of, key_text, well_formed
from router.catalog.snapshot import Limits
from router.errors import InvalidKey, NotFound, Unavailable
from router.ledger.engines import open_storage
from router.ledger.keysearch import KeyWish, Low
from router.ledger.keystore import KeyRecord
from router.ledger.ledger import unavailable
from tests.service.ledgers import Books

NOON_S = 1_793_534_400.0  # 2026-11-01T12:00:00Z


@dataclass
class Clock:
    now_s: float = NOON_S

    def __call__(self) -> float:
        return self.now_s


class Waiting:
    """Keys whose every method is waited for."""

    def __init__(self, runner: asyncio.Runner, keys: Keys) -> None:
        self._runner = runner
        self._keys = keys

    def __getattr__(self, name: str) -> Any:
        return lambda *given, **named: self._runner.run(getattr(self._keys, name)(*given, **named))


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def keys(books: Books, clock: Clock) -> Iterator[Waiting]:
    with asyncio.Runner() as runner:
        storage = runner.run(open_storage(books.data, books.url))
        yield Waiting(runner, Keys(storage.keys, clock=clock, monotonic=clock))
        runner.run(storage.close())


def bearer(text: str) -> bytes:
    return b"Bearer " + text.encode()


@given(st.binary(min_size=32, max_size=32))
def test_every_key_has_one_form_and_a_right_checksum(entropy: bytes) -> None:
    text = key_text(entropy)
    assert len(text) == 52
    assert well_formed(text)


@given(st.binary(min_size=32, max_size=32), st.integers(3, 51), st.sampled_from("0aZ"))
def test_a_mistyped_key_is_recognised(entropy: bytes, at: int, typed: str) -> None:
    text = key_text(entropy)
    mistyped = text[:at] + typed + text[at + 1 :]
    assert well_formed(mistyped) == (mistyped == text)


def test_a_key_is_found_by_its_text_and_stored_only_as_a_digest(keys: Waiting, books: Books) -> None:
    text, made = keys.create(
        NewKey("me", 5_000_000_000, Limits(concurrency=2, rpm=60, tpm=10_000), models=("deepseek/*",))
    )
    assert keys.lookup(text) == made
    assert made.limits == Limits(concurrency=2, rpm=60, tpm=10_000)
    assert made.allows("deepseek/deepseek-v3.2")
    assert not made.allows("openai/gpt-5")
    dump = books.dump()
    assert made.id in dump
    assert text not in dump
    assert text[10:40] not in dump


class Gone:
    """A key store whose database is away."""

    async def find(self, digest: bytes) -> KeyRecord | None:
        raise unavailable()


def test_a_checksum_fault_does_not_touch_the_database(clock: Clock) -> None:
    keys = Keys(Gone(), clock=clock, monotonic=clock)
    text = key_text(bytes(32))
    wrong = text[:-1] + ("1" if text[-1] != "1" else "2")
    assert asyncio.run(keys.lookup(wrong)) is None
    with pytest.raises(Unavailable):
        asyncio.run(keys.lookup(text))


@pytest.mark.parametrize("access", ["open", "paid"])
@pytest.mark.parametrize(
    "header",
    [
        b"Bearer rk_" + b"a" * 49,
        b"Bearer sk-proj-123",
        b"Bearer " + b"x" * 100_000,
        b"Bearer ' OR 1=1 --",
        b"Bearer a\r\nx-evil: 1",
        b"Bearer \xff\xfe",
        b"Bearer unused, Bearer unused",
        b"Basic dXNlcjpwYXNz",
        b"rk_nothing",
        b"Payment abc",
    ],
)
def test_what_is_no_key_of_ours_is_refused(keys: Waiting, header: bytes, access: str) -> None:
    with pytest.raises(InvalidKey) as caught:
        keys.identify(header, "paid" if access == "paid" else "open")
    assert "Invalid API key" in caught.value.message
    assert "Incorrect API key provided" in caught.value.message
    assert caught.value.status == 401


@pytest.mark.parametrize(
    "header",
    [
        None,
        b"",
        b"Bearer",
        b"Bearer ",
        b"Bearer unused",
        b"bearer none",
        b"Bearer EMPTY",
        b"Bearer sk-no-key-required",
    ],
)
def test_no_key_and_placeholders(keys: Waiting, header: bytes | None) -> None:
    caller = keys.identify(header, "open")
    assert (caller.account, caller.key, caller.require_credit) == ("open", None, False)
    with pytest.raises(InvalidKey, match="router keys create --name me --credit 5"):
        keys.identify(header, "paid")


def test_who_needs_credit(keys: Waiting) -> None:
    plain, plain_key = keys.create(NewKey("plain"))
    prepaid, _ = keys.create(NewKey("prepaid", credit_nusd=0))
    assert not keys.identify(bearer(plain), "open").require_credit
    assert keys.identify(bearer(plain), "paid").require_credit
    assert keys.identify(bearer(prepaid), "open").require_credit
    assert keys.identify(bearer(prepaid), "paid").require_credit
    assert keys.identify(bearer(plain), "open").account == plain_key.id


def test_many_keys_are_searched_counted_and_summed(keys: Waiting, clock: Clock, books: Books) -> None:
    made = []
    for number in range(12):
        made.append(keys.create(NewKey(f"Team {number:02d} 100% _é", credit_nusd=number * 10**9)))
        clock.now_s += 1
    _, plain = keys.create(NewKey("Ärger mit Großbuchstaben"))
    keys.revoke(made[3][1].id)
    clock.now_s += 1
    keys.create(NewKey("ended", credit_nusd=5, last_day=date(2026, 11, 1)))
    clock.now_s += 2 * 86_400

    def names(wish: KeyWish, limit: int = 50, offset: int = 0) -> tuple[list[str], int]:
        found, number = keys.search(wish, limit, offset)
        return [key.name for key, _ in found], number

    assert names(KeyWish(), 2) == (["ended", plain.name], 14)
    assert names(KeyWish("team"), 3, 9)[0] == [f"Team {n:02d} 100% _é" for n in (2, 1, 0)]
    assert names(KeyWish("TEAM 0"))[1] == 10
    assert names(KeyWish("% _"))[1] == 12
    assert names(KeyWish("% x"))[1] == 0
    assert names(KeyWish("Großbuch")) == ([plain.name], 1)
    assert names(KeyWish(plain.id[:10])) == ([plain.name], 1)
    assert names(KeyWish(made[5][0])) == ([made[5][1].name], 1)
    assert names(KeyWish("'; DROP TABLE api_keys; --\0"))[1] == 0
    assert names(KeyWish("team", "revoked")) == ([made[3][1].name], 1)
    assert names(KeyWish("", "expired")) == (["ended"], 1)
    assert names(KeyWish("", "active"), 1, 11)[1] == 12
    assert names(KeyWish(), 50, 99) == ([], 14)
    told = keys.totals()
    assert (told.keys, told.active, told.held_nusd) == (14, 12, 0)
    assert told.credit_nusd == sum(n for n in range(12) if n != 3) * 10**9


def test_keys_that_run_low_are_found_among_many(keys: Waiting, clock: Clock, books: Books) -> None:
    bounds = Low(500_000_000, 90)
    for number in range(20):
        keys.create(NewKey(f"rich {number}", credit_nusd=10**10, budget_day_nusd=10**9))
    _, poor = keys.create(NewKey("poor", credit_nusd=100_000_000))
    assert keys.low(bounds, 5) == ([], 0)  # what was never used does not run low
    spent = (
        "charged_nusd = 40000000, balance_nusd = 60000000, day = '2026-11-01', day_charged_nusd = 40000000"
    )
    books.execute(f"UPDATE accounts SET {spent} WHERE id = '{poor.id}'")
    found, number = keys.low(bounds, 5)
    assert [(key.name, account.available_nusd) for key, account in found] == [("poor", 60_000_000)]
    assert number == 1
    assert keys.totals().day_nusd == 40_000_000
    books.execute(
        f"UPDATE accounts SET balance_nusd = 600000000, budget_day_nusd = 44000000 WHERE id = '{poor.id}'"
    )
    assert keys.low(bounds, 5)[1] == 1  # of its budget, more than nine tenths are used
    clock.now_s += 86_400
    assert keys.low(bounds, 5)[1] == 0
    assert keys.totals().day_nusd == 0
    books.execute(f"UPDATE accounts SET balance_nusd = 1 WHERE id = '{poor.id}'")
    assert keys.low(bounds, 5)[1] == 1
    keys.revoke(poor.id)
    assert keys.low(bounds, 5)[1] == 0


def test_doubled_headers_are_one_that_is_not_valid(keys: Waiting) -> None:
    text, _ = keys.create(NewKey("me"))
    one = (b"authorization", bearer(text))
    assert authorization_of([(b"host", b"x")]) is None
    assert keys.identify(authorization_of([one]), "paid").key
    with pytest.raises(InvalidKey):
        keys.identify(authorization_of([one, one]), "open")


def test_a_revocation_by_another_process_is_seen_within_a_second(
    keys: Waiting, clock: Clock, books: Books
) -> None:
    text, made = keys.create(NewKey("me"))
    assert keys.identify(bearer(text), "open").key == made
    books.ask(lambda other: Keys(other.keys, clock=clock, monotonic=clock).revoke(made.id))
    clock.now_s += 1.0
    with pytest.raises(InvalidKey):
        keys.identify(bearer(text), "open")


def test_our_own_revocation_is_seen_at_once(keys: Waiting) -> None:
    text, made = keys.create(NewKey("me"))
    assert keys.identify(bearer(text), "open").key
    keys.revoke(made.id)
    with pytest.raises(InvalidKey):
        keys.identify(bearer(text), "open")
    with pytest.raises(NotFound, match="was revoked"):
        keys.revoke(made.id)


def test_a_key_works_through_its_last_day(keys: Waiting, clock: Clock) -> None:
    text, made = keys.create(NewKey("me", last_day=date(2026, 11, 1)))
    assert made.expires_at == "2026-11-02T00:00:00.000Z"
    clock.now_s = NOON_S + 12 * 3600 - 1
    assert keys.identify(bearer(text), "open").key
    clock.now_s = NOON_S + 12 * 3600
    with pytest.raises(InvalidKey, match="expired"):
        keys.identify(bearer(text), "open")


def test_a_key_that_would_be_expired_is_not_made(keys: Waiting) -> None:
    with pytest.raises(ValueError, match="2026-10-31, is past"):
        keys.create(NewKey("me", credit_nusd=5, last_day=date(2026, 10, 31)))
    assert keys.search(KeyWish(), 1, 0)[1] == 0


def test_topups_are_booked_once_and_make_a_key_prepaid(keys: Waiting, clock: Clock, books: Books) -> None:
    text, made = keys.create(NewKey("me"))
    assert keys.topup(made.id, 5, source="shop", external_id="1") == (True, 5)
    assert keys.topup(made.id, 5, source="shop", external_id="1") == (False, 5)
    assert keys.topup(made.id, 5, source="bank", external_id="1") == (True, 10)
    clock.now_s += 1
    assert keys.identify(bearer(text), "open").require_credit
    assert books.differences() == []


@pytest.mark.parametrize("amount", [0, -1])
def test_a_topup_adds(keys: Waiting, amount: int) -> None:
    _, made = keys.create(NewKey("me"))
    with pytest.raises(ValueError, match="more than 0"):
        keys.topup(made.id, amount, source="shop", external_id="1")


def test_unknown_ids_are_named(keys: Waiting) -> None:
    with pytest.raises(NotFound, match="router keys list"):
        keys.topup("key_x", 1, source="shop", external_id="1")
    with pytest.raises(NotFound, match="router keys list"):
        keys.revoke("key_x")


@pytest.mark.parametrize(
    ("new", "why"),
    [
        (NewKey(" "), "name"),
        (NewKey("a\nb"), "name"),
        (NewKey("a" * 101), "name"),
        (NewKey("a", credit_nusd=-1), "credit"),
        (NewKey("a", budget_day_nusd=-1), "budget a day"),
        (NewKey("a", limits=Limits(rpm=0)), "rpm"),
    ],
)
def test_senseless_keys_are_refused_and_leave_nothing(keys: Waiting, new: NewKey, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        keys.create(new)
    assert keys.list() == []


def test_the_list_shows_each_key_with_its_account(keys: Waiting) -> None:
    _, first = keys.create(NewKey("first", credit_nusd=7, budget_month_nusd=3))
    _, second = keys.create(NewKey("second"))
    found = {key.id: account for key, account in keys.list()}
    assert set(found) == {first.id, second.id}
    assert found[first.id].balance_nusd == 7
    assert found[first.id].budget_month_nusd == 3
