"""A router that could never settle does not start; one whose facilitator is away starts, and offers later."""

from __future__ import annotations

from pathlib import Path

import pytest

from router.access.assets import BASE, USDC
from tests.facilitator import ScriptedFacilitator, html, says, status
from tests.paying import (
    CHAT,
    PAYEE,
    SECRET,
    Process,
    environ_of,
    offers_anew,
    offers_nothing,
    payer_at,
    signed,
)
from tests.router import Offered, write_catalog
from tests.service.walking import question, wait_for
from tests.serving import run_router, serve
from tests.upstream import ScriptedUpstream

BODY = question(max_tokens=50)
NOBODY = "http://127.0.0.1:9"


def refusal(folder: Path, **environ: str) -> str:
    """Return the one line with which `router serve` ends."""
    ended = run_router(folder, "serve", "--port", "0", "--data", "data", "--demo", **environ)
    assert ended.returncode == 1, ended.stdout + ended.stderr
    assert "Traceback" not in ended.stderr
    lines = [line for line in ended.stderr.splitlines() if line.strip()]
    assert len(lines) == 1, ended.stderr
    return lines[0]


@pytest.mark.parametrize(
    ("facilitator", "environ", "words"),
    [
        ({"schemes": ("exact",)}, {}, "ROUTER_X402_SCHEMES=exact"),
        ({"schemes": ("upto",)}, {}, "ROUTER_X402_SCHEMES=upto"),
        ({"schemes": ()}, {}, "ROUTER_X402_NETWORK"),
        ({"assets": (USDC[BASE],)}, {}, "ROUTER_X402_NETWORK"),
        ({"schemes": ("upto",)}, {"ROUTER_X402_PAY_TO": "", "ROUTER_MPP_PAY_TO": PAYEE}, "exact"),
    ],
    ids=["no upto", "no exact", "no scheme", "another network", "MPP alone"],
)
def test_a_facilitator_that_lacks_what_is_sold_ends_it_in_one_line(
    tmp_path: Path, facilitator: dict[str, object], environ: dict[str, str], words: str
) -> None:
    with ScriptedFacilitator(**facilitator) as facing:  # type: ignore[arg-type]
        line = refusal(tmp_path, **environ_of(facing) | environ)
    assert words in line
    assert "ROUTER_X402_FACILITATOR" in line
    assert facing.url not in line


X402 = {"X402_PAY_TO": PAYEE, "X402_FACILITATOR": NOBODY}
MPP = {"MPP_SECRET": SECRET}
NOT_WHOLE: dict[str, tuple[dict[str, str], str]] = {
    "no facilitator": ({"X402_PAY_TO": PAYEE}, "ROUTER_X402_FACILITATOR"),
    "no address": (X402 | {"X402_PAY_TO": "0x12"}, "40 hexadecimal digits"),
    "not https": (X402 | {"X402_FACILITATOR": "http://example.org"}, "https://"),
    "no network": (X402 | {"X402_NETWORK": "base"}, "eip155:8453"),
    "unknown token": (X402 | {"X402_NETWORK": "eip155:5"}, "ROUTER_X402_ASSET"),
    "unknown scheme": (X402 | {"X402_SCHEMES": "free"}, "upto,exact"),
    "headers": (X402 | {"FACILITATOR_HEADERS": "Bearer super-secret"}, "JSON object"),
    "short secret": (X402 | {"MPP_SECRET": "short-secret"}, "32 bytes"),
    "no payee": (MPP, "ROUTER_MPP_PAY_TO"),
    "no method": (MPP | {"MPP_PAY_TO": PAYEE}, "ROUTER_MPP_METHODS"),
    "realm": (X402 | MPP | {"MPP_REALM": 'a"b'}, "realm"),
}


@pytest.mark.parametrize("name", NOT_WHOLE)
def test_settings_that_are_not_whole_end_it_with_the_fix(tmp_path: Path, name: str) -> None:
    wrong, words = NOT_WHOLE[name]
    environ = {f"ROUTER_{setting}": value for setting, value in wrong.items()}
    ended = run_router(tmp_path, "serve", "--port", "0", "--data", "data", "--demo", **environ)
    assert ended.returncode == 1, ended.stdout + ended.stderr
    assert words in ended.stderr
    for secret in (SECRET, "short-secret", "super-secret"):
        assert secret not in ended.stderr + ended.stdout
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("fault", ["down", "500", "page", "no listing"])
def test_a_facilitator_that_is_away_is_warned_of_and_offers_begin_when_it_is_back(
    tmp_path: Path, fault: str
) -> None:
    with ScriptedUpstream() as upstream, ScriptedFacilitator() as facilitator:
        catalog = write_catalog(tmp_path / "c", {"scripted": upstream.base_url}, [Offered("test/model")])
        if fault == "down":
            facilitator.down()
        else:
            bad = {"500": status(500), "page": html(), "no listing": says({"kinds": "none"})}[fault]
            facilitator.on("/supported", bad, bad)
        with serve(tmp_path, "--catalog", str(catalog), **environ_of(facilitator)) as serving:
            serving.read_until("nothing is offered until it answers")
            serving.read_until("ready")
            router = Process(tmp_path / "data", serving.port)
            if fault == "down":
                early = router.request("POST", CHAT, BODY)
                assert (early.status, early.error["name"]) == (503, "payments_unavailable")
                assert offers_nothing(early)
                facilitator.up()
            wait_for(lambda: offers_anew(router.request("POST", CHAT, BODY)) or None, "an offer", 15)
            headers = signed(router, payer_at(facilitator), "upto", BODY)
            assert router.request("POST", CHAT, BODY, headers).status == 200
            serving.terminate()
            serving.wait()
            assert facilitator.url not in serving.text
