from collections.abc import Iterator

import httpx2 as httpx
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from router.upstream.sse import DONE, MAX_EVENT_BYTES, Event, EventReader, EventTooLargeError, event_bytes
from tests.unit.parts import split

words = st.text(st.characters(codec="utf-8", exclude_characters="\r\n\x00"), max_size=8)
data_lines = words.map("data: ".__add__) | words.map("data:".__add__) | st.just("data")
comments = words.map(":".__add__)
other_lines = st.sampled_from(
    ["event: message", "id: 5", "retry: 10", "unknown: x", "database: no", "nonsense"]
)
line_ends = st.sampled_from(["\n", "\r", "\r\n"])


@st.composite
def blocks(draw: st.DrawFn) -> list[str]:
    """Return an event with data, or comments alone."""
    if draw(st.booleans()):
        return draw(st.lists(comments, min_size=1, max_size=2))
    first, last = draw(st.tuples(*[st.lists(data_lines | comments | other_lines, max_size=2)] * 2))
    return [*first, draw(data_lines), *last]


@st.composite
def streams(draw: st.DrawFn, ends: st.SearchStrategy[str]) -> bytes:
    """Return a stream whose every line has some end, with blank lines between and around its events."""
    text = ""
    for block in draw(st.lists(blocks(), max_size=6)):
        for line in [*block, *[""] * draw(st.integers(1, 3))]:
            text += line + draw(ends)
    return (text + "\n\n").encode()


mixed = streams(line_ends)
uniform = line_ends.flatmap(lambda end: streams(st.just(end)))
cuts = st.lists(st.integers(0, 1_000), max_size=12)


def feed(pieces: list[bytes]) -> list[Event]:
    reader = EventReader()
    return [event for piece in pieces for event in reader.feed(piece)] + reader.finish()


def data_of(events: list[Event]) -> list[bytes]:
    return [event.data for event in events if event.data is not None]


class Body(httpx.SyncByteStream):
    def __init__(self, data: bytes) -> None:
        self.data = data

    def __iter__(self) -> Iterator[bytes]:
        yield self.data


def oracle(data: bytes) -> list[bytes]:
    """Return what httpx makes of the same bytes."""
    request = httpx.Request("GET", "http://upstream.test")
    headers = {"content-type": "text/event-stream; charset=utf-8"}
    response = httpx.Response(200, headers=headers, stream=Body(data), request=request)
    return [event.data.encode() for event in httpx.EventSource(response)]


@given(mixed | uniform)
@example(b"data: a\n\rdata: b\r\rdata: c\r\n\rdata: d\n\r\n")
@example(b"data: a\r\r\n\ndata: b\n\n")
def test_events_are_those_that_httpx_reads(data: bytes) -> None:
    assert data_of(feed([data])) == oracle(data)


@given(mixed | uniform, cuts)
@example(b"data: a\r\n\r\ndata: b\n\n", [8, 9, 10])
def test_any_split_gives_the_same_events(data: bytes, places: list[int]) -> None:
    assert feed(split(data, places)) == feed([data])


@given(mixed | uniform)
def test_one_byte_at_a_time_gives_the_same_events(data: bytes) -> None:
    assert feed([data[i : i + 1] for i in range(len(data))]) == feed([data])


@given(mixed | uniform, cuts)
def test_events_keep_their_bytes(data: bytes, places: list[int]) -> None:
    reader = EventReader()
    events = [event for piece in split(data, places) for event in reader.feed(piece)]
    assert data.startswith(b"".join(event.raw for event in events))
    kept = data[sum(len(event.raw) for event in events) :]
    assert not kept.strip(b"\r\n")


@given(uniform, cuts)
def test_a_byte_order_mark_is_dropped_also_when_it_is_cut(data: bytes, places: list[int]) -> None:
    marked = b"\xef\xbb\xbf" + data
    assert feed(split(marked, places)) == feed([data])
    assert feed([marked[:1], marked[1:2], marked[2:]]) == feed([data])


@pytest.mark.parametrize("end", [b"\n", b"\r", b"\r\n"])
def test_an_event_is_given_with_its_blank_line_and_not_later(end: bytes) -> None:
    reader = EventReader()
    assert reader.feed(b"data: a" + end) == []
    (event,) = reader.feed(end)
    assert event == Event(b"data: a" + end + end, b"a")


def test_several_data_lines_are_one_text_and_one_space_is_dropped() -> None:
    (event,) = feed([b"data: a\ndata:b\ndata:  c\ndata\nevent: x\n\n"])
    assert event.data == b"a\nb\n c\n"


def test_comments_and_other_fields_alone_have_no_data() -> None:
    assert [event.data for event in feed([b": ping\n\nevent: x\nid: 1\n\n:data: no\n\n"])] == [None] * 3


def test_a_last_event_without_its_blank_line_is_given_at_the_end() -> None:
    reader = EventReader()
    assert reader.feed(b"data: a\n\ndata: b") == [Event(b"data: a\n\n", b"a")]
    assert reader.finish() == [Event(b"data: b\n\n", b"b")]
    assert reader.finish() == []


def test_bytes_that_are_not_utf8_pass() -> None:
    assert data_of(feed([b"data: \xff\xfe\n\n"])) == [b"\xff\xfe"]


def test_an_event_of_a_megabyte_in_small_pieces_is_read() -> None:
    event = event_bytes(b"x" * 2**20)
    pieces = [event[i : i + 16_384] for i in range(0, len(event), 16_384)]
    assert data_of(feed(pieces)) == [b"x" * 2**20]


def test_an_event_without_an_end_is_given_up() -> None:
    reader = EventReader()
    piece = b"x" * 2**20
    for _ in range(MAX_EVENT_BYTES // len(piece)):
        assert reader.feed(piece) == []
    with pytest.raises(EventTooLargeError):
        reader.feed(b"x")


def test_the_end_is_one_event() -> None:
    assert data_of(feed([DONE])) == [b"[DONE]"]
