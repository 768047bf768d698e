"""What the flight journal costs: `python -m benchmarks.journal`.

An event is the note of a stream's next token, at 64 streams in turn; a flight is the begin and the end of a
whole answer, whose bill is known. Best of the rounds, in nanoseconds of the calling thread.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from benchmarks.machine import surroundings
from router.ledger.journal import Journal, Tariff

STREAMS = 64
MODEL, PROVIDER = "deepseek/deepseek-v3.2", "novita"


def event_ns(journal: Journal, events: int) -> float:
    """Note events of streams in turn, less the loop around it."""
    tariff = Tariff(150, 30_000_000, 400_000, 1_100_000, 1_000_000, 27_000_000, 360_000)
    flights = [journal.begin(f"req_{n:031d}", MODEL, PROVIDER, tariff, 1) for n in range(STREAMS)]
    rounds = [flights] * (events // STREAMS)
    began_s = time.thread_time()
    for one in rounds:
        for _ in one:
            pass
    between_s = time.thread_time()
    for tokens, one in enumerate(rounds):
        for flight in one:
            flight.delivered(tokens)
    noted_s = time.thread_time() - between_s - (between_s - began_s)
    for n in range(STREAMS):
        journal.end(f"req_{n:031d}")
    return noted_s / (len(rounds) * STREAMS) * 1e9


def flight_ns(journal: Journal, flights: int) -> float:
    """Note whole answers, one after another."""
    names = [f"req_{n:031d}" for n in range(flights)]
    began_s = time.thread_time()
    for name in names:
        journal.begin(name, MODEL, PROVIDER, Tariff.of_bill(150, 90_000, 81_000), 130)
        journal.end(name)
    return (time.thread_time() - began_s) / flights * 1e9


def main() -> None:
    """Print both figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    told = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        journal = Journal(Path(made) / "bench.flights")
        events = [event_ns(journal, 256_000) for _ in range(told.rounds)]
        flights = [flight_ns(journal, 50_000) for _ in range(told.rounds)]
        journal.close()
        machine = surroundings(Path(made))
    print(f"{machine['machine']['cpu']}, Python {machine['python']}, {machine['commit']}")
    print(f"an event {min(events):.0f} ns, a flight {min(flights):.0f} ns")


if __name__ == "__main__":
    main()
