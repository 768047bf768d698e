"""What the form of `/ui/explain` asks, and the one request body that is decided for and sent."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Raw, Struct

from router.catalog.faults import CatalogFaults
from router.catalog.policy import AUTO_NAMES
from router.catalog.snapshot import MODES, Fault
from router.errors import BadRequest
from router.wire import parse_request

MOST_PATH_CHARS = 1_000
_MARKS = ("policy.toml", "models", "providers")
_members = msgspec.json.Decoder(dict[str, Raw])
_messages = msgspec.json.Decoder(list[dict[str, Raw]])
_encode = msgspec.json.encode


class Asked(Struct, frozen=True):
    """The fields of the form: `kind` is "", "prompt" or "body"; `image` a data URI; `mode` may be left open.

    `catalog` is a folder, empty for the one that serves; `before` is what the form last showed, as JSON.
    """

    text: str = ""
    kind: str = ""
    image: str = ""
    model: str = ""
    mode: str = ""
    cap: str = ""
    catalog: str = ""
    before: str = ""

    @property
    def is_body(self) -> bool:
        """Tell whether the text is a whole request: it was said, or it looks like one."""
        if self.kind:
            return self.kind == "body"
        return self.text.lstrip().startswith("{") and '"messages"' in self.text

    @property
    def content_id(self) -> str:
        """Name what is asked, apart from mode, cap and catalog, so that two decisions can be compared."""
        parts = (str(self.is_body), self.model, self.image, self.text)
        return hashlib.sha256(_encode(parts)).hexdigest()[:16]


def read_form(form: Mapping[str, Any]) -> Asked:
    """Return what was filled in; what is no text (a file) counts as nothing."""
    found = {name: form.get(name, "") for name in Asked.__struct_fields__}
    given = {name: value for name, value in found.items() if isinstance(value, str)}
    for name in ("kind", "image", "model", "mode", "cap", "catalog"):
        given[name] = given.get(name, "").strip()
    return Asked(**given)


def body_of(asked: Asked, *, stream: bool = False) -> bytes:
    """Return the request that the form means. Raises `BadRequest` that names what is wrong."""
    members = _own_members(asked.text) if asked.is_body else _prompt_members(asked.text, bool(asked.image))
    if asked.image:
        members["messages"] = _with_image(members["messages"], asked.image)
    if asked.model:
        members["model"] = Raw(_encode(asked.model))
    if asked.mode or asked.cap:
        members |= _wishes(members, asked)
    if stream:
        members["stream"] = Raw(b"true")
    return _encode(members)


def _own_members(text: str) -> dict[str, Raw]:
    raw = text.strip().encode("utf-8", "surrogatepass")
    parse_request(raw)  # what is wrong is said of the text as it was pasted
    return _members.decode(raw)


def _prompt_members(text: str, pictured: bool) -> dict[str, Raw]:
    if not text.strip() and not pictured:
        raise BadRequest("The prompt is empty: write or paste one.")
    clean = text.encode("utf-8", "replace").decode()
    return {
        "model": Raw(b'"auto"'),
        "messages": Raw(_encode([{"role": "user", "content": clean}])),
    }


def _with_image(messages: Raw, image: str) -> Raw:
    """Add the image to the last message of the user."""
    found = _messages.decode(messages)
    users = [at for at, message in enumerate(found) if bytes(message.get("role", b"")).strip() == b'"user"']
    if not users:
        raise BadRequest("The body has no message of the user that could carry the image.")
    message = found[users[-1]]
    content = msgspec.json.decode(message["content"], type=str | list[Raw])
    parts: list[Any] = content if isinstance(content, list) else []
    if isinstance(content, str) and content:
        parts = [{"type": "text", "text": content}]
    message["content"] = Raw(_encode([*parts, {"type": "image_url", "image_url": {"url": image}}]))
    return Raw(_encode(found))


def _wishes(members: Mapping[str, Raw], asked: Asked) -> dict[str, Raw]:
    """Put mode and cap where they win over all that the body says of them."""
    changed: dict[str, Raw] = {}
    own = members.get("router")
    fields = _members.decode(own) if own is not None and bytes(own).strip() != b"null" else {}
    if asked.mode:
        if asked.mode not in MODES:
            raise BadRequest(f"The mode must be one of {', '.join(MODES)}.")
        fields["mode"] = Raw(_encode(asked.mode))
        model = msgspec.json.decode(members["model"], type=str)
        if model in AUTO_NAMES:
            changed["model"] = Raw(_encode(model.partition(":")[0]))
    if asked.cap:
        fields["max_cost_usd"] = Raw(_encode(_dollars(asked.cap)))
    changed["router"] = Raw(_encode(fields))
    return changed


def _dollars(text: str) -> Decimal:
    try:
        value = Decimal(text.removeprefix("$"))
    except InvalidOperation:
        value = Decimal("NaN")
    if not value.is_finite() or value < 0:
        raise BadRequest("The cap must be a number of US dollars, such as 0.01.")
    return value


def folder_of(text: str) -> Path:
    """Return the folder that was named, in full. Raises `CatalogFaults` for what can be no catalog.

    A folder without any part of a catalog is not walked, however large it is.
    """
    if len(text) > MOST_PATH_CHARS or not text.isprintable():
        raise CatalogFaults([Fault(text[:100], 1, "", "this is no path of a folder")])
    try:
        folder = Path(text).expanduser().resolve()
        found = folder.is_dir() and any((folder / name).exists() for name in _MARKS)
    except (OSError, RuntimeError) as fault:
        raise CatalogFaults([Fault(text, 1, "", f"cannot be read: {fault}")]) from None
    if not found:
        said = "no catalog here: a catalog's folder holds policy.toml, providers/*.toml and models/**/*.toml"
        raise CatalogFaults([Fault(str(folder), 1, "", said)])
    return folder
