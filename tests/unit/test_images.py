import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.errors import BadRequest
from router.wire import RequestBody, parse_request

MAGIC = {
    "image/png": b"\x89PNG\r\n\x1a\n",
    "image/jpeg": b"\xff\xd8\xff\xe0",
    "image/jpg": b"\xff\xd8\xff\xe0",
    "image/gif": b"GIF89a",
    "image/webp": b"RIFF\x10\x00\x00\x00WEBP",
}


def data_uri(media: str, start: bytes | None = None, size: int = 60, parameters: str = "") -> str:
    data = (MAGIC[media.lower()] if start is None else start).ljust(size, b"\0")
    return f"data:{media}{parameters};base64,{base64.b64encode(data).decode()}"


def request(*images: Any, text: str = "what is this?") -> bytes:
    parts = [{"type": "text", "text": text}, *({"type": "image_url", "image_url": image} for image in images)]
    return json.dumps({"model": "auto", "messages": [{"role": "user", "content": parts}]}).encode()


def read(*images: Any) -> RequestBody:
    return parse_request(request(*images))


def refused(image: Any) -> BadRequest:
    with pytest.raises(BadRequest) as caught:
        read(image)
    assert caught.value.param is not None
    assert caught.value.param.startswith("messages[0].content[1].image_url")
    assert caught.value.param in caught.value.message
    return caught.value


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com/a.png",
        "http://example.com",
        "HTTPS://example.com/a?b=c#d",
        "https://[::1]/a.png",  # the router fetches nothing: where an address leads is the upstream's affair
        "https://example.com/" + "a" * 5_000,
        "https://example.com/" + "é" * 600,
    ],
)
def test_addresses_pass_and_count_as_an_image(url: str) -> None:
    body = read({"url": url, "detail": "low"})
    assert body.images == 1
    assert body.messages[0].data_bytes == 0
    assert url in json.dumps(json.loads(body.for_upstream("m")), ensure_ascii=False)


@pytest.mark.parametrize("media", sorted(MAGIC))
def test_data_of_known_types_passes(media: str) -> None:
    for uri in (
        data_uri(media),
        data_uri(media.upper()),
        data_uri(media, parameters=";charset=utf-8"),
        data_uri(media, size=100_000),
        data_uri(media, size=len(MAGIC[media])),
    ):
        assert read({"url": uri}).images == 1


def test_the_address_may_stand_in_place_of_the_object() -> None:
    assert read(data_uri("image/png"), "https://example.com/a.png").images == 2


def test_a_data_uri_is_counted_as_an_image_and_not_as_text() -> None:
    small, large = read({"url": data_uri("image/png")}), read({"url": data_uri("image/png", size=300_000)})
    assert large.messages[0].data_bytes > 400_000
    assert large.text_bytes == small.text_bytes == large.text_chars


@pytest.mark.parametrize(
    ("image", "param", "name"),
    [
        ({}, "image_url.url", "missing_field"),
        (None, "image_url.url", "missing_field"),
        (5, "image_url.url", "missing_field"),
        (["https://example.com"], "image_url.url", "missing_field"),
        ({"url": None}, "image_url.url", "invalid_request"),
        ({"url": 5}, "image_url.url", "invalid_request"),
        ({"url": ""}, "image_url.url", "invalid_image_url"),
        ("", "image_url", "invalid_image_url"),
        ("example.com/a.png", "image_url", "invalid_image_url"),
        ("https://", "image_url", "invalid_image_url"),
        ("https:///a.png", "image_url", "invalid_image_url"),
        ("https:a.png", "image_url", "invalid_image_url"),
        ("https://exa\r\nmple.com", "image_url", "invalid_image_url"),
        ("https://example.com/\x00", "image_url", "invalid_image_url"),
        ("file:///etc/passwd", "image_url", "invalid_image_url"),
        ("ftp://example.com/a.png", "image_url", "invalid_image_url"),
        ("gopher://127.0.0.1:6379/_x", "image_url", "invalid_image_url"),
        ("javascript:alert(1)", "image_url", "invalid_image_url"),
        ("data:", "image_url", "invalid_image_data"),
        ("data:image/png,abc", "image_url", "invalid_image_data"),
        ("data:image/png;base64,", "image_url", "invalid_image_data"),
        ("data:image/png;base64,!!!!", "image_url", "invalid_image_data"),
        ("data:text/html;base64,PGh0bWw+", "image_url", "invalid_image_data"),
        ("data:image/svg+xml;base64,PHN2Zz4=", "image_url", "invalid_image_data"),
    ],
)
def test_what_is_no_image_is_refused_by_name(image: Any, param: str, name: str) -> None:
    fault = refused(image)
    assert fault.param == f"messages[0].content[1].{param}"
    assert fault.name == name


def test_a_part_without_its_image_is_refused() -> None:
    data = request({"url": "x"}).replace(b'"image_url": {"url": "x"}', b'"detail": "low"')
    with pytest.raises(BadRequest) as caught:
        parse_request(data)
    assert caught.value.param == "messages[0].content[1].image_url"


@pytest.mark.parametrize("media", sorted(MAGIC))
def test_bytes_of_another_type_are_refused(media: str) -> None:
    for other, start in MAGIC.items():
        if start != MAGIC[media]:
            assert refused(data_uri(media, start)).name == "invalid_image_data", other
    assert refused(data_uri(media, b"<html>")).name == "invalid_image_data"


def test_riff_that_is_no_webp_is_refused() -> None:
    assert refused(data_uri("image/webp", b"RIFF\x10\x00\x00\x00WAVE")).name == "invalid_image_data"


@given(
    st.text() | st.text(min_size=1).map("data:image/png;base64,".__add__) | st.text().map("https://".__add__)
)
def test_any_address_is_read_or_refused(url: str) -> None:
    result = outcome(url)
    if isinstance(result, BadRequest):
        assert result.param == "messages[0].content[1].image_url.url"
    else:
        assert result.images == 1
        assert url.lower().startswith(("http://", "https://", "data:image/"))


def outcome(url: str) -> RequestBody | BadRequest:
    try:
        return read({"url": url})
    except BadRequest as fault:
        return fault
