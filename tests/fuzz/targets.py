"""What is fuzzed: functions of bytes that strangers send, which may refuse them and nothing else.

Each raises AssertionError for what must never be; any other exception that is not caught here is a crash too.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import msgspec
from msgspec import Raw

from router.access.assets import USDC
from router.access.demands import NotPayable, mpp_demands, x402_demands
from router.access.terms import Refused
from router.catalog.snapshot import Policy
from router.errors import BadRequest, RouterError
from router.images import check_image
from router.responses.answer import whole_answer
from router.responses.events import ResponseEvents
from router.responses.request import Asked, read_request
from router.upstream.answer import read_completion
from router.upstream.faults import AttemptFault
from router.upstream.sse import EventReader, EventTooLargeError
from router.upstream.stream import StreamRelay
from router.upstream.usage import Delivered, Meter
from router.wire import parse_request
from tests.unit import mpp_parts, x402_parts
from tests.unit.parts import AT, Pieces, offer

T = TypeVar("T")
MOST_NUSD = 50_000_000
MAX_ERROR_BYTES = 4_096
MPP = mpp_parts.seller()
METER = Meter(offer(), Policy(), AT, prompt_tokens=40, choices=1, most_nusd=MOST_NUSD)
_usage = msgspec.json.Decoder(dict[str, Raw])


def done(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run what waits for nothing, without an event loop; it may let others go on, which yields None."""
    while True:
        try:
            assert coroutine.send(None) is None, "it waits for something"
        except StopIteration as end:
            found: T = end.value
            return found


def cut(data: bytes) -> list[bytes]:
    """Cut bytes into pieces; the first one says how."""
    size = data[0] % 37 + 1 if data else 1
    return [data[at : at + size] for at in range(1, len(data), size)]


def sse(data: bytes) -> None:
    """The reader of event streams: the same events however the bytes are cut, and no byte invented."""
    pieces, whole, reader = cut(data), EventReader(), EventReader()
    try:
        once = [*whole.feed(b"".join(pieces)), *whole.finish()]
        found = [event for piece in pieces for event in reader.feed(piece)] + reader.finish()
    except EventTooLargeError:
        return
    assert [event.data for event in found] == [event.data for event in once]
    assert sum(len(event.raw) for event in found) <= len(data) + 2


def stream(data: bytes) -> None:
    """The tail of a stream: whatever an upstream sends, the client's part ends and the bill fits the hold."""
    relay = StreamRelay(Pieces(cut(data)), METER, ("last_chunk", "finish_chunk", "none")[len(data) % 3])
    try:
        done(relay.begin())
    except AttemptFault:
        return
    sent = b""
    while piece := done(relay.next()):
        sent += piece
    assert sent.endswith(b"data: [DONE]\n\n")
    assert sent.count(b"data: [DONE]") == 1 or b"[DONE]" in data[:-1]
    bill = relay.bill_so_far()
    assert 0 <= bill.charge_nusd <= MOST_NUSD
    assert relay.fault is not None or bill.tokens.completion >= 0


def usage(data: bytes) -> None:
    """The reader of usage, in a whole answer and alone: a bill that fits, or a fault."""
    try:
        answer = read_completion(data, METER)
    except AttemptFault:
        pass
    else:
        json.loads(answer.body)
        assert 0 <= answer.bill.charge_nusd <= MOST_NUSD
    try:
        _usage.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return
    bill = METER.bill(Raw(data), Delivered())
    assert 0 <= bill.charge_nusd <= MOST_NUSD
    assert min(bill.tokens.prompt, bill.tokens.completion, bill.tokens.cached, bill.tokens.written) >= 0


def images(data: bytes) -> None:
    """The check of image addresses: any text is taken or refused, as a string of JSON or as JSON itself."""
    for raw in (data, json.dumps({"url": data.decode("utf-8", "replace")}).encode()):
        try:
            msgspec.json.decode(raw)
        except (msgspec.DecodeError, UnicodeDecodeError):
            continue
        try:
            size_bytes = check_image(Raw(raw.strip()), "image_url")
        except BadRequest as fault:
            refused = fault
        else:
            assert size_bytes >= 0
            continue
        assert len(refused.body()) < MAX_ERROR_BYTES


def request(data: bytes) -> None:
    """The body of a request: parsed or refused, and what goes upstream is JSON with the upstream's model."""
    try:
        body = parse_request(data)
    except RouterError as refused:
        refused.body()
        return
    sent = json.loads(body.for_upstream("upstream/model", ("max_tokens", 5)))
    assert sent["model"] == "upstream/model"


def responses(data: bytes) -> None:
    """The Responses API: a request is read or refused; what an upstream says is said whole, and ends once."""
    try:
        body, asked = read_request(data)
    except RouterError as refused:
        refused.body()
        asked = Asked()
    else:
        json.loads(body.for_upstream("upstream/model", writer="provider/model"))
    try:
        answer = read_completion(data, METER)
    except AttemptFault:
        pass
    else:
        assert json.loads(whole_answer(answer.body, asked, 1.0, "provider/model"))["object"] == "response"
    relay, events, said = (
        StreamRelay(Pieces(cut(data)), METER, "finish_chunk"),
        ResponseEvents(asked, 1.0, "provider/model"),
        b"",
    )
    try:
        done(relay.begin())
    except AttemptFault:
        return
    while piece := done(relay.next()):
        said += events.feed(piece)
    kinds = [line for line in said.splitlines() if line.startswith(b"event: response.")]
    ends = [kind for kind in kinds if kind.endswith((b"completed", b"incomplete", b".failed"))]
    assert ends == kinds[-1:]


def x402(data: bytes) -> None:
    """The header of an x402 payment, as it comes and as JSON inside: refused, or a claim."""
    for header in (data.decode("latin-1"), base64.b64encode(data).decode()):
        try:
            credential = x402_parts.SELLER.read(x402_parts.asked(header))
        except (RouterError, Refused):
            continue
        assert credential is not None
        assert credential.claim.amount == x402_parts.AMOUNT


def mpp(data: bytes) -> None:
    """The header of an MPP credential, as it comes and as JSON inside: refused, or a claim."""
    for text in (data, b"Payment " + data, b"Payment " + base64.urlsafe_b64encode(data).rstrip(b"=")):
        try:
            credential = MPP.read(mpp_parts.asked(text))
        except (RouterError, Refused):
            continue
        assert credential is None or credential.claim.amount == 5_000


def demand(data: bytes) -> None:
    """What an upstream asks of our wallet: refused, or something of our own table, in whole units."""
    url = "https://seller.example/v1/chat/completions"
    for value in (data, base64.b64encode(data)):
        for name, read in ((b"payment-required", x402_demands), (b"www-authenticate", mpp_demands)):
            try:
                found = read([(name, value)], url if read is x402_demands else data)  # type: ignore[arg-type]  # each its own
            except NotPayable:
                continue
            assert all(one.amount > 0 and one.asset in USDC.values() for one in found)


TARGETS: dict[str, Callable[[bytes], None]] = {
    "sse": sse,
    "stream": stream,
    "usage": usage,
    "images": images,
    "request": request,
    "responses": responses,
    "x402": x402,
    "mpp": mpp,
    "demand": demand,
}

_CHALLENGE = mpp_parts.challenges(MPP)["evm"]
_CREDENTIAL = {
    "challenge": _CHALLENGE,
    "source": mpp_parts.WALLET.source(84532),
    "payload": mpp_parts.WALLET.evm_payload(_CHALLENGE, mpp_parts.USDC),
}
_CHUNK = b'data: {"id":"c","choices":[{"index":0,"delta":{"content":"hi"},"finish_reason":null}]}\n\n'
_STOP = b'data: {"id":"c","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
_LAST = (
    b'data: {"id":"c","choices":[],"usage":{"prompt_tokens":5,"completion_tokens":2,"total_tokens":7}}\n\n'
)
_DONE = b"data: [DONE]\n\n"
_USAGE = b'{"prompt_tokens":5,"completion_tokens":2,"prompt_tokens_details":{"cached_tokens":1},"cost":0.1}'
_PNG = b"data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAA"
SEEDS: dict[str, list[bytes]] = {
    "sse": [
        b"\x05" + _CHUNK + _DONE,
        b"\x01: comment\r\n\r\nevent: x\rdata: y\r\r",
        b"\xef\xbb\xbfdata:\n\n",
    ],
    "stream": [
        b"\x40" + _CHUNK + _STOP + _LAST + _DONE,
        b"\x03" + _CHUNK,
        b"\x09" + _CHUNK + b'data: {"error":{"message":"x","code":500}}\n\n',
    ],
    "usage": [
        b'{"id":"c","choices":[{"index":0,"message":{"content":"hi"},"finish_reason":"stop"}],"usage":%b}'
        % _USAGE,
        _USAGE,
    ],
    "images": [_PNG, b'"' + _PNG + b'"', b'{"url":"https://example.test/x.png"}', b'"\\u0068ttp://x"'],
    "request": [
        b'{"model":"auto","messages":[{"role":"user","content":"hi"}],"stream":true,"max_tokens":5}',
        b'{"model":"a/b","messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"%b"}}]}]}'
        % _PNG,
    ],
    "responses": [
        b'{"model":"auto","input":[{"role":"user","content":[{"type":"input_text","text":"hi"}]},'
        b'{"type":"function_call","call_id":"c","name":"f","arguments":"{}"},'
        b'{"type":"function_call_output","call_id":"c","output":"x"}],"tools":[{"type":"custom","name":"p"}]}',
        b'{"choices":[{"message":{"content":"hi","tool_calls":[{"id":"c","function":{"name":"f","arguments":"{}"}}]}}]}',
        b"\x40" + _CHUNK + _STOP + _LAST + _DONE,
        b'\x09data: {"choices":[{"delta":{"tool_calls":[{"index":0,"function":{"name":"f"}}]}}]}\n\n' + _STOP,
    ],
    "x402": [json.dumps(x402_parts.payment(scheme)).encode() for scheme in ("exact", "upto")],
    "mpp": [json.dumps(_CREDENTIAL).encode()],
    "demand": [
        x402_parts.SELLER.offers(x402_parts.QUOTE, x402_parts.asked(), None)[0][1],
        MPP.offers(mpp_parts.QUOTE, mpp_parts.asked(), None)[0][1],
    ],
}
