"""`router replay` and `router logs` as an operator types them."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click import BadParameter
from click.testing import CliRunner, Result

from router.catalog.files import load_catalog, read_providers
from router.catalog.snapshot import MODES, Snapshot
from router.cli import main
from router.cli.replay import since_moment
from router.routing.decide import Categorised, Live, decide
from router.routing.need import Need
from router.routing.recorded import Actual
from router.routing.recorder import Recorder
from router.telemetry.decisions import DecisionLog, decision_files
from tests.router import Offered, write_catalog
from tests.unit.parts import asked, need, sure

SHIPPED = Path(__file__).parents[2] / "models_catalog"
NOW = datetime.now(UTC)


def loaded(folder: Path) -> Snapshot:
    """Load a catalog with half of the keys set."""
    names = sorted(p.key_env for p in read_providers(folder).values() if p.key_env is not None)
    return load_catalog(folder, environ=dict.fromkeys(names[::2], "x"), today=NOW.date())


def logged(data: Path, snapshot: Snapshot, requests: list[tuple[Need, Categorised]], **actual: Any) -> None:
    """Decide requests and log them as served by the offer that was chosen."""
    log = DecisionLog(data / "decisions", delayed=False)
    recorder = Recorder(log, full_a_second=10**9)
    for number, (wanted, categorised) in enumerate(requests):
        decision = decide(wanted, categorised, snapshot, Live(), snapshot.policy)
        chosen = decision.chosen
        usual: dict[str, Any] = {
            "outcome": "ok" if chosen else "nothing_fits",
            "seconds": 1.5,
            "prompt_tokens": 1_000 if chosen else None,
            "completion_tokens": 100 if chosen else None,
            "upstream_nusd": 1_200_000 if chosen else 0,
            "charged_nusd": 1_200_000 if chosen else 0,
            "attempts": 1 if chosen else 0,
        }
        if chosen is not None:
            offer = chosen.offer
            usual |= {
                "model": offer.model,
                "provider": offer.provider,
                "upstream_model": offer.upstream_model,
            }
        happened = Actual(**{**usual, **actual})
        recorder.note(decision, snapshot, Live(), happened, request_id=f"req_{number}", stripped=False)
    log.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    models = [Offered("m/cheap"), Offered("m/dear", price=(3, 6))]
    return write_catalog(tmp_path / "catalog", {"scripted": "http://scripted.invalid/v1"}, models)


@pytest.fixture
def data(tmp_path: Path, folder: Path) -> Path:
    logged(tmp_path / "data", loaded(folder), [(need(at=NOW), sure())] * 3)
    return tmp_path / "data"


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def replayed(*arguments: str | Path) -> dict[str, Any]:
    result = run("replay", "--json", *arguments)
    assert result.exit_code == 0, result.output
    said: dict[str, Any] = json.loads(result.stdout)
    return said


def edit(folder: Path, file: str, old: str, new: str) -> None:
    text = (folder / file).read_text()
    assert old in text
    (folder / file).write_text(text.replace(old, new))


def test_the_shipped_catalog_reproduces_hundreds_of_decisions(tmp_path: Path) -> None:
    snapshot, chance = loaded(SHIPPED), random.Random(1)
    ids = list(snapshot.models)
    requests = []
    for _ in range(600):
        share = chance.random()
        named = chance.choice(ids) if chance.random() < 0.2 else None
        wanted = need(
            chance.choice(MODES),
            asked=asked(named=named, fallbacks=tuple(chance.sample(ids, chance.randrange(3)))),
            prompt_tokens=int(10 ** chance.uniform(0, 6)),
            output_tokens=chance.choice([None, 50, 9_000]),
            images=chance.choice([0, 0, 0, 1]),
            tools=chance.random() < 0.3,
            json_mode=chance.random() < 0.2,
            reasoning=chance.random() < 0.2,
            max_cost_nusd=chance.choice([None, None, 10**8]),
            at=NOW - timedelta(seconds=chance.randrange(6 * 86_400)),
        )
        rest = (1 - share) / 2
        found = Categorised("coding", {"simple": rest, "coding": share, "reasoning": rest}, share)
        requests.append((wanted, Categorised() if named else found))
    logged(tmp_path, snapshot, requests)
    said = replayed("--catalog", SHIPPED, "--data", tmp_path)
    assert said["same_catalog"] == {"requests": 600, "reproduced": 600, "differences": []}
    assert said["total"]["moved"] == 0
    assert said["total"]["cost_usd"]["before"] == pytest.approx(said["total"]["compared"] * 0.0012)


def test_the_catalog_that_decided_reproduces_every_decision(folder: Path, data: Path) -> None:
    result = run("replay", "--catalog", folder, "--data", data)
    assert result.exit_code == 0
    assert "reproduced 3 of 3" in result.stdout


def test_a_log_that_says_something_else_is_a_failure(folder: Path, data: Path) -> None:
    (path,) = decision_files(data / "decisions")
    path.write_bytes(path.read_bytes().replace(b'"expected_seconds":', b'"expected_seconds":1', 1))
    result = run("replay", "--catalog", folder, "--data", data)
    assert result.exit_code == 1
    assert "reproduced 2 of 3" in result.stdout
    assert "req_0: chosen was m/cheap at scripted" in result.stdout


def test_an_edited_price_shows_who_moves_and_what_it_costs(folder: Path, data: Path) -> None:
    edit(folder, "models/m/cheap.toml", "input = 1.0", "input = 10")
    said = replayed("--catalog", folder, "--data", data)
    assert said["total"] == {
        "requests": 3,
        "moved": 3,
        "unroutable": 0,
        "compared": 3,
        "cost_usd": {"before": 0.0036, "after": 0.0108},
        "expected_seconds": {"before": pytest.approx(5.67, abs=1), "after": pytest.approx(5.67, abs=1)},
    }
    assert said["categories"].keys() == {"simple"}
    assert said["moves"][0]["from"] == "m/cheap at scripted"
    assert said["moves"][0]["to"] == "m/dear at scripted"
    assert said["moves"][0]["cost_usd"] == {"before": 0.0012, "after": 0.0036}
    text = run("replay", "--catalog", folder, "--data", data).stdout
    assert re.search(r"simple +3 +3 +0 +0.0036 +0.0108 +\+200.0%", text)
    assert "m/dear at scripted" in text


def test_requests_that_nobody_would_serve_are_shown_with_the_reason(folder: Path, data: Path) -> None:
    for name in ("cheap", "dear"):
        edit(folder, f"models/m/{name}.toml", "context = 100000", "context = 900\nmax_output = 100")
        edit(folder, f"models/m/{name}.toml", "max_output = 8000\n", "")
    said = replayed("--catalog", folder, "--data", data)
    assert said["unroutable"]["requests"] == 3
    assert said["unroutable"]["first"][0]["from"] == "m/cheap at scripted"
    assert "tokens of context" in said["unroutable"]["first"][0]["reason"]
    assert "nobody for req_0" in run("replay", "--catalog", folder, "--data", data).stdout


def test_savings_against_the_baseline_come_with_their_formula(tmp_path: Path, folder: Path) -> None:
    (folder / "policy.toml").write_text('baseline = "m/dear"\n')
    logged(tmp_path / "data", loaded(folder), [(need(at=NOW), sure())])
    said = replayed("--catalog", folder, "--data", tmp_path / "data")["savings"]
    assert (said["baseline"], said["before_usd"], said["after_usd"]) == ("m/dear", 0.0024, 0.0024)
    text = run("replay", "--catalog", folder, "--data", tmp_path / "data").stdout
    assert "saved against m/dear" in text
    assert "cached x cache_read" in text


def test_another_mode_decides_all_of_them(folder: Path, data: Path) -> None:
    said = replayed("--catalog", folder, "--data", data, "--mode", "nitro")
    assert (said["mode"], said["same_catalog"]["requests"], said["requests"]) == ("nitro", 0, 3)


def test_only_the_asked_period_counts(tmp_path: Path, folder: Path) -> None:
    moments = [NOW - timedelta(hours=hours) for hours in (1, 30, 24 * 10)]
    logged(tmp_path / "data", loaded(folder), [(need(at=at), sure()) for at in moments])
    counts = {
        since: replayed("--catalog", folder, "--data", tmp_path / "data", "--since", since)["requests"]
        for since in ("2h", "7d", "30d")
    }
    assert counts == {"2h": 1, "7d": 2, "30d": 3}


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("30m", datetime(2026, 11, 22, 11, 30, tzinfo=UTC)),
        ("12h", datetime(2026, 11, 22, tzinfo=UTC)),
        ("7d", datetime(2026, 11, 15, 12, tzinfo=UTC)),
        ("2026-11-15", datetime(2026, 11, 15, tzinfo=UTC)),
        ("2026-11-15T10:00+02:00", datetime(2026, 11, 15, 8, tzinfo=UTC)),
    ],
)
def test_a_period_is_a_length_or_a_date(text: str, moment: datetime) -> None:
    assert since_moment(text, datetime(2026, 11, 22, 12, tzinfo=UTC)) == moment


def test_an_unknown_period_names_the_known_ones() -> None:
    with pytest.raises(BadParameter, match="30m, 12h, 7d and 2026-11-15"):
        since_moment("last week", NOW)


@pytest.mark.parametrize("text", ["2026-11-22T12:01", "2027-01-01"])
def test_a_period_that_lies_ahead_says_what_time_it_is(text: str) -> None:
    with pytest.raises(BadParameter, match=f"{text} lies ahead: it is 2026-11-22 12:00 UTC"):
        since_moment(text, datetime(2026, 11, 22, 12, tzinfo=UTC))


def test_no_log_yet_says_where_it_would_be(folder: Path, tmp_path: Path) -> None:
    for command in (("replay", "--catalog", folder), ("logs",)):
        result = run(*command, "--data", tmp_path / "none")
        assert result.exit_code == 1
        assert f"{tmp_path / 'none' / 'decisions'}: `router serve` writes them" in result.stderr


def test_nothing_in_the_period_says_when_the_log_was_last_written(folder: Path, data: Path) -> None:
    (path,) = decision_files(data / "decisions")
    old_s = datetime(2026, 10, 1, 12, tzinfo=UTC).timestamp()
    os.utime(path, (old_s, old_s))
    result = run("replay", "--catalog", folder, "--data", data)
    assert result.exit_code == 1
    assert "last written 2026-10-01 12:00 UTC" in result.stderr
    assert "--since 30d" in result.stderr


def test_a_faulty_catalog_is_shown_with_file_and_line(folder: Path, data: Path) -> None:
    edit(folder, "models/m/cheap.toml", "context", "contxt")
    result = run("replay", "--catalog", folder, "--data", data)
    assert result.exit_code == 1
    assert f"{folder}/models/m/cheap.toml:2: contxt" in result.stderr


def test_lines_that_cannot_be_read_are_counted(folder: Path, data: Path) -> None:
    (path,) = decision_files(data / "decisions")
    path.write_bytes(path.read_bytes() + b'{"request_id":"req_9","ca')
    said = replayed("--catalog", folder, "--data", data)
    assert (said["requests"], said["skipped_lines"]) == (3, 1)
    command = ("replay", "--catalog", folder, "--data", data)
    assert "1 line could not be read and was left out" in run(*command).stdout
    path.write_bytes(path.read_bytes() + b'\n{"request_id":"req_9"}\n')
    assert "2 lines could not be read and were left out" in run(*command).stdout


def test_a_log_moved_to_another_machine_needs_only_its_folder(
    folder: Path, data: Path, tmp_path: Path
) -> None:
    shutil.copytree(data / "decisions", tmp_path / "elsewhere" / "decisions")
    said = replayed("--catalog", folder, "--data", tmp_path / "elsewhere")
    assert said["same_catalog"]["reproduced"] == 3


def test_logs_show_the_last_requests_in_words(folder: Path, data: Path) -> None:
    lines = run("logs", "--data", data, "-n", "2").stdout.splitlines()
    assert [line.rpartition(" ")[2] for line in lines] == ["req_1", "req_2"]
    expected = "ok  auto -> m/cheap at scripted  simple  1,000+100 tokens  0.0012 USD  1.50 s"
    assert expected in lines[0]


def test_logs_say_that_nobody_served(folder: Path, tmp_path: Path) -> None:
    logged(tmp_path / "d", loaded(folder), [(need(at=NOW, prompt_tokens=10**6), sure())])
    assert "nothing_fits  auto -> nobody" in run("logs", "--data", tmp_path / "d").stdout


def test_logs_as_json_are_the_lines_themselves(data: Path) -> None:
    lines = run("logs", "--data", data, "--json").stdout.splitlines()
    assert [json.loads(line)["request_id"] for line in lines] == ["req_0", "req_1", "req_2"]
    assert json.loads(lines[0])["chosen"]["model"] == "m/cheap"


def test_following_shows_each_request_as_it_ends(folder: Path, data: Path) -> None:
    command = [sys.executable, "-m", "router", "logs", "-f", "-n", "1", "--data", str(data)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as following:
        assert following.stdout is not None
        assert following.stdout.readline().rstrip().endswith("req_2")
        logged(data, loaded(folder), [(need(at=NOW), sure("coding"))])
        line = following.stdout.readline()
        following.send_signal(signal.SIGINT)
        assert following.wait(10) == 0
    assert "coding" in line
    assert line.rstrip().endswith("req_0")


def test_what_a_request_saved_is_in_its_line(folder: Path, tmp_path: Path) -> None:
    (folder / "policy.toml").write_text('baseline = "m/dear"\n')
    logged(tmp_path / "d", loaded(folder), [(need(at=NOW), sure())])
    assert "0.0012 USD  saved 0.0024  1.50 s" in run("logs", "--data", tmp_path / "d").stdout


def test_requests_of_two_processes_come_in_the_order_of_their_ends(folder: Path, tmp_path: Path) -> None:
    snapshot = loaded(folder)
    logged(tmp_path, snapshot, [(need(at=NOW - timedelta(minutes=m)), sure()) for m in (9, 5)])
    logged(tmp_path, snapshot, [(need(at=NOW - timedelta(minutes=m)), sure()) for m in (7, 3)])
    lines = run("logs", "--data", tmp_path, "-n", "3").stdout.splitlines()
    moments = [line[:19] for line in lines]
    assert moments == [f"{NOW - timedelta(minutes=m):%Y-%m-%d %H:%M:%S}" for m in (7, 5, 3)]
