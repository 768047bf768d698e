import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from router.errors import BadRequest
from router.rawjson import TEXT_HEAD_BYTES, TEXT_TAIL_BYTES, cut_text, decode_prefix, refuse_duplicates

names = st.sampled_from(["model", "messages", "mod", "é", "😀", "", "a b", '"', "\\", "\\u0061", "{", "}:,"])
values: st.SearchStrategy[Any] = st.sampled_from(
    [1, 12, -0.5, "x", "a,b", "}", '"k":1', "\\", "é😀", [], {}, [{}], {"model": [1]}, None, True]
)
spaces = st.text(" \t\r\n", max_size=3)


def escaped(name: str) -> str:
    """Write each character as an escape, astral ones as a pair."""
    units = name.encode("utf-16-be")
    return '"' + "".join(f"\\u{units[i] << 8 | units[i + 1]:04x}" for i in range(0, len(units), 2)) + '"'


@st.composite
def objects(draw: Any, pairs: Any) -> bytes:
    members = []
    for name, value in draw(pairs):
        key = draw(st.sampled_from([json.dumps(name), json.dumps(name, ensure_ascii=False), escaped(name)]))
        text = json.dumps(value, ensure_ascii=draw(st.booleans()))
        members.append(draw(spaces) + key + draw(spaces) + ":" + draw(spaces) + text + draw(spaces))
    whole: str = draw(spaces) + "{" + (",".join(members) or draw(spaces)) + "}" + draw(spaces)
    return whole.encode()


def check(body: bytes) -> None:
    refuse_duplicates(body, msgspec.json.decode(body, type=dict[str, Raw]))


@given(objects(st.lists(st.tuples(names, values), unique_by=lambda pair: pair[0], max_size=6)))
def test_different_names_are_never_called_duplicates(body: bytes) -> None:
    check(body)


@given(
    objects(
        st.lists(st.tuples(names, values), min_size=2, max_size=6).filter(
            lambda pairs: len({name for name, _ in pairs}) < len(pairs)
        )
    )
)
def test_a_name_that_stands_twice_is_always_found(body: bytes) -> None:
    with pytest.raises(BadRequest) as caught:
        check(body)
    assert caught.value.name == "duplicate_field"


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"a","model":"b"}',
        b'{"model":"a","model":"a"}',
        b'{"model":"a","mod\\u0065l":"b"}',
        b'{"model":"a" , "x":[{"model":1}],\t"\\u006dodel" :"a"}',
        b'{"x":1,"x":12}',
        b'{"x":12,"x":1}',
    ],
)
def test_an_escaped_name_is_the_same_name(body: bytes) -> None:
    with pytest.raises(BadRequest, match="stands twice"):
        check(body)


LIMIT = TEXT_HEAD_BYTES + TEXT_TAIL_BYTES
characters = st.sampled_from(["a", "\n", '"', "\\", "é", "…", "😀", "\x00", "n", "u", "/"])


def ends(text: str, raw: bytes) -> tuple[str, str]:
    """Return head and tail as they were read, checking that a long text is two pieces."""
    read = cut_text(Raw(raw))
    if len(raw) <= LIMIT:
        assert read == text
        return read, read
    head = _longest_shared(read, text)
    tail = _longest_shared(read[::-1], text[::-1])[::-1]
    return head, tail


def _longest_shared(a: str, b: str) -> str:
    end = 0
    while end < min(len(a), len(b)) and a[end] == b[end]:
        end += 1
    return a[:end]


def assert_true_ends(text: str, raw: bytes) -> None:
    read = cut_text(Raw(raw))
    if len(raw) <= LIMIT:
        assert read == text
        return
    head, tail = ends(text, raw)
    # A cut may leave the letters of a broken escape at the beginning of the tail, no more than its twelve.
    assert len(read) - len(head) - len(tail) - 1 <= 12
    # Every character has at most twelve bytes, so the ends are nearly as long as they may be.
    assert len(json.dumps(head)) >= TEXT_HEAD_BYTES - 30
    assert len(json.dumps(tail)) >= TEXT_TAIL_BYTES - 30


@pytest.mark.parametrize("unit", ["a", "é", "…", "😀", "\n", '"', "\\", "\x00", "a😀é\n\\"])
@pytest.mark.parametrize("ascii_only", [True, False])
def test_long_texts_are_cut_at_whole_characters_wherever_the_cut_falls(unit: str, ascii_only: bool) -> None:
    for lead in range(13):
        for trail in range(13):
            text = "x" * lead + unit * 9_000 + "n" * trail
            assert_true_ends(text, json.dumps(text, ensure_ascii=ascii_only).encode())


@given(st.lists(characters, min_size=1, max_size=30), st.integers(0, 40), st.booleans())
def test_mixed_texts_keep_their_ends(units: list[str], lead: int, ascii_only: bool) -> None:
    text = "x" * lead + "".join(units) * (20_000 // len(units))
    assert_true_ends(text, json.dumps(text, ensure_ascii=ascii_only).encode())


@given(st.text(characters, max_size=40), st.integers(0, 400), st.booleans())
def test_a_prefix_of_a_string_decodes_to_a_prefix_of_its_text(text: str, cut: int, ascii_only: bool) -> None:
    inside = json.dumps(text, ensure_ascii=ascii_only).encode()[1:-1]
    read = decode_prefix(inside[:cut])
    assert text.startswith(read)
    missing = len(inside[:cut]) - len(json.dumps(read, ensure_ascii=ascii_only).encode()[1:-1])
    assert 0 <= missing < 12
