import asyncio
from collections.abc import Sequence

import pytest

from router.errors import Unavailable
from router.ledger.ledger import unavailable
from router.ledger.together import Together


class Source:
    """Answers when it is told to; `asked` is what came."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []
        self.may_answer = asyncio.Event()
        self.fault: Exception | None = None

    async def __call__(self, keys: Sequence[str]) -> dict[str, str]:
        self.asked.append(list(keys))
        await self.may_answer.wait()
        if self.fault is not None:
            raise self.fault
        return {key: key.upper() for key in keys if key != "none"}


async def turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_what_comes_at_once_or_while_a_query_runs_is_one_query() -> None:
    async def ask() -> None:
        source = Source()
        together = Together(source)
        first = asyncio.gather(*(together.get(key) for key in ("a", "b", "a", "none")))
        await turns()
        second = asyncio.gather(*(together.get(key) for key in ("a", "c")))
        await turns()
        source.may_answer.set()
        assert await first == ["A", "B", "A", None]
        assert await second == ["A", "C"]
        assert source.asked == [["a", "b", "none"], ["a", "c"]]
        assert await together.get("d") == "D"

    asyncio.run(ask())


def test_one_who_leaves_takes_nobodys_answer_along() -> None:
    async def ask() -> None:
        source = Source()
        together = Together(source)
        leaver, stayer = (asyncio.create_task(together.get("a")) for _ in range(2))
        await turns()
        leaver.cancel()
        await turns()
        source.may_answer.set()
        assert await stayer == "A"

    asyncio.run(ask())


@pytest.mark.parametrize("fault", [unavailable(), KeyError("a defect")])
def test_a_fault_is_told_to_all_who_wait_by_then_and_to_nobody_after(fault: Exception) -> None:
    async def ask() -> None:
        source = Source()
        together = Together(source)
        asking = [asyncio.create_task(together.get("a"))]
        await turns()
        asking.append(asyncio.create_task(together.get("b")))
        await turns()
        source.fault = fault
        source.may_answer.set()
        told = await asyncio.gather(*asking, return_exceptions=True)
        assert [type(each) for each in told] == [Unavailable, Unavailable]
        source.fault = None
        assert await together.get("a") == "A"

    logged: list[object] = []  # a defect is for the log
    with asyncio.Runner() as runner:
        runner.get_loop().set_exception_handler(lambda _, context: logged.append(context))
        runner.run(ask())
