"""docs/payments.md, run as printed: commands in a shell, programs with the packages that they name."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tests.chain import HERE, SCRIPTS
from tests.chain.anvil import TEMPO_CHAIN_ID, Account
from tests.chain.facilitator import Facilitator
from tests.chain.parts import Parts
from tests.installed import node, node_folder, script_python
from tests.router import Answer, Offered, RouterServer, write_catalog
from tests.serving import WATCHDOG_S, Serving, bare_environment
from tests.upstream import ScriptedUpstream

DOCUMENT = (Path(__file__).parents[2] / "docs" / "payments.md").read_text()
ORIGIN = "http://127.0.0.1:8402"
CENT = 10_000
PRINTED = {"https://x402.org/facilitator", "https://sepolia.base.org", "0xYOUR_ADDRESS", ORIGIN}


def blocks(language: str) -> list[str]:
    """Return the code blocks of one language, in their order."""
    return re.findall(rf"^```{language}\n(.*?)^```", DOCUMENT, re.DOTALL | re.MULTILINE)


def programs() -> dict[str, str]:
    """Return the programs by the name in their first line."""
    found = blocks("js") + blocks("python")
    return {re.findall(r"^(?://|#) (\S+)$", text, re.MULTILINE)[0]: text for text in found}


def shell(part: str) -> str:
    """Return the commands of the only `sh` block that holds a text."""
    (found,) = [text for text in blocks("sh") if part in text]
    return found


@dataclass(frozen=True)
class Shop:
    """The router of the document, and what stands in it for the networks."""

    parts: Parts
    folder: Path
    payee: str
    serving: Serving
    places: dict[str, str]

    def local(self, text: str) -> str:
        """Put the addresses of this test into a text of the document."""
        for printed, here in self.places.items():
            text = text.replace(printed, here)
        return text

    def run(self, command: list[str], **more: str) -> str:
        """Run a command where the router was started, and return what it printed; it must succeed."""
        done = subprocess.run(
            command,
            cwd=self.folder,
            env={**environment(self.folder), **more},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=WATCHDOG_S,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def shell(self, part: str, **more: str) -> str:
        return self.run(["bash", "-euo", "pipefail", "-c", self.local(shell(part))], **more)

    def pay(self, name: str, payer: Account, *arguments: str) -> tuple[int, str, str, dict[str, Any]]:
        """Run a program of the document; return status, request id, body and the receipt, {} without one."""
        said = self.run([*interpreter(name), name, *arguments], PRIVATE_KEY=payer.key)
        first, _, rest = said.partition("\n")
        status, request_id = first.split()
        body, _, receipt = rest.rpartition("\nreceipt ")
        return int(status), request_id, body or rest, json.loads(receipt) if body else {}


def environment(folder: Path) -> dict[str, str]:
    environ = bare_environment(folder)
    environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environ['PATH']}"
    return environ


def interpreter(name: str) -> list[str]:
    """Return what runs a program: node, or the Python that has the packages which the document installs."""
    scripts = {"pay_x402.py": "pay_x402.py", "pay_mpp.py": "pay_pympp.py"}
    return [str(node())] if name.endswith(".mjs") else [str(script_python(SCRIPTS / scripts[name]))]


@pytest.fixture(scope="module")
def shop(parts: Parts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """Start the router by the document's own lines, with MPP's too."""
    folder = tmp_path_factory.mktemp("docs")
    (folder / "node_modules").symlink_to(node_folder(HERE / "node") / "node_modules")
    places = {
        "https://x402.org/facilitator": parts.facilitator.url,
        "https://sepolia.base.org": parts.chain.url,
        "0xYOUR_ADDRESS": parts.payee(),
    }
    parts.facilitator.reset()
    script = shell("ROUTER_MPP_SECRET") + shell("ROUTER_X402_PAY_TO")
    for printed, here in places.items():
        script = script.replace(printed, here)
    script = script.replace("router serve --demo", "exec router serve --demo --port 0")
    more = {"ROUTER_MPP_TEMPO_RPC": parts.tempo.url, "ROUTER_MPP_TEMPO_CHAIN_ID": str(TEMPO_CHAIN_ID)}
    with Serving(["bash", "-euc", script], folder, environment(folder) | more, 300) as serving:
        serving.read_until("router.app: ready")
        serving.drain()
        places[ORIGIN] = f"http://127.0.0.1:{serving.port}"
        made = Shop(parts, folder, places["0xYOUR_ADDRESS"], serving, places)
        for name, text in programs().items():
            (folder / name).write_text(made.local(text))
        yield made


def moved(shop: Shop, payer: Account) -> list[int]:
    transfers = shop.parts.usdc.transfers(to=shop.payee)
    return [one.value for one in transfers if one.sender == payer.address.lower()]


def test_every_place_that_a_test_puts_its_own_into_is_printed() -> None:
    assert {printed for printed in PRINTED if printed not in DOCUMENT} == set()


def test_the_banner_says_what_the_document_says(shop: Shop) -> None:
    text = shop.serving.text
    assert re.search(r"^  access +paid: .* or a wallet payment$", text, re.MULTILINE)
    assert re.search(r"^  x402 +upto and exact on Base Sepolia", text, re.MULTILINE)
    assert re.search(
        r"^  mpp +evm/charge on Base Sepolia .* tempo/charge on .* realm router.example$", text, re.MULTILINE
    )


def test_curl_shows_the_offers(shop: Shop) -> None:
    status, _, offered = shop.shell("asked.txt").partition("\n")
    assert "402" in status
    offers = json.loads(offered)["accepts"]
    assert [(offer["scheme"], offer["network"]) for offer in offers] == [
        ("upto", "eip155:84532"),
        ("exact", "eip155:84532"),
    ]
    assert {offer["payTo"] for offer in offers} == {shop.payee}
    head = (shop.folder / "asked.txt").read_text().partition("{")[0]
    assert head.lower().count("\nwww-authenticate: payment ") == 2
    assert len(head) < 4_096  # as is said of reverse proxies


@pytest.mark.parametrize("name", ["pay.mjs", "pay_x402.py", "pay_mpp.mjs", "pay_mpp.py"])
def test_each_program_pays_once_and_prints_its_receipt(shop: Shop, name: str) -> None:
    payer = shop.parts.payer(CENT)
    status, request_id, body, receipt = shop.pay(name, payer)
    assert status == 200, body
    (taken,) = moved(shop, payer)
    assert Decimal(str(json.loads(body)["usage"]["cost"])) * 1_000_000 == taken
    assert receipt.get("success", receipt.get("status")) in (True, "success")
    told = json.loads(shop.shell("/v1/receipts/", REQUEST_ID=request_id))
    assert (told["request_id"], told["payment"]["state"]) == (request_id, "settled")
    assert told["payment"]["taken"] == str(taken)
    if name != "pay.mjs":  # all but upto take the quote, and say what was used of it
        assert told["payment"]["metered_usd"] < told["payment"]["taken_usd"]


def test_a_stream_that_upto_pays_has_its_receipt_in_a_comment(shop: Shop) -> None:
    payer = shop.parts.payer(CENT)
    body = {"model": "auto", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 50}
    status, _, text, receipt = shop.pay(
        "pay.mjs", payer, "/v1/chat/completions", json.dumps(body | {"stream": True})
    )
    assert (status, receipt, len(moved(shop, payer))) == (200, {}, 1)
    assert re.search(r"^: payment-response \S+$\n\ndata: \[DONE\]", text, re.MULTILINE)


def test_credit_is_bought_as_printed(shop: Shop) -> None:
    payer = shop.parts.payer(100 * CENT)
    _, path, wish = shell("topup").replace("node pay.mjs", "pay.mjs").split(maxsplit=2)
    status, _, body, _ = shop.pay("pay.mjs", payer, path, wish.strip().strip("'"))
    assert status == 200, body
    bought = json.loads(body)
    assert (bought["key"][:3], bought["balance_usd"]) == ("rk_", 0.5)
    assert moved(shop, payer) == [50 * CENT]


def test_the_operators_commands_run(shop: Shop) -> None:
    payer = shop.parts.payer(CENT)
    shop.pay("pay_x402.py", payer)
    said = shop.shell("router ledger payments\n")
    assert "Everything that was served is paid" in said
    assert f"\n  x402 exact of payer:eip155:84532:{payer.address.lower()}: served 0." in said
    assert "Every balance follows from the rows" in said


def test_a_router_buys_by_the_printed_provider(
    shop: Shop, parts: Parts, facilitator: Facilitator, tmp_path: Path
) -> None:
    (provider,) = blocks("toml")
    payer = parts.payer(CENT)
    with ScriptedUpstream() as upstream:
        catalog = write_catalog(tmp_path / "catalog", {"scripted": upstream.base_url}, [])
        (catalog / "providers" / "scripted.toml").unlink()
        file = provider.replace("https://router.example", shop.places[ORIGIN])
        (catalog / "providers" / "seller.toml").write_text(file.replace("0xTHEIR_ADDRESS", shop.payee))
        model = Offered("test/model", provider="seller", upstream="demo/small", price=(1.0, 1.0))
        write_catalog(catalog, {}, [model])
        with RouterServer(catalog, tmp_path / "data", wallet_key=payer.key) as buyer:
            got: Answer = buyer.chat("Say hello", max_tokens=50)
            assert got.status == 200, got.body
            assert json.loads(buyer.request("GET", "/wallet").body)["payments"][0]["state"] == "spent"
    assert len(moved(shop, payer)) == 1


def test_the_wallet_is_made_as_printed(shop: Shop) -> None:
    said = shop.shell("router wallet --make")
    assert re.search(r"^address   0x[0-9a-fA-F]{40}$", said, re.MULTILINE)
    key = shop.folder / ".router" / "wallet.key"
    assert key.stat().st_mode & 0o777 == 0o600
    assert said == shop.shell("router wallet --make")
