"""What goes wrong with a payment tells nobody where the facilitator is, what it said, and what was signed."""

from __future__ import annotations

import base64
import contextlib
import json
import re
from pathlib import Path

from tests.facilitator import Behaviour, Call, Reply, ScriptedFacilitator, lying, reply
from tests.mpp_wallet import decode
from tests.paying import (
    CHAT,
    SECRET,
    TOPUP,
    WAYS,
    Process,
    Way,
    environ_of,
    offers_anew,
    payer_at,
    signed,
)
from tests.router import Answer, Offered, write_catalog
from tests.service.walking import bearer, make_key, question, wait_for
from tests.serving import serve
from tests.upstream import ScriptedUpstream, status
from tests.wallets import decoded

SAID = "rpc https://base.node/v2/KEY-OF-THEIRS says no"
HEADER = "KEY-OF-OURS"
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]{40,}")
WHOLE, STREAM = question(max_tokens=50), question(max_tokens=50, stream=True)


def babbling(call: Call) -> Reply:
    """Say no in words of its own, everywhere."""
    verdict = {"isValid": False, "invalidReason": SAID, "invalidMessage": SAID}
    failed = {
        "success": False,
        "errorReason": SAID,
        "errorMessage": SAID,
        "transaction": SAID,
        "network": SAID,
    }
    return reply(
        (verdict if call.path == "/verify" else failed) | {"payer": SAID, "extensions": {SAID: SAID}}
    )


FAULTS: list[Behaviour] = [
    babbling,
    lambda call: Reply(500, SAID.encode(), "text/plain"),
    lambda call: Reply(200, f'{{"isValid": {SAID}}}'.encode()),
    lying(payer=SAID, transaction=SAID, network=SAID),
    lambda call: Reply(None),
    lambda call: Reply(307, headers=(("location", f"http://{HEADER}/"),)),
]


def signature_of(headers: dict[str, str]) -> str:
    """Return the signature that a payment carries."""
    if "authorization" in headers:
        found: str = decode(headers["authorization"].removeprefix("Payment "))["payload"]["signature"]
        return found
    return str(decoded(headers["PAYMENT-SIGNATURE"])["payload"]["signature"])


def shown(answer: Answer) -> str:
    """Return all that an answer says, with what it says in base64."""
    texts = [answer.body.decode(), *answer.headers.values()]
    for word in _BASE64.findall("\n".join(texts)):
        with contextlib.suppress(ValueError):
            raw = base64.b64decode(word + "=" * (-len(word) % 4), altchars=b"-_")
            texts.append(raw.decode("utf-8", "replace"))
    return "\n".join(texts)


def test_errors_and_the_log_tell_nothing_of_the_facilitator_the_signature_or_a_key(tmp_path: Path) -> None:
    secrets, answers = [SAID, "KEY-OF-THEIRS", HEADER, SECRET, "base.node"], []
    with ScriptedUpstream() as upstream, ScriptedFacilitator() as facilitator:
        catalog = write_catalog(tmp_path / "c", {"scripted": upstream.base_url}, [Offered("test/model")])
        environ = environ_of(
            facilitator, ROUTER_FACILITATOR_HEADERS=json.dumps({"authorization": f"Bearer {HEADER}"})
        )
        with serve(tmp_path, "--catalog", str(catalog), **environ) as serving:
            serving.read_until("ready")
            serving.drain()
            router = Process(tmp_path / "data", serving.port)
            key, _ = make_key(router)
            secrets += [facilitator.url.removeprefix("http://"), key]

            def send(way: Way, body: dict[str, object], path: str, scripts: dict[str, Behaviour]) -> None:
                payer = payer_at(facilitator)
                wait_for(lambda: offers_anew(router.request("POST", path, body)) or None, "offers", 15)
                headers = signed(router, payer, way, body, path=path)
                secrets.extend((signature_of(headers), payer.key.removeprefix("0x"), *headers.values()))
                for where, behaviour in scripts.items():
                    facilitator.on(where, behaviour, behaviour)
                answers.append(router.request("POST", path, body, headers))
                facilitator.on("/verify").on("/settle")
                answers.append(router.request("POST", path, body, headers))

            for number, fault in enumerate(FAULTS):
                send(WAYS[number % 3], WHOLE, CHAT, {"/verify": fault})
                if number < 4:
                    send(WAYS[number % 3], STREAM, CHAT, {"/settle": fault})
            send("exact", {"amount_usd": 1}, TOPUP, {"/settle": babbling})
            upstream.on("test/model", status(500, {"error": SAID}))
            send("exact", WHOLE, CHAT, {})
            answers.append(router.request("POST", CHAT, WHOLE, bearer(key)))
            answers.append(router.request("GET", f"/v1/receipts/{answers[3].headers['x-request-id']}"))
            answers.append(router.request("GET", "/metrics"))
            serving.terminate()
            serving.wait()
            assert {answer.status for answer in answers} >= {200, 402, 403, 502, 503}
            heard = {call.headers["authorization"] for call in facilitator.calls("/verify")}
            assert heard == {f"Bearer {HEADER}"}
    for secret in secrets:
        assert secret not in serving.text
        for answer in answers:
            assert secret not in shown(answer)
    assert "Traceback" not in serving.text
    for kept in (tmp_path / "data" / "decisions").glob("*.jsonl"):
        text = kept.read_text()
        assert not any(secret in text for secret in secrets)
