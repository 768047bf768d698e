"""A deadline ends its own block and nothing else."""

from __future__ import annotations

import asyncio

import pytest

from router.deadline import Deadline

SOON_S = 0.001
LATER_S = 60.0


def test_a_block_that_takes_too_long_ends_with_a_timeout() -> None:
    async def run() -> None:
        with Deadline(SOON_S):
            await asyncio.get_running_loop().create_future()

    with pytest.raises(TimeoutError):
        asyncio.run(run())


def test_a_block_in_time_is_left_alone_and_the_task_goes_on() -> None:
    async def run() -> str:
        with Deadline(LATER_S):
            await asyncio.sleep(0)
        await asyncio.sleep(SOON_S)
        return "done"

    assert asyncio.run(run()) == "done"


def test_a_cancellation_from_outside_stays_a_cancellation() -> None:
    async def run() -> None:
        async def waits() -> None:
            with Deadline(LATER_S):
                await asyncio.get_running_loop().create_future()

        task = asyncio.create_task(waits())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run())


def test_a_cancellation_from_outside_wins_over_a_deadline_that_passes_at_once() -> None:
    async def run() -> None:
        async def waits() -> None:
            with Deadline(SOON_S):
                try:
                    await asyncio.get_running_loop().create_future()
                except asyncio.CancelledError:
                    await_outside.set()
                    raise

        await_outside = asyncio.Event()
        task = asyncio.create_task(waits())
        await asyncio.sleep(0)
        task.cancel()
        await await_outside.wait()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run())


def test_a_timeout_leaves_the_task_uncancelled() -> None:
    async def run() -> int:
        try:
            with Deadline(SOON_S):
                await asyncio.get_running_loop().create_future()
        except TimeoutError:
            pass
        task = asyncio.current_task()
        assert task is not None
        return task.cancelling()

    assert asyncio.run(run()) == 0


def test_another_error_of_the_block_comes_out_as_it_is() -> None:
    async def run() -> None:
        with Deadline(LATER_S):
            raise KeyError("x")

    with pytest.raises(KeyError):
        asyncio.run(run())


def test_no_time_passes_between_stop_and_restart_and_then_it_does() -> None:
    async def run() -> None:
        loop = asyncio.get_running_loop()
        after, never = loop.create_future(), loop.create_future()
        with Deadline(SOON_S) as deadline:
            deadline.stop()
            loop.call_later(2 * SOON_S, after.set_result, None)
            await after
            deadline.restart()
            await never

    with pytest.raises(TimeoutError):
        asyncio.run(run())


def test_a_block_that_ends_while_its_deadline_is_stopped_leaves_nothing_behind() -> None:
    async def run() -> int:
        with Deadline(SOON_S) as deadline:
            deadline.stop()
        await asyncio.sleep(2 * SOON_S)
        task = asyncio.current_task()
        assert task is not None
        return task.cancelling()

    assert asyncio.run(run()) == 0
