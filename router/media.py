"""Look at what a request carries beside text and images: audio, video, files. The router opens none of them.

Their data is no text: as base64 a minute of speech would count as more tokens than most models can read.
What they are worth in tokens depends on what is inside, so the estimates are rough and the bounds generous:

- audio: models count 10 to 32 tokens a second; speech has 1 to 32 kB a second.
- video: models count about 300 tokens a second; it has 10 kB a second or more.
- files: a page of a PDF is 500 to 3,000 tokens, in a few kB of compressed text or some 100 kB of a scan.

Sources: the API documentation of OpenAI (`input_audio`, `file`), Google (audio, video, document
understanding) and OpenRouter (`video_url`).
"""

from __future__ import annotations

from typing import Literal, get_args

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from router.rawjson import first_byte

Medium = Literal["audio", "video", "file"]
MEDIA: tuple[Medium, ...] = get_args(Medium)


_members = msgspec.json.Decoder(dict[str, Raw])
# The member of a part that holds its data.
_HOLDS: dict[Medium, str] = {"audio": "data", "video": "url", "file": "file_data"}
# Base64 characters a token, as estimated and as the bound; then the tokens of what is only an address.
_CHARS_PER_TOKEN: dict[Medium, tuple[int, int]] = {"audio": (300, 40), "video": (500, 40), "file": (30, 2)}
_TOKENS_OF_ADDRESS: dict[Medium, tuple[int, int]] = {
    "audio": (2_000, 50_000),
    "video": (5_000, 100_000),
    "file": (3_000, 50_000),
}


class Part(Struct, frozen=True, gc=False):
    """One part: the size of its data in the body, in bytes, and its tokens, estimated and at most."""

    medium: Medium
    data_bytes: int
    tokens: int
    tokens_bound: int


def read_part(medium: Medium, value: Raw | UnsetType) -> Part:
    """Return what is known of a part from its member; what it should look like, the upstream judges."""
    data = _data(medium, value)
    if data is None:
        return Part(medium, 0, *_TOKENS_OF_ADDRESS[medium])
    usual, least = _CHARS_PER_TOKEN[medium]
    return Part(medium, data, data // usual + 1, data // least + 1)


def _data(medium: Medium, value: Raw | UnsetType) -> int | None:
    """Return the length of a part's data; None where it has none, but an address or an id."""
    if value is UNSET or first_byte(value) != b"{":
        return None
    try:
        held = _members.decode(value).get(_HOLDS[medium])
    except msgspec.DecodeError:  # no JSON in there that anybody could read
        return None
    if held is None or first_byte(held) != b'"' or bytes(memoryview(held)[:5]).lower() == b'"http':
        return None
    return len(memoryview(held))
