"""What keeps a catalog from being read, and warnings that need more than one look at it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from router.catalog.files import check_catalog
from router.catalog.snapshot import Fault, Snapshot
from router.catalog.texts import MAX_FILE_BYTES
from tests.unit.test_catalog_files import HEAD, KEYS, OFFER, RATED, TODAY, catalog, faults, load, warnings

MODEL = "models/moonshotai/kimi.toml"
DEAR = OFFER.replace("0.80", "800")


def check(directory: Path, running: Snapshot | None = None) -> tuple[Snapshot, list[str]]:
    snapshot, found, warned = check_catalog(directory, environ=KEYS, today=TODAY, running=running)
    assert found == []
    assert snapshot is not None
    assert snapshot.warnings == tuple(warned)
    return snapshot, [str(warning) for warning in warned]


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        (f"name = 'x'\nmarkup = {'1' * 5_000}\n", 2, "a number here is too long to be read"),
        ("markup = 1.0\ntime = 1e99999999999999999999\n", 2, "a number here is too long to be read"),
        (f"mode = {'[' * 5_000}\n", 1, "nested too deeply to be read"),
        ("mode = 2026-13-45\n", 1, "not TOML: "),
    ],
)
def test_a_text_that_no_parser_takes_is_a_fault(tmp_path: Path, text: str, line: int, said: str) -> None:
    (only,) = faults(catalog(tmp_path, policy=text))
    assert only.startswith(f"policy.toml:{line}: {said}")


def test_deep_nesting_that_parses_is_a_fault_at_its_field(tmp_path: Path) -> None:
    (only,) = faults(catalog(tmp_path, policy=f"mode = {'[' * 150}{']' * 150}\n"))
    assert only.startswith("policy.toml:1: mode: ")


@pytest.mark.parametrize("part", ["head", "tail"])
def test_every_piece_of_a_file_is_a_catalog_or_a_fault(tmp_path: Path, part: str) -> None:
    rules = 'when = [{ utc = "01:00-04:00", days = "mon-fri", multiply = 2 }]\nspeed = { tok_s = 80 }\n'
    text = HEAD + RATED + OFFER + rules
    sound = 0
    for cut in range(len(text)):
        catalog(tmp_path, text[:cut] if part == "head" else text[cut:])
        snapshot, found, _ = check_catalog(tmp_path, environ=KEYS, today=TODAY)
        assert (snapshot is None) == bool(found)
        sound += snapshot is not None
    assert sound < len(text) // 10


def test_a_link_to_nothing_is_a_fault(tmp_path: Path) -> None:
    (catalog(tmp_path) / "models/moonshotai/gone.toml").symlink_to(tmp_path / "nowhere.toml")
    assert faults(tmp_path) == ["models/moonshotai/gone.toml:1: cannot be read: No such file or directory"]


def test_a_pipe_is_a_fault_and_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(catalog(tmp_path) / "models/moonshotai/pipe.toml")
    assert faults(tmp_path) == ["models/moonshotai/pipe.toml:1: cannot be read: it is not a file"]


def test_a_huge_file_is_a_fault(tmp_path: Path) -> None:
    with (catalog(tmp_path) / "policy.toml").open("wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)
    (only,) = faults(tmp_path)
    assert only.startswith("policy.toml:1: cannot be read: it has 1,048,577 bytes, at most 1,048,576")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may list every folder")
def test_a_folder_that_cannot_be_listed_is_a_fault(tmp_path: Path) -> None:
    folder = catalog(tmp_path) / "models/moonshotai"
    folder.chmod(0)
    try:
        found = faults(tmp_path)
    finally:
        folder.chmod(0o755)
    assert found == ["models/moonshotai:1: this folder cannot be read: Permission denied"]


def test_the_schemas_for_editors_are_no_part_of_the_catalog(tmp_path: Path) -> None:
    before = load(catalog(tmp_path))
    (tmp_path / "schema").mkdir()
    (tmp_path / "schema/model.json").write_text("{}")
    after, warned = check(tmp_path)
    assert (after.revision, after.files, warned) == (before.revision, before.files, [])
    (tmp_path / "schema/model.toml").write_text("")
    assert faults(tmp_path) == [
        "schema/model.toml:1: nothing reads this file (known: models, policy.toml, providers)"
    ]


def test_a_loop_of_aliases_is_shown_whole(tmp_path: Path) -> None:
    found = faults(catalog(tmp_path, policy='[aliases]\na = "b"\nb = "c"\nc = "a"\nd = "a"\n'))
    assert found == [
        "policy.toml:2: aliases.a: goes round in a loop: a -> b -> c -> a",
        "policy.toml:3: aliases.b: goes round in a loop: b -> c -> a -> b",
        "policy.toml:4: aliases.c: goes round in a loop: c -> a -> b -> c",
        "policy.toml:5: aliases.d: goes round in a loop: d -> a -> b -> c -> a",
    ]


@pytest.mark.parametrize("offer", [OFFER + "enabled = false\n", "retires"])
def test_a_category_that_only_an_offer_serves_which_is_off_is_a_warning(tmp_path: Path, offer: str) -> None:
    head = HEAD + "retires = 2026-11-01\n" if offer == "retires" else HEAD
    warned = warnings(catalog(tmp_path, head + RATED + (OFFER if offer == "retires" else offer)))
    assert "policy.toml:1: bands.coding: no model with an offer has a quality for coding" in "\n".join(warned)


def test_a_price_of_a_later_day_is_a_warning(tmp_path: Path) -> None:
    (only,) = warnings(catalog(tmp_path, HEAD + RATED + OFFER + "price_as_of = 2027-11-22\n"))
    assert only == f"{MODEL}:14: offers[0].price_as_of: 2027-11-22 is 365 days ahead; mistyped?"


def test_a_model_that_retires_tomorrow_says_so(tmp_path: Path) -> None:
    (only,) = warnings(catalog(tmp_path, HEAD + "retires = 2026-11-23\n" + RATED + OFFER))
    assert only == f"{MODEL}:4: retires: retires tomorrow; its offers go off on 2026-11-23"


@pytest.mark.parametrize(
    ("price", "moved"),
    [
        ("input = 4.00, output = 17.0", []),
        ("input = 4.01, output = 3.40", ["input moved from 0.8 to 4.01"]),
        ("input = 0.16, output = 0.68", []),
        ("input = 0.80, output = 0.67", ["output moved from 3.4 to 0.67"]),
        ("input = 0.0000008, output = 0.0000034", None),
        (
            "input = 0.000001, output = 0.000003",
            ["input moved from 0.8 to 0.000001", "output moved from 3.4"],
        ),
    ],
)
def test_more_than_fivefold_is_a_move(tmp_path: Path, price: str, moved: list[str] | None) -> None:
    running = load(catalog(tmp_path))
    offer = OFFER.replace("input = 0.80, output = 3.40", price)
    catalog(tmp_path, HEAD + RATED + offer)
    if moved is None:  # per token in place of per million: finer than a pico-dollar
        assert "at most 6 digits" in faults(tmp_path)[0]
        return
    _, warned = check(tmp_path, running)
    assert len(warned) == len(moved)
    assert all(text in warning for text, warning in zip(moved, warned, strict=True))


def test_a_moved_price_stays_a_warning_until_the_next_edit(tmp_path: Path) -> None:
    first = load(catalog(tmp_path))
    second, warned = check(catalog(tmp_path, HEAD + RATED + DEAR), first)
    assert [warning.partition("; ")[0] for warning in warned] == [
        f"{MODEL}:13: offers[0].price.input: input moved from 0.8 to 800 USD per million tokens"
    ]
    again, still = check(tmp_path, second)
    assert still == warned
    assert again == second
    _, after = check(catalog(tmp_path, policy='mode = "cost"\n', model=HEAD + RATED + DEAR), again)
    assert after == []


def test_a_warning_knows_its_file_line_field_and_message(tmp_path: Path) -> None:
    model = HEAD + "max_output = 262_144\n" + RATED + OFFER
    snapshot, _ = check(catalog(tmp_path, model))
    said = "max_output equals the context, which leaves no token for a prompt; usually a placeholder"
    assert snapshot.warnings == (Fault(MODEL, 4, "max_output", said),)
