import asyncio
import json
from decimal import Decimal
from typing import Any

import httpx2 as httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.catalog.snapshot import Policy
from router.upstream.faults import AttemptFault
from router.upstream.sse import EventReader, event_bytes
from router.upstream.stream import StreamRelay, UsageWish, usage_wish
from router.upstream.usage import Meter
from tests.unit.parts import AT, Pieces, offer, split

METER = Meter(offer(), Policy(), AT, prompt_tokens=40, choices=1)
USAGE = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
BILLED = {**USAGE, "cost": Decimal("0.00012")}
WISHES: tuple[UsageWish, ...] = ("last_chunk", "finish_chunk", "none")
HEAD = {"id": "c1", "object": "chat.completion.chunk", "created": 5, "model": "m"}


def chunk(delta: dict[str, Any] | None = None, finish: str | None = None, **more: Any) -> bytes:
    choice = {"index": 0, "delta": delta or {}, "finish_reason": finish}
    return event_bytes(json.dumps({**HEAD, "choices": [choice], **more}, ensure_ascii=False).encode())


def usage_chunk(usage: Any = USAGE, **more: Any) -> bytes:
    return event_bytes(json.dumps({**HEAD, "choices": [], "usage": usage, **more}).encode())


DONE = event_bytes(b"[DONE]")
ROLE = chunk({"role": "assistant", "content": ""})
HELLO = chunk({"content": "hello ✓"})
CALL = chunk({"tool_calls": [{"index": 0, "id": "1", "function": {"name": "f", "arguments": ""}}]})
STOP = chunk(finish="stop")
WHOLE = ROLE + HELLO + STOP + usage_chunk() + DONE


class Relayed:
    """What a client got of a stream, and the relay that gave it."""

    def __init__(self, pieces: list[bytes], wish: UsageWish, fault: Exception | None = None) -> None:
        self.exchange = Pieces(pieces, fault)
        self.relay = StreamRelay(self.exchange, METER, wish)
        self.data = asyncio.run(self._read())

    async def _read(self) -> bytes:
        await self.relay.begin()
        data = b""
        while piece := await self.relay.next():
            data += piece
        assert await self.relay.next() == b""
        return data

    @property
    def events(self) -> list[Any]:
        reader = EventReader()
        found = [e.data for e in [*reader.feed(self.data), *reader.finish()] if e.data is not None]
        assert found[-1] == b"[DONE]"
        assert found.count(b"[DONE]") == 1
        return [json.loads(data, parse_float=Decimal) for data in found[:-1]]


def relayed(data: bytes, wish: UsageWish = "finish_chunk", fault: Exception | None = None) -> Relayed:
    return Relayed([data], wish, fault)


def refused(data: bytes, fault: Exception | None = None) -> AttemptFault:
    with pytest.raises(AttemptFault) as caught:
        relayed(data, fault=fault)
    return caught.value


def test_what_the_client_asked_for() -> None:
    assert [usage_wish(asked) for asked in (None, True, False)] == ["finish_chunk", "last_chunk", "none"]


def test_without_stream_options_the_finish_chunk_is_last_and_carries_the_usage() -> None:
    events = relayed(WHOLE).events
    assert events[-1]["choices"][0]["finish_reason"] == "stop"
    assert events[-1]["usage"] == BILLED
    assert [event.get("usage") for event in events[:-1]] == [None, None]


def test_include_usage_true_gives_a_last_chunk_without_choices() -> None:
    events = relayed(WHOLE, "last_chunk").events
    assert (events[-1]["choices"], events[-1]["usage"]) == ([], BILLED)
    assert events[-2]["choices"][0]["finish_reason"] == "stop"
    assert all(not event.get("usage") for event in events[:-1])


def test_include_usage_false_gives_none() -> None:
    found = relayed(WHOLE, "none")
    assert b"usage" not in found.data
    assert found.relay.bill is not None
    assert found.relay.bill.charge_nusd == 120_000


EARLY = {
    "early": ROLE + usage_chunk() + HELLO + STOP + DONE,
    "twice": ROLE
    + usage_chunk({"prompt_tokens": 1, "completion_tokens": 1})
    + HELLO
    + STOP
    + usage_chunk()
    + DONE,
    "in the finish chunk": ROLE + HELLO + chunk(finish="stop", usage=USAGE) + DONE,
    "in every chunk": ROLE
    + chunk({"content": "hello ✓"}, usage={"prompt_tokens": 100, "completion_tokens": 1})
    + chunk(finish="stop", usage=USAGE)
    + DONE,
    "without choices": ROLE + HELLO + STOP + event_bytes(json.dumps({"usage": USAGE}).encode()) + DONE,
    "with choices null": ROLE + HELLO + STOP + usage_chunk(choices=None) + DONE,
    "over lines": ROLE
    + HELLO
    + STOP
    + event_bytes(json.dumps({**HEAD, "choices": [], "usage": USAGE}, indent=1).encode())
    + DONE,
    "finish chunk over lines": ROLE
    + HELLO
    + event_bytes(json.dumps({"choices": [{"delta": {}, "finish_reason": "stop"}]}, indent=1).encode())
    + usage_chunk()
    + DONE,
    "without [DONE]": ROLE + HELLO + STOP + usage_chunk(),
    "after comments": b": ping\n\n" + ROLE + b": ping\n\n" + HELLO + STOP + usage_chunk() + DONE,
}


@pytest.mark.parametrize("data", EARLY.values(), ids=EARLY.keys())
@pytest.mark.parametrize("wish", WISHES)
def test_usage_ends_up_in_its_place_wherever_the_upstream_sends_it(data: bytes, wish: UsageWish) -> None:
    found = relayed(data, wish)
    events = found.events
    with_usage = [i for i, event in enumerate(events) if event.get("usage") is not None]
    assert with_usage == ([] if wish == "none" else [len(events) - 1])
    if wish != "none":
        assert events[-1]["usage"] == BILLED
    assert (events[-1]["choices"] == []) == (wish == "last_chunk")
    text = [c["delta"].get("content") or "" for event in events for c in event["choices"]]
    assert "".join(text) == "hello ✓"
    assert found.relay.fault is None


@pytest.mark.parametrize("wish", WISHES)
def test_usage_that_never_comes_is_estimated(wish: UsageWish) -> None:
    found = relayed(ROLE + HELLO + HELLO + STOP + DONE, wish)
    assert found.relay.bill is not None
    assert found.relay.bill.estimated
    assert found.relay.bill.tokens.prompt == 40
    assert found.relay.bill.tokens.completion == 2
    if wish == "last_chunk":
        assert found.events[-1].items() >= {**HEAD, "choices": []}.items()


def test_what_is_not_looked_at_passes_byte_for_byte() -> None:
    odd = b'event: x\r\ndata: {"choices":[{"delta":{"content":"\\u00e9"},"x":1.50}] , "y":{"z" :[1]}}\r\n\r\n'
    assert relayed(ROLE + odd + HELLO + STOP + DONE).data.startswith(ROLE + odd + HELLO)


def test_comments_before_the_first_content_are_not_sent_and_later_ones_are() -> None:
    data = relayed(b": one\n\n" + ROLE + b": two\n\n" + HELLO + b": three\n\n" + STOP + DONE).data
    assert (b"one" in data, b"two" in data, b"three" in data) == (False, False, True)


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"", "cut"),
        (DONE, "cut"),
        (b": ping\n\n", "cut"),
        (ROLE, "cut"),
        (ROLE + DONE, "cut"),
        (b"<html>busy</html>", "cut"),
        (event_bytes(b"<html>"), "bad_answer"),
        (event_bytes(b"{"), "bad_answer"),
        (event_bytes(b"[]"), "bad_answer"),
        (event_bytes(b'{"choices":5}'), "bad_answer"),
        (event_bytes(b'{"x":' + b"[" * 100_000), "bad_answer"),
        (event_bytes(b'{"error":{"message":"boom"}}'), "server_error"),
        (event_bytes(b'{"error":"boom"}'), "server_error"),
        (event_bytes(b'{"error":{"message":"wait","code":429}}'), "rate_limited"),
        (event_bytes(b'{"error":{"message":"busy","code":503}}'), "unavailable"),
        (event_bytes(b'{"error":{"message":"maximum context length is 5","code":400}}'), "too_long"),
        (ROLE + event_bytes(b'{"error":{"message":"boom"}}'), "server_error"),
    ],
)
def test_a_stream_that_fails_before_its_first_content_leaves_it_to_the_next_offer(
    data: bytes, kind: str
) -> None:
    assert refused(data).kind == kind


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (httpx.ReadTimeout("x"), "timeout"),
        (httpx.ReadError("x"), "cut"),
        (httpx.RemoteProtocolError("x"), "cut"),
    ],
)
def test_what_breaks_before_the_first_content_is_a_fault_and_after_it_an_error_chunk(
    fault: Exception, kind: str
) -> None:
    assert refused(ROLE, fault).kind == kind
    found = relayed(ROLE + HELLO, fault=fault)
    last = found.events[-1]
    assert last["choices"][0]["finish_reason"] == "error"
    assert last["error"]["code"] == (504 if kind == "timeout" else 502)
    assert last["id"] == "c1"
    assert found.relay.fault is not None
    assert found.relay.bill is not None
    assert (found.relay.bill.tokens.completion, found.relay.bill.estimated) == (1, True)


@pytest.mark.parametrize(
    "broken",
    [
        b"",
        DONE,
        HELLO[:-5],
        event_bytes(b"<html>"),
        event_bytes(b"null"),
        event_bytes(b'{"error":{"message":"sk-aaaaaaaaaaaaaaaaaaaaaa at http://10.0.0.1:8000"}}'),
        event_bytes(b'{"error":{"code":401,"message":"bad key"}}'),
    ],
)
@pytest.mark.parametrize("wish", WISHES)
def test_a_stream_that_breaks_later_never_looks_whole(broken: bytes, wish: UsageWish) -> None:
    found = relayed(ROLE + HELLO + broken, wish)
    last = found.events[-1]
    assert set(last["error"]) == {"code", "message", "type", "param", "name"}
    assert last["error"]["code"] == 502
    assert last["choices"][0]["finish_reason"] == "error"
    assert ("usage" in last) == (wish != "none")
    assert not any(word in found.data for word in (b"sk-aaa", b"10.0.0.1", b"bad key"))


def test_a_break_after_the_finish_chunk_is_an_end() -> None:
    found = relayed(ROLE + HELLO + STOP, fault=httpx.ReadError("x"))
    assert (found.relay.fault, found.events[-1]["choices"][0]["finish_reason"]) == (None, "stop")


def test_a_tool_call_alone_is_an_answer() -> None:
    assert len(relayed(ROLE + CALL + chunk(finish="tool_calls") + DONE).events) == 3


def test_each_choice_keeps_its_own_finish_chunk() -> None:
    def of(index: int, delta: dict[str, Any], finish: str | None = None) -> bytes:
        choice = {"index": index, "delta": delta, "finish_reason": finish}
        return event_bytes(json.dumps({**HEAD, "choices": [choice]}).encode())

    data = of(0, {"content": "a"}) + of(0, {}, "stop") + of(1, {"content": "b"}) + of(1, {}, "length") + DONE
    choices = [event["choices"][0] for event in relayed(data).events]
    assert [(c["index"], c["finish_reason"]) for c in choices if c["finish_reason"]] == [
        (0, "stop"),
        (1, "length"),
    ]
    assert "".join(c["delta"].get("content", "") for c in choices) == "ab"


def test_text_that_is_not_utf8_is_mended_and_ends_nothing() -> None:
    bad = HELLO.replace("✓".encode(), b"\xff")
    key = b'data: {"\xff":1,"choices":[{"delta":{"content":"a\xc3"}}],"usage":{"prompt_tokens":1}}\n\n'
    finish = STOP.replace(b'"m"', b'"\xe2\x9c"')
    for wish in WISHES:
        found = relayed(bad + key + finish + DONE, wish)
        assert found.relay.fault is None
        assert found.events[0]["choices"][0]["delta"]["content"] == "hello \ufffd"


def test_closing_gives_the_call_back_once_it_has_ended() -> None:
    found = relayed(WHOLE)
    asyncio.run(found.relay.aclose())
    assert found.exchange.closed == 1


def test_a_client_that_leaves_is_billed_for_what_went_by() -> None:
    async def leave() -> int:
        relay = StreamRelay(Pieces([ROLE + HELLO, HELLO, HELLO]), METER, "none")
        await relay.begin()
        await relay.next()
        return relay.bill_so_far().tokens.completion

    assert asyncio.run(leave()) == 1


texts = st.text(st.characters(codec="utf-8"), max_size=5)
deltas = st.one_of(
    st.builds(lambda text: chunk({"content": text}), texts),
    st.builds(lambda text: chunk({"reasoning_content": text}), texts),
    st.sampled_from([CALL, ROLE, STOP, usage_chunk(), b": ping\n\n", b"\xff\xfe\n\n", event_bytes(b"{}")]),
    st.sampled_from([event_bytes(b'{"error":{"code":500}}'), event_bytes(b"junk"), DONE, b"data: \xff\n\n"]),
)
line_ends = st.sampled_from([b"\n", b"\r\n", b"\r"])
cuts = st.lists(st.integers(0, 3_000), max_size=10)
faults = st.sampled_from([None, httpx.ReadError("x"), httpx.ReadTimeout("x")])


def outcome(pieces: list[bytes], wish: UsageWish, fault: Exception | None) -> Any:
    try:
        found = Relayed(pieces, wish, fault)
    except AttemptFault as failed:
        return failed.kind
    assert found.events
    return found.data, found.relay.bill


@given(st.lists(deltas, max_size=8), line_ends, cuts, st.sampled_from(WISHES), faults)
def test_the_client_gets_the_same_bytes_however_the_upstreams_are_cut(
    parts: list[bytes], end: bytes, places: list[int], wish: UsageWish, fault: Exception | None
) -> None:
    data = (HELLO + b"".join(parts)).replace(b"\n", end)
    whole = outcome([data], wish, fault)
    assert outcome(split(data, places), wish, fault) == whole
    assert outcome([data[i : i + 1] for i in range(len(data))], wish, fault) == whole


@given(st.lists(deltas, max_size=8), cuts, st.sampled_from(WISHES), faults)
def test_any_stream_ends_in_one_done_or_a_fault_before_the_first_content(
    parts: list[bytes], places: list[int], wish: UsageWish, fault: Exception | None
) -> None:
    result = outcome(split(b"".join(parts), places), wish, fault)
    assert isinstance(result, str) or result[1].charge_nusd >= 0
