"""What each client needs in its settings: templates, filled with a router's address and a key."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

import click
import yaml

from router.cli.init_json import Json
from router.cli.init_merge import Form, merged, value_at
from router.cli.init_toml import Toml
from router.cli.init_yaml import Env, Yaml

UNUSED_KEY = "unused"
# What is set where the router cannot be asked, and the most that is set: all of an answer's bound is held,
# and a client with a huge window never compacts, so that each request gets dearer.
CONTEXT_TOKENS = 128_000
OUTPUT_TOKENS = 8_192

_FORMS: Mapping[str, Form] = {"json": Json(), "yaml": Yaml(), "env": Env(), "toml": Toml()}
_SAFE = re.compile(r"[!-~]+")
_UNSAFE = re.compile(r"[\"'\\#$`{}<>]")


@dataclass(frozen=True)
class Values:
    """What the templates are filled with; `origin` has no path."""

    origin: str
    key: str = UNUSED_KEY
    context: int = CONTEXT_TOKENS
    max_output: int = OUTPUT_TOKENS

    def __post_init__(self) -> None:
        for text in (self.origin, self.key):
            if _SAFE.fullmatch(text) is None or _UNSAFE.search(text):
                raise ValueError(f"{text!r} holds characters that no address and no API key has")


@dataclass(frozen=True)
class ClientFile:
    """One file of a client's settings."""

    template: str
    form: str
    paths: tuple[str, ...]
    keep: tuple[str, ...] = ()
    key: tuple[str, ...] = ()

    def path(self, environ: Mapping[str, str]) -> Path:
        """Return where the client reads it: the first place whose variables are all set."""
        for template in self.paths:
            try:
                return Path(Template(template).substitute({k: v for k, v in environ.items() if v}))
            except KeyError:
                continue
        raise ValueError(f"none of {', '.join(self.paths)} is set: name the file with --file")

    def rendered(self, values: Values) -> str:
        """Return the text for a file that has nothing else."""
        text = files("router.cli").joinpath("clients", self.template).read_text("utf-8")
        named = {"base_url": f"{values.origin}/v1", "origin": values.origin, "key": values.key}
        return Template(text).substitute(named, context=values.context, max_output=values.max_output)

    def merged(self, text: str, values: Values) -> str:
        """Return the user's text with ours in it; raises CannotMerge."""
        if not text.strip():
            return self.rendered(values)
        form = _FORMS[self.form]
        wanted = self._decoded(self.rendered(values))
        if isinstance(wanted, dict):
            there = value_at(text, (), form)
            kept = [name for name in self.keep if isinstance(there, dict) and name in there]
            wanted = {name: value for name, value in wanted.items() if name not in kept}
        if "\r\n" in text:
            return merged(text.replace("\r\n", "\n"), wanted, form).replace("\n", "\r\n")
        return merged(text, wanted, form)

    def key_in(self, text: str) -> str | None:
        """Return the key that the user's text has for a router; raises CannotMerge."""
        found = value_at(text, (), _FORMS[self.form]) if self.key and text.strip() else None
        for step in self.key:
            if isinstance(found, list):  # of mappings, by their names
                found = next((x for x in found if isinstance(x, dict) and x.get("name") == step), None)
            else:
                found = found.get(step) if isinstance(found, dict) else None
        return found if isinstance(found, str) else None

    def _decoded(self, text: str) -> Any:
        if self.form == "yaml":
            return yaml.safe_load(text)
        if self.form == "toml":
            return tomllib.loads(text)
        return json.loads(text) if self.form == "json" else value_at(text, (), _FORMS["env"])


@dataclass(frozen=True)
class Client:
    """A program that can use the router."""

    name: str
    title: str
    files: tuple[ClientFile, ...]
    next: str


@cache
def clients() -> Mapping[str, Client]:
    """Return the clients by name, as `clients/clients.toml` lists them."""
    table = tomllib.loads(files("router.cli").joinpath("clients", "clients.toml").read_text("utf-8"))
    return {
        name: Client(
            name,
            entry["title"],
            tuple(
                ClientFile(
                    file["template"],
                    file["form"],
                    tuple(file["paths"]),
                    tuple(file.get("keep", ())),
                    tuple(file.get("key", ())),
                )
                for file in entry.get("files", ())
            ),
            entry.get("next", "").strip(),
        )
        for name, entry in table.items()
    }


def places(environ: Mapping[str, str], home: Path) -> dict[str, str]:
    """Return the variables of the clients' paths, with those that are always set."""
    always = {
        "HOME": str(home),
        "CONFIG_HOME": environ.get("XDG_CONFIG_HOME") or str(home / ".config"),
        "LLM_HOME": click.get_app_dir("io.datasette.llm"),
    }
    return {**environ, **always}
