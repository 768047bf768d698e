"""Audio, video and files in a request: what they count as, and who gets them."""

import base64
import json
from typing import Any

import pytest

from router.catalog.snapshot import Price
from router.media import Medium
from router.routing.need import Need, read_need
from router.wire import RequestBody, parse_request
from tests.unit.parts import AT, asked, catalog, choose, lost, model, need, sure, winner

MINUTE_OF_SPEECH = base64.b64encode(bytes(60 * 32_000)).decode()  # 16 bits, 16 kHz
PDF = "data:application/pdf;base64," + base64.b64encode(b"%PDF-1.7\n" + bytes(300_000)).decode()


def audio(data: str = MINUTE_OF_SPEECH) -> dict[str, Any]:
    return {"type": "input_audio", "input_audio": {"data": data, "format": "wav"}}


def video(url: str) -> dict[str, Any]:
    return {"type": "video_url", "video_url": {"url": url}}


def file(**members: Any) -> dict[str, Any]:
    return {"type": "file", "file": members}


def body(*parts: dict[str, Any], text: str = "What is in it?") -> RequestBody:
    content = [{"type": "text", "text": text}, *parts]
    return parse_request(
        json.dumps({"model": "auto", "messages": [{"role": "user", "content": content}]}).encode()
    )


def read(*parts: dict[str, Any]) -> Need:
    return read_need(body(*parts), {}, catalog(model("m")), at=AT)


@pytest.mark.parametrize(
    ("parts", "media"),
    [
        ([], ()),
        ([audio()], ("audio",)),
        ([video("https://example.com/a.mp4")], ("video",)),
        ([file(file_data=PDF, filename="a.pdf")], ("file",)),
        ([file(file_id="file-1"), audio(), file(file_data=PDF)], ("audio", "file")),
    ],
)
def test_a_need_names_what_is_sent(parts: list[dict[str, Any]], media: tuple[Medium, ...]) -> None:
    assert read(*parts).media == media


def test_data_counts_by_its_size_and_not_as_text() -> None:
    plain, spoken, filed = read(), read(audio()), read(file(file_data=PDF))

    # Models count 10 to 32 tokens a second; as text the minute would be 640,000.
    assert 600 < spoken.prompt_tokens - plain.prompt_tokens < 20_000
    assert 60 * 32 < spoken.prompt_tokens_bound - plain.prompt_tokens_bound < 200_000
    assert 5_000 < filed.prompt_tokens - plain.prompt_tokens < 50_000
    assert filed.prompt_tokens_bound - plain.prompt_tokens_bound > len(PDF) // 3
    assert body(audio()).text_bytes < 400
    assert body(audio()).text_chars < 400


@pytest.mark.parametrize(
    "part",
    [
        video("https://example.com/a.mp4"),
        file(file_id="file-1"),
        file(file_data="https://example.com/a.pdf"),
        file(file_data=None),
        {"type": "file"},
        {"type": "file", "file": "file-1"},
        {"type": "input_audio", "input_audio": {"id": "audio_1"}},
    ],
)
def test_what_is_only_an_address_counts_as_something_long(part: dict[str, Any]) -> None:
    found = read(part)
    assert found.prompt_tokens >= 2_000
    assert found.prompt_tokens_bound >= 50_000


@pytest.mark.parametrize("part", [audio(), video("data:video/mp4;base64,AAAA"), file(file_data=PDF)])
def test_a_part_goes_upstream_as_it_came(part: dict[str, Any]) -> None:
    assert json.loads(body(part).for_upstream("m"))["messages"][0]["content"][1] == part


DEAF = model("deaf", 99, price=Price(1, 1, 0, 0))
EARS = model("ears", 60, price=Price(9**9, 9**9, 0, 0), input=frozenset({"text", "audio"}))


def test_audio_goes_to_who_hears_it_whatever_that_costs() -> None:
    decision = choose(catalog(DEAF, EARS), need(media=("audio",)), sure())
    assert (winner(decision), lost(decision)) == ("ears", {"deaf": "modality"})
    assert [loser.detail for loser in decision.losers] == ["does not read audio"]
    assert winner(choose(catalog(DEAF, EARS), need(), sure())) == "deaf"


def test_where_nobody_states_it_the_upstream_is_asked() -> None:
    assert winner(choose(catalog(DEAF, EARS), need(media=("file",)), sure())) == "deaf"
    assert winner(choose(catalog(DEAF, EARS), need(media=("audio", "file")), sure())) == "ears"


def test_a_model_that_was_named_is_asked_for_what_it_does_not_state() -> None:
    named = need(media=("audio",), asked=asked(None, "deaf"))
    assert winner(choose(catalog(DEAF, EARS), named, sure())) == "deaf"


def test_a_cap_below_who_hears_it_refuses_rather_than_send_it_to_the_deaf() -> None:
    decision = choose(catalog(DEAF, EARS), need(media=("audio",), max_cost_nusd=1), sure())
    assert decision.chosen is None
    assert lost(decision) == {"deaf": "modality", "ears": "cap"}
