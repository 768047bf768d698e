"""How the running catalog follows the world: edits, days, and nothing that stops the event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest

from router.running import RunningCatalog, Sources
from router.telemetry.log import LineFormatter
from tests.router import Offered, write_catalog

LIVE_S = 5.0
POLL_S = 0.01
TODAY = date(2026, 11, 22)
NOW = datetime(2026, 11, 22, 14, tzinfo=UTC)


def catalog(folder: Path, *models: Offered) -> Path:
    return write_catalog(folder, {"scripted": "http://127.0.0.1:9/v1"}, list(models))


def running(folder: Path, today: Callable[[], date] = lambda: TODAY) -> RunningCatalog:
    return RunningCatalog(Sources(folder, {}, today), {}, lambda: NOW)


async def watched(subject: RunningCatalog, steps: Coroutine[Any, Any, None]) -> None:
    watch = asyncio.create_task(subject.watch())
    try:
        async with asyncio.timeout(30):
            await steps
    finally:
        watch.cancel()
        await asyncio.gather(watch, return_exceptions=True)


async def until(look: Callable[[], bool]) -> None:
    for _ in range(round(LIVE_S / POLL_S)):
        if look():
            return
        await asyncio.sleep(POLL_S)
    raise AssertionError(f"not within {LIVE_S} s")


def test_a_model_retires_at_midnight(tmp_path: Path) -> None:
    day = [TODAY]
    model = Offered("test/a")
    folder = catalog(tmp_path, model)
    file = folder / "models/test/a.toml"
    file.write_text(file.read_text().replace("[quality]", "retires = 2026-11-23\n[quality]"))
    subject = running(folder, lambda: day[0])

    def offer() -> str | None:
        return subject.current.models["test/a"].offers[0].unusable

    async def steps() -> None:
        assert offer() is None
        assert [w.message for w in subject.current.warnings] == [
            "retires tomorrow; its offers go off on 2026-11-23"
        ]
        day[0] = date(2026, 11, 23)
        await until(lambda: offer() == "retired on 2026-11-23")

    revision = subject.current.revision
    asyncio.run(watched(subject, steps()))
    assert (subject.current.revision, subject.applied_at, subject.rejected) == (revision, NOW, None)


def test_a_file_that_never_stands_still_is_read_all_the_same(tmp_path: Path) -> None:
    folder = catalog(tmp_path, Offered("test/a"))
    subject = running(folder)

    async def steps() -> None:
        file = folder / "models/test/b.toml"
        writes = 0

        def written() -> bool:
            nonlocal writes
            writes += 1
            file.write_text(Offered("test/b").toml() + f"# {writes}\n")
            return "test/b" in subject.current.models

        await until(written)

    asyncio.run(watched(subject, steps()))


def test_a_change_of_rights_or_of_a_links_target_is_an_edit(tmp_path: Path) -> None:
    folder = catalog(tmp_path / "catalog", Offered("test/a"))
    (tmp_path / "old.toml").write_text(Offered("test/l", price=(1, 2)).toml())
    (tmp_path / "new.toml").write_text(Offered("test/l", price=(3, 2)).toml())
    link = folder / "models/test/l.toml"
    link.symlink_to(tmp_path / "old.toml")
    subject = running(folder)

    async def steps() -> None:
        (tmp_path / "link").symlink_to(tmp_path / "new.toml")
        (tmp_path / "link").rename(link)  # as a mounted ConfigMap is updated
        await until(lambda: subject.current.models["test/l"].offers[0].price.input == 3_000_000)
        (tmp_path / "new.toml").unlink()
        await until(lambda: subject.rejected is not None)
        (tmp_path / "new.toml").write_text(Offered("test/l", price=(4, 2)).toml())
        await until(lambda: subject.rejected is None)

    asyncio.run(watched(subject, steps()))
    assert subject.current.models["test/l"].offers[0].price.input == 4_000_000


def test_each_fault_of_a_rejected_edit_is_a_line_of_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = catalog(tmp_path, Offered("test/a"))
    subject = running(folder)
    (folder / "policy.toml").write_text('mode = "fast"\nmarkup = 0\n')

    asyncio.run(subject.reload())

    text = LineFormatter("text")
    lines = [text.format(record) for record in caplog.records]
    assert len(lines) == 3
    assert f"the catalog edit is rejected, revision {subject.current.revision} stays" in lines[0]
    assert "rejected: policy.toml:1: mode: " in lines[1]
    assert "rejected: policy.toml:2: markup: " in lines[2]
    assert not any("\\n" in line for line in lines)


def test_the_event_loop_runs_on_while_the_files_are_read(tmp_path: Path) -> None:
    inside, go_on = threading.Event(), threading.Event()
    threads: list[int] = []

    def today() -> date:
        threads.append(threading.get_ident())
        if len(threads) > 2:  # after the construction, which asks twice
            inside.set()
            assert go_on.wait(20)
        return TODAY

    subject = running(catalog(tmp_path, Offered("test/a")), today)

    async def steps() -> None:
        first, second = asyncio.create_task(subject.reload()), asyncio.create_task(subject.reload())
        await asyncio.to_thread(inside.wait, 20)
        for _ in range(1_000):
            await asyncio.sleep(0)  # the loop turns while a reading hangs
        assert not first.done()
        assert len(threads) == 3  # the second reading waits for the first
        go_on.set()
        await asyncio.gather(first, second)

    asyncio.run(asyncio.wait_for(steps(), 30))
    assert len(threads) == 4
    assert threading.get_ident() not in threads[2:]


def test_the_watch_outlives_a_look_that_fails(tmp_path: Path) -> None:
    folder = catalog(tmp_path, Offered("test/a"))
    failing = [False]

    def today() -> date:
        if failing[0]:
            failing[0] = False
            raise OSError("no clock")
        return TODAY

    subject = running(folder, today)

    async def steps() -> None:
        failing[0] = True
        await until(lambda: not failing[0])
        catalog(folder, Offered("test/b"))
        await until(lambda: "test/b" in subject.current.models)

    asyncio.run(watched(subject, steps()))
