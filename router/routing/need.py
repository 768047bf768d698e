"""What one request needs of a model: a plain record, read from the body, the headers and the policy.

Pure: the admission time is part of the record, so the same need, catalog and live table decide the same.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal, InvalidOperation
from fnmatch import fnmatchcase

import msgspec
from msgspec import Raw, Struct

from router.catalog.snapshot import CATEGORIES, MODES, Category, Mode, Snapshot
from router.errors import BadRequest, ModelNotFound
from router.media import MEDIA, Medium
from router.rawjson import first_byte
from router.wire import MAX_SESSION_CHARS, RequestBody

PREFIXES = ("llmrouter/", "router/")
# No tokenizer runs here; usage from the upstream settles the bill. Measured on mixed chat traffic, four bytes
# of ASCII are a token; each further byte of a character adds about 0.3.
_BYTES_PER_TOKEN = 4
_TOKENS_PER_EXTRA_BYTE = 0.3
# Half the bytes bound the tokens of nearly all text, and each message has a few tokens of frame.
_BOUND_BYTES_PER_TOKEN = 2
_FRAME_TOKENS = 8
IMAGE_TOKENS = 1_000
IMAGE_TOKENS_BOUND = 3_000
_NUSD_PER_USD = 1_000_000_000


class Asked(Struct, frozen=True, gc=False):
    """Hold what `model` names: `auto`, a category or a catalog model, and the list tried after it."""

    name: str
    auto: bool
    category: Category | None
    model: str | None
    fallbacks: tuple[str, ...]
    mode: Mode | None


class Pinned(Struct, frozen=True, gc=False):
    """Hold what is known of the conversation that a request goes on with.

    The offer that served it last, the prompt tokens that this offer may still have cached, and the hardest
    text category of its last minutes.
    """

    model: str
    provider: str
    upstream_model: str
    cached_tokens: int
    floor: Category | None


class Need(Struct, frozen=True, gc=False):
    """Hold all that a decision reads of a request; tokens are estimates, `_bound` their upper bounds.

    `forced_tools`: a tool must be called. `pinned` is set from the sessions, once the need has been read;
    `credit_nusd`, what the customer can still spend, where that does not reach the first choice. `media` are
    the kinds of input beside text and images.
    """

    asked: Asked
    mode: Mode
    prompt_tokens: int
    prompt_tokens_bound: int
    output_tokens: int | None
    choices: int
    images: int
    tools: bool
    json_schema: bool
    json_mode: bool
    reasoning: bool
    allow: tuple[str, ...]
    deny: tuple[str, ...]
    key_models: tuple[str, ...]
    max_cost_nusd: int | None
    session: str | None
    at: datetime
    forced_tools: bool = False
    pinned: Pinned | None = None
    credit_nusd: int | None = None
    media: tuple[Medium, ...] = ()

    @staticmethod
    def names(model: str, provider: str) -> tuple[str, str, str]:
        """Return the names by which a glob may call an offer."""
        return model, f"{provider}/{model}", f"{provider}:{model}"

    def permits(self, model: str, provider: str) -> str | None:
        """Return why the globs of client or key shut this offer out; a glob may name the provider too."""
        if not (self.key_models or self.allow or self.deny):
            return None
        names = self.names(model, provider)
        if self.key_models and not _matches(self.key_models, names):
            return "the API key does not allow it"
        if self.allow and not _matches(self.allow, names):
            return "not in the request's allow list"
        if self.deny and _matches(self.deny, names):
            return "in the request's deny list"
        return None


def _matches(globs: tuple[str, ...], names: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, glob) for glob in globs for name in names)


def read_asked(name: str, fallbacks: tuple[str, ...], catalog: Snapshot) -> Asked:
    """Resolve a model name; catalog ids win over aliases, aliases over the router's own names.

    Raises `ModelNotFound` with the three nearest ids. Unknown names in `fallbacks` are skipped.
    """
    known = tuple(dict.fromkeys(m for f in fallbacks if (m := _catalog_id(f, catalog)) is not None))
    model = _catalog_id(name, catalog)
    if model is not None:
        return Asked(model, False, None, model, tuple(m for m in known if m != model), None)
    short = _own_name(catalog.policy.aliases.get(name, name))
    stem, colon, suffix = short.partition(":")
    mode = suffix if suffix in MODES else None
    if (stem == "auto" or stem in CATEGORIES) and (mode is not None or not colon):
        category = stem if stem in CATEGORIES else None
        return Asked(stem, category is None, category, None, known, mode)
    raise unknown_model(name, catalog)


def _catalog_id(name: str, catalog: Snapshot) -> str | None:
    for candidate in (name, catalog.policy.aliases.get(name, name), _own_name(name)):
        if candidate in catalog.models:
            return candidate
    return None


def _own_name(name: str) -> str:
    for prefix in PREFIXES:
        if name.startswith(prefix):
            return name[len(prefix) :]
    return name


def unknown_model(name: str, catalog: Snapshot) -> ModelNotFound:
    """Return the error that names the three nearest ids."""
    ids = [*catalog.models, "auto", *CATEGORIES, *(f"auto:{mode}" for mode in MODES)]
    near = difflib.get_close_matches(name.strip().lower(), ids, n=3, cutoff=0.0)
    return ModelNotFound(
        f"The model {name!r} is not in the catalog. Nearest: {', '.join(near)}. "
        "GET /v1/models lists all; auto lets the router choose.",
        param="model",
    )


def read_need(
    body: RequestBody,
    headers: Mapping[str, str],
    catalog: Snapshot,
    *,
    at: datetime,
    key_models: tuple[str, ...] = (),
) -> Need:
    """Collect a request's need from its body and the `x-llm-router-*` headers.

    The body wins, but for the session.

    Raises `BadRequest` for a value that cannot be, `ModelNotFound` for an unknown model.
    """
    asked = read_asked(body.model, body.models, catalog)
    fields = body.router
    media = body.media
    return Need(
        asked=asked,
        mode=asked.mode or _mode(fields.mode, headers, catalog),
        prompt_tokens=_estimate_tokens(body) + sum(part.tokens for part in media),
        prompt_tokens_bound=_bound_tokens(body) + sum(part.tokens_bound for part in media),
        output_tokens=body.max_output_tokens,
        choices=body.choices,
        images=body.images,
        tools=body.has_tools,
        json_schema=body.response_format == "json_schema",
        json_mode=body.response_format == "json_object",
        reasoning=body.reasoning_effort not in (None, "none", "minimal"),
        allow=tuple(fields.allow or ()),
        deny=tuple(fields.deny or ()),
        key_models=key_models,
        max_cost_nusd=_max_cost(fields.max_cost_usd, headers),
        session=_session(headers) or fields.session,
        at=at,
        forced_tools=body.has_tools and _forces_a_tool(body.members),
        media=tuple(kind for kind in MEDIA if any(part.medium == kind for part in media)) if media else (),
    )


def _forces_a_tool(members: Mapping[str, Raw]) -> bool:
    """Tell whether `tool_choice` leaves no choice: `required`, or an object that names what to call.

    OpenAI API reference: an object of type `allowed_tools` has a mode of its own; `function_call` is the
    older name, an object there names a function. Some servers write `any` for `required`.
    """
    choice = members.get("tool_choice") or members.get("function_call")
    if choice is None:
        return False
    first = first_byte(choice)
    if first == b'"':
        return bytes(choice).strip() in {b'"required"', b'"any"'}
    if first != b"{":
        return False
    try:
        allowed = _tool_choice.decode(choice).allowed_tools
    except msgspec.ValidationError:  # not of the known form; what it is, the upstream judges
        return True
    return allowed is None or allowed.mode != "auto"


class _AllowedTools(Struct):
    mode: str | None = None


class _ToolChoice(Struct):
    allowed_tools: _AllowedTools | None = None


_tool_choice = msgspec.json.Decoder(_ToolChoice)


def _mode(field: str | None, headers: Mapping[str, str], catalog: Snapshot) -> Mode:
    for value, param in ((field, "router.mode"), (headers.get("x-llm-router-mode"), "x-llm-router-mode")):
        if value is not None:
            if value not in MODES:
                raise BadRequest(f"{param} must be one of {', '.join(MODES)}.", param=param)
            return value
    return catalog.policy.mode


def _session(headers: Mapping[str, str]) -> str | None:
    param = "x-llm-router-session"
    session = headers.get(param)
    if session is not None and len(session) > MAX_SESSION_CHARS:
        raise BadRequest(f"{param} is longer than {MAX_SESSION_CHARS} characters.", param=param)
    return session


def _max_cost(field: Decimal | None, headers: Mapping[str, str]) -> int | None:
    param = "router.max_cost_usd"
    value = field
    text = headers.get("x-llm-router-max-cost-usd")
    if value is None and text is not None:
        param = "x-llm-router-max-cost-usd"
        try:
            value = Decimal(text.strip())
        except InvalidOperation:
            raise BadRequest(f"{param} must be a number of US dollars.", param=param) from None
    if value is None:
        return None
    if not value.is_finite() or value < 0 or value > _NUSD_PER_USD:
        raise BadRequest(f"{param} must be a number of US dollars, 0 or more.", param=param)
    return int(value * _NUSD_PER_USD)


def _estimate_tokens(body: RequestBody) -> int:
    extra_bytes = body.text_bytes - body.text_chars
    text = body.text_chars / _BYTES_PER_TOKEN + extra_bytes * _TOKENS_PER_EXTRA_BYTE
    return int(text) + 1 + body.images * IMAGE_TOKENS


def _bound_tokens(body: RequestBody) -> int:
    frame = _FRAME_TOKENS * (len(body.messages) + 1)
    return body.text_bytes // _BOUND_BYTES_PER_TOKEN + frame + body.images * IMAGE_TOKENS_BOUND
