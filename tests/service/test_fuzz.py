"""The fuzzers find nothing in a short while; `python -m tests.fuzz NAME --minutes 10` is a full run."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.__main__ import NAMES, change
from tests.fuzz.targets import SEEDS, TARGETS

HERE = Path(__file__).parents[2]
INPUTS = 2_000


def test_each_target_has_its_name_and_seeds() -> None:
    assert set(NAMES) == set(TARGETS) == set(SEEDS)


@pytest.mark.parametrize("name", NAMES)
def test_nothing_that_is_changed_by_chance_crashes(name: str) -> None:
    chance = random.Random(name)
    for _ in range(INPUTS):
        data = bytearray(chance.choice(SEEDS[name]))
        for _ in range(chance.randint(1, 8)):
            change(data, chance, SEEDS[name])
        TARGETS[name](bytes(data))


def test_a_crash_ends_the_command_with_1_and_the_input(tmp_path: Path) -> None:
    (tmp_path / "input").write_bytes(b'{"model":"auto","messages":[{"role":"user","content":"hi"}]}')
    command = [sys.executable, "-m", "tests.fuzz", "request", "--input", str(tmp_path / "input")]
    assert subprocess.run(command, cwd=HERE, check=False).returncode == 0
