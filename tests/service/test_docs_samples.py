"""Every sample of the README and of docs/ is run as printed, or is on a list here with the reason."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.installed import needs, node_folder
from tests.serving import WATCHDOG_S, Serving, bare_environment, serve

ROOT = Path(__file__).parents[2]
CHAIN = ROOT / "tests" / "chain"
PAGES = ["README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]
PRINTED_PORT = "8402"
PORT_OPTION = "router serve --port 0"

SHOWN = ("mermaid", "text")  # drawings and outputs; what walk-throughs promise is compared where they are run
WHOLE_PAGES = {
    "docs/catalog-walkthrough.md": "tests/service/test_docs_walkthrough.py",
    "docs/payments.md": "tests/chain/test_docs_payments.py",
}
SDKS = "tests/clients/test_docs_samples.py"
BACKUP = "tests/service/test_backup.py"
ELSEWHERE = {  # by the first line, up to a comment
    "pip install uv && uv run router serve": "tests/fresh/test_readme_commands.py",
    "from langchain_openai import ChatOpenAI": SDKS,
    "import litellm": SDKS,
    "from pydantic_ai import Agent": SDKS,
    'import { createOpenAICompatible } from "@ai-sdk/openai-compatible";': SDKS,
    "router init codex": "tests/clients/test_codex.py",
    "$ openclaw status --usage": "tests/clients/test_openclaw.py",
    "python -c 'import sqlite3, sys; sqlite3.connect(sys.argv[1]).backup(sqlite3.connect(sys.argv[2]))'"
    " .router/router.db backup.db": BACKUP,
    'pg_restore --no-owner --dbname="$ROUTER_DATABASE_URL" router.dump': BACKUP,
}
BY_HAND = "run by hand: the client is too large for a test (docs/clients.md)"
CANNOT = {
    "uv run .ci/check": "it is this very suite, and downloads; .ci/run runs what the lines run",
    "uv run pytest -m clients": "it is a suite itself, and installs packages of others",
    "cline auth -p openai-compatible -b http://127.0.0.1:8402/v1 -k unused -m auto": BY_HAND,
    "export OPENAI_BASE_URL=http://127.0.0.1:8402/v1 OPENAI_API_KEY=unused OPENAI_MODEL=auto": BY_HAND,
    "cp deploy/.env.example deploy/.env": "needs a container engine",
    "ROUTER_SHARED_URL=redis://:PASSWORD@10.0.0.5:6379/0 router serve": "the Redis of another machine; "
    "tests/service/test_shared.py has one of this machine",
}


@dataclass(frozen=True)
class Sample:
    """One fenced block of a page."""

    page: str
    language: str
    text: str

    @property
    def first(self) -> str:
        return re.split(r"\s{2,}#|\s+#\s", self.text.splitlines()[0])[0].strip()


def samples() -> list[Sample]:
    """Return the blocks that could be run: no drawings, no settings that others compare by name."""
    fence = re.compile(r"^```([^\n]*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
    found = [Sample(page, *pair) for page in PAGES for pair in fence.findall((ROOT / page).read_text())]
    named = [
        sample for sample in found if " " not in sample.language.strip()
    ]  # tests/unit/test_docs_clients.py
    return [sample for sample in named if sample.language not in SHOWN and sample.page not in WHOLE_PAGES]


def those(language: str, part: str) -> list[Sample]:
    """Return the samples of a language that hold a text; there is one at least."""
    found = [sample for sample in samples() if sample.language == language and part in sample.text]
    assert found, part
    return found


ASKS = those("sh", "/v1/chat/completions")
PYTHON = those("python", "from openai import OpenAI")
JAVASCRIPT = those("js", 'import OpenAI from "openai"')
SERVES = those("", "router serve\n") + those("", "router serve --")
SERVES = [sample for sample in SERVES if sample.first not in CANNOT.keys() | ELSEWHERE.keys()]
INIT = [sample for lang in ("", "sh") for sample in samples() if sample.language == lang]
INIT = [sample for sample in INIT if "router init openclaw" in sample.text]
LOOKS = those("", "router explain") + those("", "router doctor\n") + those("", "router catalog check   ")
JSON = those("json", "{")
TREES = those("", "models_catalog/\n")
RUN = [*ASKS, *PYTHON, *JAVASCRIPT, *SERVES, *INIT, *LOOKS, *JSON, *TREES]


def environment(folder: Path, **more: str) -> dict[str, str]:
    environ = bare_environment(folder, **more)
    environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environ['PATH']}"
    return environ


def run(command: list[str], folder: Path, stdin: str = "", **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=folder,
        env=environment(folder, **more),
        input=stdin,
        capture_output=True,
        text=True,
        timeout=WATCHDOG_S,
        check=False,
    )


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """Serve as the README's first command does, on a free port."""
    with serve(tmp_path_factory.mktemp("demo"), "--demo") as serving:
        serving.read_until("router.app: ready")
        serving.drain()
        yield serving


def here(sample: Sample, demo: Serving) -> str:
    assert PRINTED_PORT in sample.text
    return sample.text.replace(PRINTED_PORT, str(demo.port))


def name_of(sample: Sample) -> str:
    return f"{Path(sample.page).stem}-{sample.first[:24]}"


def test_every_sample_is_run_or_says_why_not() -> None:
    known = ELSEWHERE.keys() | CANNOT.keys() | {sample.first for sample in RUN}
    assert [(one.page, one.language, one.first) for one in samples() if one.first not in known] == []


def test_no_sample_is_listed_that_is_no_more() -> None:
    assert (ELSEWHERE.keys() | CANNOT.keys()) - {sample.first for sample in samples()} == set()
    assert all((ROOT / path).is_file() for path in [*WHOLE_PAGES.values(), *ELSEWHERE.values()])


@pytest.mark.parametrize("sample", ASKS, ids=name_of)
def test_a_curl_gets_its_answer(demo: Serving, sample: Sample, tmp_path: Path) -> None:
    done = run(["sh", "-euc", here(sample, demo).replace("curl ", "curl --fail --silent ")], tmp_path)
    assert done.returncode == 0, done.stderr
    assert '"finish_reason":"stop"' in done.stdout
    if "curl -i" in sample.text:  # the text below it says what the headers and the second command show
        for name in ("resolved-model", "category", "reason", "cost-usd"):
            assert f"\nx-llm-router-{name}: " in done.stdout
    if "router explain" in sample.text:
        assert "cheapest_in_band" in done.stdout.partition('"finish_reason"')[2]


@pytest.mark.parametrize("sample", PYTHON, ids=name_of)
def test_a_python_sample_runs(demo: Serving, sample: Sample, tmp_path: Path) -> None:
    done = run([sys.executable, "-W", "error", "-c", here(sample, demo)], tmp_path)
    assert done.returncode == 0, done.stderr
    if "cost:" in sample.text:
        assert re.search(r"\ncost: \d\S* USD\n$", done.stdout)


@pytest.mark.parametrize("sample", JAVASCRIPT, ids=name_of)
def test_a_javascript_sample_runs(demo: Serving, sample: Sample, tmp_path: Path) -> None:
    (tmp_path / "node_modules").symlink_to(needs(lambda: node_folder(CHAIN / "node")) / "node_modules")
    (tmp_path / "sample.mjs").write_text(here(sample, demo))
    done = run(["node", "sample.mjs"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert "built-in demo" in done.stdout
    assert "total_tokens" in done.stdout


@pytest.mark.parametrize("sample", SERVES, ids=name_of)
def test_a_service_starts_as_printed(sample: Sample, tmp_path: Path) -> None:
    text = re.sub(r"^pip install .*$", "", sample.text, flags=re.MULTILINE)  # what the tests run with
    script = re.sub(r"^(.*)router serve", rf"\1exec {PORT_OPTION}", text, flags=re.MULTILINE)
    script = re.sub(r"^([A-Z_]+=\S+) exec ", r"export \1; exec ", script, flags=re.MULTILINE)
    with Serving(["bash", "-euc", script], tmp_path, environment(tmp_path)) as serving:
        serving.read_until("router.app: ready")
        serving.terminate()
        assert serving.wait() == 0


@pytest.mark.parametrize("sample", INIT, ids=name_of)
def test_a_client_is_set_up_as_printed(demo: Serving, sample: Sample, tmp_path: Path) -> None:
    (tmp_path / "router.toml").write_text(f"port = {demo.port}\n")
    (line,) = [line for line in sample.text.splitlines() if "router init openclaw" in line]
    done = run(["sh", "-euc", line], tmp_path, stdin="y\n")
    assert done.returncode == 0, done.stderr
    assert f"127.0.0.1:{demo.port}" in (tmp_path / "home" / ".openclaw" / "openclaw.json").read_text()


@pytest.mark.parametrize("sample", LOOKS, ids=name_of)
def test_a_command_that_looks_finds_something(sample: Sample, tmp_path: Path) -> None:
    done = run(["sh", "-euc", sample.text], tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(done.stdout.splitlines()) > 5


@pytest.mark.parametrize("sample", JSON, ids=name_of)
def test_settings_are_json(sample: Sample) -> None:
    assert isinstance(json.loads(sample.text), dict)


@pytest.mark.parametrize("sample", TREES, ids=name_of)
def test_the_files_of_a_tree_are_there(sample: Sample) -> None:
    top, *files = [line.split()[0] for line in sample.text.splitlines()]
    assert files
    assert all((ROOT / top / file).is_file() for file in files)
