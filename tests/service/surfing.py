"""A browser of the tests that need no real one: cookies, forms, where it is sent, what a page says."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlencode

from tests.router import Answer, RouterServer


@dataclass
class Surfer:
    """A browser: it keeps cookies, sends its origin with forms, and follows to where it is sent."""

    router: RouterServer
    cookies: dict[str, str] = field(default_factory=dict)

    def get(self, path: str) -> Answer:
        return self._ask("GET", path, None, {})

    def send(self, path: str, fields: Mapping[str, str], **headers: str) -> Answer:
        sent = {"content-type": "application/x-www-form-urlencoded", "origin": self.router.origin, **headers}
        return self._ask("POST", path, urlencode(fields).encode(), sent)

    def fill(self, page: str, action: str, fields: Mapping[str, str]) -> Answer:
        """Open a page, fill in its form and send it."""
        return self.send(action, {**self.form(page, action), **fields})

    def form(self, page: str, action: str) -> dict[str, str]:
        """Return what the form of a page would send as it is."""
        text = self.get(page).body.decode()
        [form] = re.findall(rf'(?s)<form[^>]*action="{re.escape(action)}".*?</form>', text)
        found = {}
        for name, value in re.findall(r'<input[^>]*name="([^"]+)"[^>]*?value="([^"]*)"', form):
            found[name] = html.unescape(value)
        for name, value in re.findall(r'(?s)<textarea[^>]*name="([^"]+)"[^>]*>(.*?)</textarea>', form):
            found[name] = html.unescape(value)
        return found

    def sign_in(self, key: str) -> Answer:
        return self.send("/ui/sign-in", {"key": key, "next": "/ui"})

    def seen(self, path: str) -> str:
        """Return what a page says, without its tags."""
        got = self.get(path)
        assert got.status == 200, got.body
        return said(got)

    def make(self, name: str = "ann", **fields: str) -> tuple[str, str]:
        """Make a key by the form; returns its text and id."""
        return made(self.fill("/ui/account/new", "/ui/account/new", {"name": name, **fields}))

    def _ask(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> Answer:
        cookie = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        got = self.router.request(method, path, body, {**headers, **({"cookie": cookie} if cookie else {})})
        if "set-cookie" in got.headers:
            name, _, value = got.headers["set-cookie"].partition(";")[0].partition("=")
            self.cookies[name] = value
        return got


def said(got: Answer) -> str:
    body = re.sub(r"(?s)<(script|title)\b.*?</\1>", " ", got.body.decode())
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", body)).split())


def made(got: Answer) -> tuple[str, str]:
    assert got.status == 200, said(got)
    text = re.search(r"rk_[0-9A-Za-z]{49}", got.body.decode())
    key_id = re.search(r"/ui/account/keys/(key_[0-9a-f]{16})", got.body.decode())
    assert text is not None
    assert key_id is not None
    return text[0], key_id[1]
