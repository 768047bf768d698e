"""The flight journal: what it says at every moment at which its process could die."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from router.ledger.journal import FIRST_BYTES, SLOT_BYTES, Journal, Tariff, delivered_in
from router.ledger.rows import Progress

TARIFF = Tariff(
    prompt_tokens=100,
    charge_base_pusd=100_000_000,
    charge_token_pusd=2_000_000,
    ppm=1_500_000,
    most_nusd=None,
    cost_base_pusd=100_000_000,
    cost_token_pusd=2_000_000,
)
SLOTS = FIRST_BYTES // SLOT_BYTES


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "one.flights"


@pytest.fixture
def journal(path: Path) -> Iterator[Journal]:
    opened = Journal(path)
    yield opened
    opened.close()


def begin(journal: Journal, hold: str, tokens: int = 1, tariff: Tariff = TARIFF) -> None:
    journal.begin(hold, "maker/model", "provider", tariff, tokens)


def test_a_flight_says_what_was_delivered_and_what_it_is_worth(path: Path, journal: Journal) -> None:
    flight = journal.begin("req_1.2", "máker/model", "provider", TARIFF, 1)
    assert delivered_in(path)["req_1.2"].completion_tokens == 1
    flight.delivered(50)
    assert delivered_in(path) == {
        "req_1.2": Progress("req_1.2", 100, 50, 300_000, 200_000, "máker/model", "provider")
    }
    assert path.stat().st_mode & 0o777 == 0o600


def test_the_charge_is_rounded_up_and_cut_to_what_was_agreed(path: Path, journal: Journal) -> None:
    begin(journal, "a", 1, Tariff(1, 1, 0, 1_000_000, None, 1_001, 0))
    begin(journal, "b", 1_000, Tariff(1, 1, 5_000, 1_000_000, 4_999, 0, 0))
    found = delivered_in(path)
    assert (found["a"].charge_nusd, found["a"].upstream_cost_nusd) == (1, 2)
    assert found["b"].charge_nusd == 4_999


def test_what_has_ended_or_delivered_nothing_is_not_told(path: Path, journal: Journal) -> None:
    begin(journal, "nothing", 0)
    begin(journal, "ended")
    begin(journal, "flies")
    journal.end("ended")
    journal.end("never began")
    assert delivered_in(path).keys() == {"flies"}


def test_slots_are_used_again_and_the_file_grows_when_all_are_taken(path: Path, journal: Journal) -> None:
    for number in range(3 * SLOTS):
        begin(journal, f"short {number}")
        journal.end(f"short {number}")
    assert path.stat().st_size == FIRST_BYTES
    for number in range(2 * SLOTS + 1):
        begin(journal, f"long {number}", number + 1)
    assert path.stat().st_size == 4 * FIRST_BYTES
    found = delivered_in(path)
    assert {p.completion_tokens for p in found.values()} == set(range(1, 2 * SLOTS + 2))


def test_a_bill_takes_the_place_of_an_estimate_and_no_moment_between_says_nothing(
    path: Path, journal: Journal
) -> None:
    begin(journal, "a", 50)
    before = path.read_bytes()
    begin(journal, "a", 60, Tariff.of_bill(7, 8, 9))
    after = path.read_bytes()
    assert delivered_in(path) == {"a": Progress("a", 7, 60, 8, 9, "maker/model", "provider")}
    # The new slot is whole before the old one is given up: between the two, both stand there.
    path.write_bytes(after[SLOT_BYTES : 2 * SLOT_BYTES] + before[:SLOT_BYTES])
    assert delivered_in(path)["a"].completion_tokens == 60


def test_a_slot_that_was_half_written_says_nothing(path: Path, journal: Journal) -> None:
    begin(journal, "before", 3)
    old = path.read_bytes()[:SLOT_BYTES]
    journal.end("before")
    begin(journal, "after", 5)
    new = path.read_bytes()[:SLOT_BYTES]
    free = bytes(8) + old[8:]
    for size in range(8, SLOT_BYTES):  # the mark of eight bytes is stored last, at once
        path.write_bytes(free[:8] + new[8:size] + free[size:])
        assert delivered_in(path) == {}
    path.write_bytes(new)
    assert delivered_in(path)["after"].completion_tokens == 5


def test_bytes_that_nobody_wrote_say_nothing(path: Path, journal: Journal) -> None:
    begin(journal, "a", 5)
    slot = path.read_bytes()[:SLOT_BYTES]
    used = 16 + 72 + len("a\0provider\0maker/model")
    for at in [*range(8), *range(16, used)]:
        path.write_bytes(slot[:at] + bytes([slot[at] ^ 0x40]) + slot[at + 1 :])
        assert delivered_in(path) == {}
    for odd in (b"", b"\xff" * 100, b"\xff" * 5_000, slot[:-1]):
        path.write_bytes(odd)
        assert delivered_in(path) == {}
    path.unlink()
    assert delivered_in(path) == {}


def test_a_flight_that_has_ended_writes_into_nobodys_slot(path: Path, journal: Journal) -> None:
    stale = journal.begin("stale", "m", "p", TARIFF, 1)
    journal.end("stale")
    begin(journal, "next", 2)
    stale.delivered(99)
    assert delivered_in(path)["next"].completion_tokens == 2


def test_a_name_that_is_too_long_is_cut_and_a_number_that_is_too_large_bounded(
    path: Path, journal: Journal
) -> None:
    journal.begin("a", "é" * 500, "p", Tariff(1, 2**70, -5, 1_000_000, None, 1, 1), 1)
    found = delivered_in(path)["a"]
    assert found.provider == "p"
    assert found.model.startswith("é" * 150)
    assert found.charge_nusd == -(-(2**64 - 1) // 1_000)


def test_the_flights_that_changed_are_told_until_somebody_knows_them(journal: Journal) -> None:
    flight = journal.begin("a", "m", "p", TARIFF, 1)
    begin(journal, "nothing yet", 0)
    (first,) = journal.changed()
    assert (first.request_id, first.completion_tokens) == ("a", 1)
    assert journal.changed() == [first]
    flight.delivered(2)
    journal.told([first])
    (second,) = journal.changed()
    assert second.completion_tokens == 2
    journal.told([second])
    assert journal.changed() == []
    begin(journal, "a", 2, Tariff.of_bill(1, 2, 3))
    assert [found.charge_nusd for found in journal.changed()] == [2]
    journal.end("a")
    journal.told([second])
    assert journal.changed() == []


@contextmanager
def no_file_above(size: int) -> Iterator[None]:
    """Refuse what would make any file of this process longer, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_where_the_disk_is_full_answers_fly_on_in_memory_until_it_has_room(
    path: Path, journal: Journal, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(SLOTS):
        begin(journal, f"noted {number}")
    with no_file_above(FIRST_BYTES):
        lost = journal.begin("lost", "m", "p", TARIFF, 1)
        lost.delivered(7)
        begin(journal, "lost too")
    assert len(delivered_in(path)) == SLOTS
    assert {found.request_id: found.completion_tokens for found in journal.changed()}["lost"] == 7
    journal.end("lost")
    begin(journal, "room again")
    assert "room again" in delivered_in(path)
    assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING"]
