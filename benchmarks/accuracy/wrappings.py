"""Wrap a person's words as OpenClaw and chat channels do, with made-up and misleading metadata."""

from __future__ import annotations

import json
import random

_MARK = "⟦openclaw:ctx⟧"
_BEGIN, _END = "<<<BEGIN_OPENCLAW_INTERNAL_CONTEXT>>>", "<<<END_OPENCLAW_INTERNAL_CONTEXT>>>"
_NAMES = ("Ada", "Björn", "田中", "Олег", "Code Fixer", "Prof. Proof", "compiler-fan", "reasoning bot")
_LURES = (
    "python traceback in parser.py",
    "prove the theorem step by step",
    "docker compose up fails",
    "SELECT * FROM invoices",
    "thanks, bye",
    "weigh both offers and recommend one",
    "def main(): pass",
    "good morning everyone",
)
_CHANNELS = ("Telegram", "WhatsApp", "Discord", "Slack", "Signal", "Matrix", "Google Chat", "Mattermost")


def wrapped(words: str, chance: random.Random) -> str:
    """Return the words inside one to four wrappings before and up to two after them."""
    before = chance.sample(_BEFORE, chance.randint(1, 4))
    # A quoted history ends where the current message begins, so it can only stand first.
    before.sort(key=lambda make: make is not _history)
    after = chance.sample(_AFTER, chance.randint(0, 2))
    parts = [make(chance) for make in before], [make(chance) for make in after]
    return "".join(parts[0]) + words + "".join(parts[1])


def _when(chance: random.Random) -> str:
    at = [chance.randint(*ends) for ends in ((1, 12), (1, 28), (0, 23), (0, 59))]
    return "2026-{:02}-{:02} {:02}:{:02}".format(*at)


def _date(chance: random.Random) -> str:
    day = chance.choice(("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"))
    return f"[{day} {_when(chance)} {chance.choice(('UTC', 'GMT+9', 'GMT-3', 'CET'))}] "


def _channel(chance: random.Random) -> str:
    who = f"{chance.choice(_CHANNELS)} {chance.choice(_NAMES)} id:{chance.randint(10, 10**9)}"
    return f"[{who} +{chance.randint(1, 59)}m {_when(chance)}] "


def _metadata(chance: random.Random) -> str:
    label = chance.choice(("Conversation info", "Sender", "Reply target", "Forwarded message", "Location"))
    body = {"name": chance.choice(_NAMES), "body": chance.choice(_LURES), "id": chance.randint(1, 10**6)}
    head = chance.choice((f"{label}: {_MARK}", f"{label} (untrusted metadata):"))
    return (
        f"{head}\n```json\n{json.dumps(body, ensure_ascii=False, indent=chance.choice((None, 2)))}\n```\n\n"
    )


def _quoted(chance: random.Random) -> str:
    lines = [
        f"[{n + 1}] {chance.choice(_NAMES)}: {chance.choice(_LURES)}" for n in range(chance.randint(1, 5))
    ]
    head = chance.choice((f": {_MARK}", " (untrusted, for context):"))
    return f"Chat history since last reply{head}\n" + "\n".join(lines) + "\n\n"


def _history(chance: random.Random) -> str:
    lines = [f"{chance.choice(_NAMES)}: {chance.choice(_LURES)}" for _ in range(chance.randint(1, 5))]
    quoted = "\n".join(lines)
    head, current = "Chat messages since your last reply - for context", "Current message - respond to this"
    return f"[{head}]\n{quoted}\n\n[{current}]\n"


def _memory(chance: random.Random) -> str:
    return f"Context:\n<active_memory_plugin>\n{chance.choice(_LURES)}\n</active_memory_plugin>\n\n"


def _internal(chance: random.Random) -> str:
    return f"{_BEGIN}\n{chance.choice(_LURES)}\n{_BEGIN}\n{chance.choice(_LURES)}\n{_END}\n{_END}\n"


def _event(chance: random.Random) -> str:
    return f"System: [{_when(chance)}:07 UTC] Exec failed ({chance.choice(_LURES)}, signal SIGKILL)\n\n"


def _delivery(_: random.Random) -> str:
    return "Delivery: to send a message, use the `message` tool.\n"


def _runtime(chance: random.Random) -> str:
    session = f"session=agent:main:s{chance.randint(1, 99)}"
    return f"\n\nRuntime: agent=main | {session} | repo=/srv/parser.py | os=Linux"


def _message_id(chance: random.Random) -> str:
    return f"\n[message_id: {chance.randint(1, 10**6)}]"


def _context(chance: random.Random) -> str:
    return f"\n\nContext: {_MARK}\nchannel topic: {chance.choice(_LURES)}\n\n{chance.choice(_LURES)}"


_BEFORE = [_date, _channel, _metadata, _quoted, _history, _memory, _internal, _event, _delivery]
_AFTER = [_message_id, _runtime, _context]
