"""The paying clients that nobody here wrote, each as one command: a task goes in, what it saw comes out."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.chain import HERE, SCRIPTS
from tests.chain.anvil import EVM_CHAIN_ID, PATH_USD, TEMPO_CHAIN_ID, USDC, Account, Chain
from tests.chain.catcher import Catcher, Signed
from tests.installed import node, node_folder, script_python

PAY_S = 120.0
_EVM = {"chain_id": EVM_CHAIN_ID, "currency": USDC, "name": "USDC", "version": "2", "decimals": 6}
_TEMPO = {"method": "tempo", "chain_id": TEMPO_CHAIN_ID, "currency": PATH_USD}


@dataclass(frozen=True)
class Client:
    """A client of the matrix: its script, its folder of npm packages (None: Python), and what it is told."""

    name: str
    script: str
    packages: str | None
    pays: str  # "exact", "upto", "evm" or "tempo"
    task: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.name


CLIENTS = [
    Client("fetch-exact", "pay_x402.mjs", "node", "exact", {"schemes": ["exact"]}),
    Client("fetch-upto", "pay_x402.mjs", "node", "upto", {"schemes": ["upto"]}),
    Client("fetch-2.7.0-exact", "pay_x402_earlier.mjs", "node_earlier", "exact"),
    Client("python-exact", "pay_x402.py", None, "exact", {"schemes": ["exact"]}),
    Client("python-upto", "pay_x402.py", None, "upto", {"schemes": ["upto"]}),
    Client("mppx-evm", "pay_mppx_evm.mjs", "node", "evm", _EVM),
    Client("pympp-evm", "pay_pympp.py", None, "evm", {"method": "evm", **_EVM}),
    Client(
        "mppx-0.5.12-tempo-pull", "pay_mppx_tempo.mjs", "node_earlier", "tempo", {**_TEMPO, "mode": "pull"}
    ),
    Client(
        "mppx-0.5.12-tempo-push", "pay_mppx_tempo.mjs", "node_earlier", "tempo", {**_TEMPO, "mode": "push"}
    ),
    Client("pympp-tempo", "pay_pympp.py", None, "tempo", _TEMPO),
]
OPENAI_EXACT = Client("openai-exact", "pay_openai.mjs", "node", "exact", {"schemes": ["exact"]})
OPENAI_UPTO = Client("openai-upto", "pay_openai.mjs", "node", "upto", {"schemes": ["upto"]})


@dataclass(frozen=True)
class Outcome:
    """What a client saw at its end, and the payment headers of every request that it sent."""

    status: int
    headers: dict[str, str]
    body: str
    error: str | None
    sent: list[dict[str, str]]

    @property
    def receipt(self) -> dict[str, Any] | None:
        """Return the receipt of the answer's headers, decoded."""
        said = self.headers.get("payment-response") or self.headers.get("payment-receipt")
        return None if said is None else decoded(said)

    @property
    def stream_receipt(self) -> dict[str, Any] | None:
        """Return the receipt of the stream's comment, decoded."""
        mark = ": payment-response "
        said = [line.removeprefix(mark) for line in self.body.splitlines() if line.startswith(mark)]
        return decoded(said[-1]) if said else None

    @property
    def credentials(self) -> list[dict[str, Any]]:
        """Return every payment that was sent, decoded, in order."""
        said = [value for sent in self.sent for value in sent.values()]
        return [decoded(value.removeprefix("Payment ")) for value in said if not value.startswith("Bearer ")]

    @property
    def chunks(self) -> list[Any]:
        """Return the events of the stream; the last is the text `[DONE]`."""
        said = [line.removeprefix("data: ") for line in self.body.splitlines() if line.startswith("data: ")]
        return [text if text == "[DONE]" else json.loads(text) for text in said]


class Clients:
    """Run them; the packages of each are installed when it is first asked for. Call `close` at the end."""

    def __init__(self, chain: Chain, tempo: Chain) -> None:
        """Name the chains, whose addresses the clients are told."""
        self._rpc = {"upto": chain.url, "tempo": tempo.url}
        self._folders: dict[str, Path] = {}

    def close(self) -> None:
        """Remove what was put together for node."""
        for folder in self._folders.values():
            shutil.rmtree(folder)

    def pay(self, client: Client, url: str, payer: Account, body: dict[str, Any], **more: Any) -> Outcome:
        """Send the body with a client that pays when asked to; `more` goes into its task (`headers`, ...)."""
        task = {"url": url, "key": payer.key, "body": body, **client.task, **more}
        if client.pays in self._rpc:
            task["rpc"] = self._rpc[client.pays]
        done = subprocess.run(
            self._command(client),
            input=json.dumps(task),
            env={"PATH": os.environ["PATH"], "NODE_NO_WARNINGS": "1"},
            capture_output=True,
            text=True,
            timeout=PAY_S,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return Outcome(**json.loads(done.stdout.splitlines()[-1]))

    def sign(self, client: Client, url: str, payer: Account, body: dict[str, Any], **more: Any) -> Signed:
        """Return the payment that a client makes for this request, unused (but `mode="push"` has paid)."""
        with Catcher(url) as catcher:
            seen = self.pay(client, catcher.url, payer, body, **more)
        assert catcher.caught is not None, seen
        return catcher.caught

    def _command(self, client: Client) -> list[str]:
        script = SCRIPTS / client.script
        if client.packages is None:
            return [str(script_python(script)), str(script)]
        return self.node(client.script, packages=client.packages)

    def node(self, script: str, *arguments: str, packages: str = "node") -> list[str]:
        """Return the command that runs one of our scripts beside those packages."""
        if packages not in self._folders:
            self._folders[packages] = _beside(node_folder(HERE / packages))
        return [str(node()), str(self._folders[packages] / script), *arguments]


def decoded(said: str) -> dict[str, Any]:
    """Decode a payment header: base64 of either alphabet, padded or not, of a JSON object."""
    text = said.translate(str.maketrans("-_", "+/"))
    found = json.loads(base64.b64decode(text + "=" * (-len(text) % 4)))
    assert isinstance(found, dict)
    return found


def _beside(packages: Path) -> Path:
    """Return a folder with our scripts beside these packages: node looks for them from the script upwards."""
    folder = Path(tempfile.mkdtemp(prefix="clients-"))
    for script in SCRIPTS.glob("*.mjs"):
        shutil.copy(script, folder)
    (folder / "node_modules").symlink_to(packages / "node_modules")
    return folder
