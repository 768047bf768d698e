"""The catalog's walk-through, run as printed in one shell, keeps what its text promises."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.serving import bare_environment

DOCUMENT = Path(__file__).parents[2] / "docs" / "catalog-walkthrough.md"
PRINTED_PORTS = ("8402", "8501")
WATCHDOG_S = 120.0
SHELL = shutil.which("bash") or shutil.which("zsh")
Outputs = dict[str, str]

pytestmark = [
    pytest.mark.skipif(SHELL is None, reason="no bash and no zsh to run the document in"),
    pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed"),
]


def sections() -> dict[str, str]:
    """Return the commands of the document by the number of their section."""
    _, *found = re.split(r"^## (\d+)\. .*$", DOCUMENT.read_text(), flags=re.MULTILINE)
    blocks = re.compile(r"^```sh\n(.*?)^```", re.DOTALL | re.MULTILINE)
    texts = zip(found[::2], found[1::2], strict=True)
    return {number: "".join(blocks.findall(text)) for number, text in texts}


def free_ports() -> list[int]:
    """Return two free ports, none of which a model server is known by."""
    with socket.socket() as first, socket.socket() as second:
        for probe in (first, second):
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in (first, second)]


def run(script: str, folder: Path) -> str:
    """Run a script in an empty folder with nothing in its environment; whatever hangs is killed."""
    environ = bare_environment(folder)
    environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environ['PATH']}"
    empty = folder / "try"
    empty.mkdir()
    assert SHELL is not None
    with subprocess.Popen(
        [SHELL, "-c", script],
        cwd=empty,
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as shell:
        try:
            said, _ = shell.communicate(timeout=WATCHDOG_S)
        finally:
            with suppress(ProcessLookupError):  # nothing is left, as it should be
                os.killpg(shell.pid, signal.SIGKILL)
    return said


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> Outputs:
    """Run the whole document; return what each section printed."""
    script = "".join(f"echo; echo '=== {number}'\n{text}" for number, text in sections().items())
    for printed, free in zip(PRINTED_PORTS, free_ports(), strict=True):
        script = script.replace(printed, str(free))
    text = run(script, tmp_path_factory.mktemp("walk"))
    _, *found = re.split(r"^=== (\d+)$", text, flags=re.MULTILINE)
    return dict(zip(found[::2], found[1::2], strict=True))


def revision(text: str) -> str:
    """Return the last revision that `router catalog check` printed."""
    *_, last = re.finditer(r"revision ([0-9a-f]{12})", text)
    return last[1]


def served(text: str) -> Counter[tuple[str, str, str]]:
    """Return how often the load got (status, model, revision)."""
    lines = re.findall(r"^ +(\d+) (\d{3}) (\S+) ([0-9a-f]{12})$", text, re.MULTILINE)
    return Counter({(status, model, revision): int(count) for count, status, model, revision in lines})


def documents(text: str) -> list[dict[str, Any]]:
    """Return the JSON objects that were printed over several lines."""
    return [json.loads(found) for found in re.findall(r"^\{\n.*?^\}$", text, re.DOTALL | re.MULTILINE)]


def test_every_section_was_run_and_nothing_was_missing(said: Outputs) -> None:
    assert list(said) == [str(number) for number in range(1, 10)]
    faults = re.compile(r"Traceback|not found|Usage:|Error:|curl: \(")
    assert not faults.search("".join(said.values()))


def test_the_services_start_on_a_sound_catalog(said: Outputs) -> None:
    assert "2 models, 2 offers" in said["1"]
    assert said["1"].count('{"status":"ok"}') == 2


def test_simple_and_coding_requests_go_to_different_models_and_are_explained(said: Outputs) -> None:
    old = revision(said["1"])
    assert served(said["2"]) == {("200", "acme/quick", old): 40, ("200", "acme/deep", old): 20}
    assert "acme/quick at local  (cheapest_in_band, balanced)" in said["2"]
    assert re.search(r"^acme/deep +local +dearer ", said["2"], re.MULTILINE)
    assert len(re.findall(r" ok  auto -> acme/deep at local  coding ", said["2"])) == 2


def test_a_copy_with_another_price_warns_and_replays(said: Outputs) -> None:
    assert "quick.toml:15: offers[0].price.input: input moved from 0.1 to 2 USD" in said["3"]
    assert "reproduced 60 of 60 made by this catalog" in said["3"]
    rows = {line[0]: line[1:] for line in map(str.split, said["3"].splitlines()) if line}
    assert rows["coding"][:3] == ["20", "0", "0"]
    assert rows["simple"][:3] == ["40", "40", "0"]
    assert rows["total"][:3] == ["60", "40", "0"]
    before, after = (float(usd) for usd in rows["simple"][3:5])
    assert after == pytest.approx(10 * before)
    assert rows["simple"][6] == rows["simple"][7]
    assert "saved against acme/deep" in said["3"]


def test_a_half_written_edit_is_shown_with_its_line_and_changes_nothing(said: Outputs) -> None:
    old = revision(said["1"])
    (shown,) = documents(said["4"])
    (fault,) = shown["rejected"]["errors"]
    assert (fault["file"], fault["line"]) == ("models/acme/quick.toml", 17)
    assert shown["revision"] == old
    assert served(said["4"]) == {("200", "acme/quick", old): 5}


def test_the_edit_goes_live_under_load_and_no_request_fails(said: Outputs) -> None:
    old, new = revision(said["1"]), revision(said["3"])
    found = served(said["5"])
    assert found.total() == 140
    assert found.keys() == {("200", "acme/quick", old), ("200", "acme/deep", new)}
    (shown,) = documents(said["5"])
    assert (shown["revision"], shown["rejected"]) == (new, None)
    assert "moved from 0.1 to 2" in shown["warnings"][0]["message"]


def test_the_ledger_row_names_the_new_revision(said: Outputs) -> None:
    (row,) = documents(said["6"])
    assert (row["kind"], row["model"], row["catalog"]) == ("settle", "acme/deep", revision(said["3"]))
    assert row["amount_nusd"] == row["prompt_tokens"] * 1_000 + row["completion_tokens"] * 4_000
    assert "Every balance follows from the rows" in said["6"]


def test_measured_speeds_are_a_diff(said: Outputs) -> None:
    assert "--- a/models/acme/quick.toml" in said["7"]
    assert "-speed = { ttft_s = 0.1, tok_s = 60 }" in said["7"]
    assert re.search(r"^\+speed = \{ ttft_s = \S+, tok_s = \d+ \}$", said["7"], re.MULTILINE)


def test_a_drafted_model_waits_for_its_key(said: Outputs) -> None:
    assert "wrote models_catalog/models/openai/gpt-oss-20b.toml" in said["8"]
    assert "price = { input = 0.075, output = 0.30 }" in said["8"]
    assert "providers/groq.toml:3: key_env: GROQ_API_KEY is not set; 1 offer is off (warning)" in said["8"]
    assert "no usable offer: set GROQ_API_KEY" in said["8"]
