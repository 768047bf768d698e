"""`router suggest`: measured speeds as a diff that `patch` takes, old prices, and not a byte changed."""

from __future__ import annotations

import shutil
import subprocess
import tomllib
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from router.catalog.files import load_catalog
from router.catalog.snapshot import Snapshot
from router.catalog.speed_edit import unified_diff, with_speed
from router.cli import main
from router.routing.decide import Live, decide
from router.routing.medians import paces
from router.routing.recorded import Actual
from router.routing.recorder import Recorder
from router.telemetry.decisions import DecisionLog
from tests.unit.parts import need, sure

NOW = datetime.now(UTC)
HEAD = 'name = "One"\ncontext = 100_000\ninput = ["text"]\n'
OFFER = (
    '[[offers]]\nprovider = "acme"\nmodel = "{name}"  # its id there\nprice = {{ input = 1, output = 2 }}\n'
)
QUALITY = '[quality]\nsimple = 70\nsource = "a test"\nas_of = 2026-11-01\n'


def write(folder: Path, **models: str) -> Path:
    (folder / "providers").mkdir(parents=True)
    (folder / "models").mkdir()
    (folder / "providers" / "acme.toml").write_text('name = "Acme"\nbase_url = "https://acme.invalid/v1"\n')
    for name, text in models.items():
        (folder / "models" / f"{name}.toml").write_bytes(text.encode())
    return folder


def stream(name: str = "one", first_s: float = 0.5, tok_s: float = 50.0, tokens: int = 100) -> Actual:
    return Actual(
        outcome="ok",
        seconds=first_s + tokens / tok_s,
        model=name,
        provider="acme",
        upstream_model=name,
        attempts=1,
        stream=True,
        prompt_tokens=100,
        completion_tokens=tokens,
        first_s=first_s,
    )


def log(data: Path, folder: Path, answers: list[Actual], at: datetime = NOW) -> None:
    snapshot: Snapshot = load_catalog(folder, environ={}, today=NOW.date())
    written = DecisionLog(data / "decisions", delayed=False)
    recorder = Recorder(written)
    decision = decide(need(at=at), sure(), snapshot, Live(), snapshot.policy)
    for number, answer in enumerate(answers):
        recorder.note(decision, snapshot, Live(), answer, request_id=f"req_{number}", stripped=False)
    written.close()


def suggested(folder: Path, data: Path, *options: str) -> str:
    arguments = ["suggest", "--catalog", str(folder), "--data", str(data), *options]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    return result.stdout_bytes.decode()


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def patched(folder: Path, diff: str) -> dict[str, bytes]:
    """Apply a diff to a copy with the real `patch`."""
    copy = folder.parent / "patched"
    shutil.copytree(folder, copy)
    command = ["patch", "-p1", "--no-backup-if-mismatch", "--binary", "-d", str(copy)]
    ran = subprocess.run(command, input=diff.encode(), capture_output=True, check=False)
    assert ran.returncode == 0, ran.stdout
    return {path.name: path.read_bytes() for path in copy.rglob("*.toml")}


needs_patch = pytest.mark.skipif(shutil.which("patch") is None, reason="patch is not installed")


@needs_patch
def test_a_measured_speed_is_a_diff_that_patch_takes_and_comments_stay(tmp_path: Path) -> None:
    speed = "speed = { ttft_s = 2.0, tok_s = 20 }  # somebody's benchmark\n"
    one = f"# on top\n{HEAD}{QUALITY}{OFFER.format(name='one')}{speed}# at the end\n"
    two = f"{HEAD}{OFFER.format(name='two')}price_as_of = {NOW.date()}\n"
    folder = write(tmp_path / "catalog", one=one, two=two)
    log(tmp_path / "data", folder, [stream(), stream("two", 0.25, 300.0)] * 30)
    before = contents(folder)
    diff = suggested(folder, tmp_path / "data")
    assert contents(folder) == before
    after = patched(folder, diff)
    assert after["one.toml"].decode() == one.replace("ttft_s = 2.0, tok_s = 20", "ttft_s = 0.50, tok_s = 50")
    price = "price = { input = 1, output = 2 }\n"
    assert after["two.toml"].decode() == two.replace(
        price, f"{price}speed = {{ ttft_s = 0.25, tok_s = 300 }}\n"
    )
    assert "0.50 s to the first token in the median of 30 streams, the prior is 2" in diff


@needs_patch
def test_a_file_with_windows_lines_and_no_last_line_end_is_patched_too(tmp_path: Path) -> None:
    text = f"{HEAD}{QUALITY}{OFFER.format(name='one')}".replace("\n", "\r\n").removesuffix("\r\n")
    folder = write(tmp_path / "catalog", one=text)
    log(tmp_path / "data", folder, [stream(tok_s=61.0)] * 30)  # as the prior is
    after = patched(folder, suggested(folder, tmp_path / "data"))
    assert tomllib.loads(after["one.toml"].decode())["offers"][0]["speed"] == {"ttft_s": 0.5}


def test_few_samples_or_a_near_prior_propose_nothing(tmp_path: Path) -> None:
    near = f"{HEAD}{QUALITY}{OFFER.format(name='one')}speed = {{ ttft_s = 0.45, tok_s = 55 }}\n"
    few = f"{HEAD}{OFFER.format(name='two')}"
    folder = write(tmp_path / "catalog", one=near, two=few)
    log(tmp_path / "data", folder, [stream()] * 40 + [stream("two")] * 29)
    assert "---" not in suggested(folder, tmp_path / "data")


def test_only_the_last_days_count(tmp_path: Path) -> None:
    folder = write(tmp_path / "catalog", one=f"{HEAD}{QUALITY}{OFFER.format(name='one')}")
    log(tmp_path / "data", folder, [stream()] * 30, at=NOW - timedelta(days=5))
    assert "+speed" in suggested(folder, tmp_path / "data")
    assert "+speed" not in suggested(folder, tmp_path / "data", "--days", "3")


def test_old_prices_are_listed_with_file_and_line(tmp_path: Path) -> None:
    old, young = NOW.date() - timedelta(days=91), NOW.date() - timedelta(days=90)
    first, second = (OFFER.format(name=name) for name in ("one", "two"))
    one = f"{HEAD}{first}price_as_of = {old}\n{second}price_as_of = {young}\n"
    folder = write(tmp_path / "catalog", one=one)
    said = suggested(folder, tmp_path / "none")
    assert "# models/one.toml:8: the price of acme is 91 days old; check it at the provider" in said
    assert "no decisions are logged" in said
    assert said.count("days old") == 1


def test_answers_that_say_little_about_an_offer_are_left_out() -> None:
    others = [
        structs.replace(stream(), stream=False),
        structs.replace(stream(), outcome="upstream_error"),
        structs.replace(stream(), attempts=2),
    ]
    assert paces(others * 40) == {}
    short = paces([stream(tokens=31)] * 40)["acme", "one"]
    assert (short.ttft_s, short.tok_s) == (0.5, None)


@pytest.mark.parametrize(
    "speed",
    [
        "",
        "speed = { ttft_s = 1.5, tok_s = 60 }\n",
        "speed = {tok_s=60}  # of { a } page\n",
        "speed = { }\n",
        "speed.ttft_s = 1_0.5 # dotted\n",
        "limits = { rpm = 6 }\n[offers.speed]\ntok_s = 60\n",
        '[offers.speed] # "tok_s = 3"\nttft_s = 1e0\n',
    ],
)
def test_every_way_to_write_a_speed_is_edited_and_nothing_else(speed: str) -> None:
    offer = OFFER.format(name="one")
    text = f"{HEAD}# tok_s = 1\n{offer}{speed}{OFFER.format(name='two')}speed = {{ tok_s = 7 }}\n"
    edited = with_speed(text, 0, {"ttft_s": "0.50", "tok_s": "80"})
    assert edited is not None
    first, second = tomllib.loads(edited)["offers"]
    assert first["speed"] == {"ttft_s": 0.5, "tok_s": 80}
    assert second["speed"] == {"tok_s": 7}
    assert edited.count("#") == text.count("#")


def test_offers_on_one_line_are_left_to_the_operator() -> None:
    first = '{ provider = "a", price = { input = 1, output = 2 } }'
    text = f"{HEAD}offers = [{first}, {{ speed = {{ tok_s = 1 }} }}]\n"
    assert with_speed(text, 0, {"tok_s": "5"}) is None


lines = st.lists(st.sampled_from(["a", "b", "", "- c", "+ d", "x\r"]), max_size=12)


@needs_patch
@given(lines, lines, st.booleans())
def test_a_diff_applies_whatever_the_lines_are(
    tmp_path_factory: pytest.TempPathFactory, old: list[str], new: list[str], ended: bool
) -> None:
    before, after = ("\n".join(part) + ("\n" if ended else "!") for part in (old, new))
    folder = tmp_path_factory.mktemp("diff") / "catalog"
    folder.mkdir()
    (folder / "f.toml").write_bytes(before.encode())
    diff = unified_diff("f.toml", before, after)
    assert (patched(folder, diff)["f.toml"].decode() == after) if diff else before == after
