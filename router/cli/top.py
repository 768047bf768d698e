"""`router top`: a running router, seen live in a terminal."""

from __future__ import annotations

import errno
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from router.address import origin_at
from router.cli.options import config_option, data_option, settings_of
from router.cli.scrape import Between, Scrape, Unreachable, scrape
from router.cli.terminal import HANG_UP, ended_by_signals, keys

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from router.settings import Settings
    from router.telemetry.decision_files import Follower

WINDOW_S = 30.0
RECENT = 12
MODELS = 15
NUSD_PER_USD = 1e9


@click.command()
@click.option("--address", help="The router; default http://127.0.0.1:8402, or as the settings say.")
@click.option(
    "--every", type=click.FloatRange(0.1, 60), default=1.0, show_default=True, help="Seconds between updates."
)
@click.option(
    "--once", is_flag=True, help="Print one view and exit; the default where the output is no terminal."
)
@data_option
@config_option
def top(address: str | None, every: float, once: bool, data: Path | None, config: Path | None) -> None:
    """Show a running router live; q quits.

    Requests, models, times, money, resting offers. Rates and times are those of the last half minute. Recent
    requests are read from the decision log in --data, so they are shown on the router's own machine only.
    """
    from rich.console import Console

    settings = settings_of(config, data=data)
    view = _View(address or origin_at(settings.host, settings.port), settings, time.monotonic)
    try:
        with closing(view):
            view.look()
            if once or not sys.stdout.isatty():
                time.sleep(every)
                view.look()
                Console().print(view.drawn())
                return
            _live(view, every)
    except Unreachable as fault:
        raise click.ClickException(str(fault)) from None


def _live(view: _View, every_s: float) -> None:
    try:
        with suppress(KeyboardInterrupt), ended_by_signals():
            _draw_until_q(view, every_s)
    except OSError as fault:
        if fault.errno != errno.EIO:
            raise
        raise SystemExit(HANG_UP) from None  # the terminal is gone, and nobody to tell


def _draw_until_q(view: _View, every_s: float) -> None:
    from rich.live import Live

    with keys() as pressed, Live(screen=True, auto_refresh=False) as live:
        while True:
            live.update(view.drawn(), refresh=True)
            if pressed(every_s, b"q"):
                return
            try:
                view.look()
            except Unreachable as fault:  # it may be starting again
                view.trouble = str(fault)


class _View:
    """The last readings, and how they are shown."""

    def __init__(self, address: str, settings: Settings, monotonic: Callable[[], float]) -> None:
        self.address = address
        self.trouble = ""
        self._monotonic = monotonic
        self._scrapes: deque[Scrape] = deque()
        self._log = settings.data
        self._recent: deque[bytes] = deque(maxlen=RECENT)
        self._follower: Follower | None = None

    def look(self) -> None:
        """Read the metrics and the log. Raises Unreachable."""
        from router.telemetry.decision_files import Follower
        from router.telemetry.decisions import FOLDER

        now_s = self._monotonic()
        self._scrapes.append(scrape(self.address, now_s))
        self.trouble = ""
        while len(self._scrapes) > 2 and self._scrapes[1].at_s < now_s - WINDOW_S:
            self._scrapes.popleft()
        if self._follower is None:
            self._follower = Follower(self._log / FOLDER)
            self._recent.extend(self._follower.last(RECENT)[-RECENT:])
        else:
            self._recent.extend(self._follower.poll())

    def close(self) -> None:
        """Close the log."""
        if self._follower is not None:
            self._follower.close()

    def drawn(self) -> RenderableType:
        """Return the view."""
        from rich.console import Group
        from rich.text import Text

        seen = Between(self._scrapes[0], self._scrapes[-1])
        parts: list[RenderableType] = [_head(self.address, seen)]
        if self.trouble:
            parts.append(Text(self.trouble, style="bold red"))
        parts += [_figures(seen), _models(seen), *_resting(seen.new), *_recent(self._recent, self._log)]
        return Group(*parts)


def _head(address: str, seen: Between) -> RenderableType:
    from rich.text import Text

    version = next(iter(seen.new.values("router_build_info", "version")), "?")
    line = Text.assemble(("router ", "bold"), version, f" at {address}  ")
    line.append(f"catalog since {_age(seen.new.sum('router_catalog_age_seconds'))}, ", "dim")
    line.append(f"{seen.new.sum('router_catalog_offers'):.0f} offers; ", "dim")
    line.append(f"last {seen.seconds:.0f} s", "dim")
    if alerts := int(seen.new.sum("router_alerts")):
        line.append(f"  {alerts} need the operator: the log names them", "bold red")
    if seen.new.sum("router_catalog_rejected"):
        line.append("  the edited catalog is rejected: router catalog check", "bold red")
    return line


def _figures(seen: Between) -> Table:
    from rich.table import Table

    requests = seen.grown("router_requests_total")
    success = _success(seen)
    saved = seen.rate("router_saved_nusd_total") - seen.rate("router_overspent_nusd_total")
    table = Table.grid(padding=(0, 2))  # eighty columns must do
    table.add_row(
        f"[bold]{requests / seen.seconds:.1f}[/] requests/s",
        f"[bold]{success:.1%}[/] success" if success is not None else "[dim]none ended[/]",
        f"[bold]{seen.new.sum('router_inflight'):.0f}[/] in progress",
        f"[bold]{seen.new.sum('router_waiting'):.0f}[/] waiting",
        f"[bold]{_usd(seen.new.sum('router_ledger_held_nusd'))}[/] USD held",
    )
    table.add_row(
        f"charged [bold]{_usd(seen.rate('router_cost_nusd_total') * 3600)}[/]",
        f"upstream [bold]{_usd(seen.rate('router_upstream_cost_nusd_total') * 3600)}[/]",
        f"saved [bold]{_usd(saved * 3600)}[/]",
        "USD an hour",
        f"[bold]{_usd(seen.new.sum('router_cost_nusd_total'))}[/] USD in all",
    )
    # Where nothing ended in the last half minute, the times are those of all requests before.
    times = seen if seen.grown("router_request_seconds_count") else Between(Scrape(0.0, {}), seen.new)
    in_all = f"[bold]{seen.new.sum('router_requests_total'):,.0f}[/] requests in all"
    for title, name, beside in (
        ("whole", "router_request_seconds", in_all),
        ("first piece", "router_time_to_first_token_seconds", ""),
        ("router's own", "router_overhead_seconds", ""),
    ):
        table.add_row(
            f"[dim]{title}[/]",
            *(
                f"p{share:.0%}".rstrip("%") + f" [bold]{_time(times.quantile(share, name))}[/]"
                for share in (0.5, 0.95, 0.99)
            ),
            beside,
        )
    return table


def _success(seen: Between, **labels: str) -> float | None:
    """Return the share that was served of all that should have been, None of nothing."""
    from router.history.record import group_of

    name = "router_requests_total"
    sums = Counter[str]()
    for outcome in seen.new.values(name, "outcome"):
        sums[group_of(outcome)] += int(seen.grown(name, outcome=outcome, **labels))
    counted = sums["served"] + sums["failed"]
    return sums["served"] / counted if counted else None


def _models(seen: Between) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("model", overflow="fold")
    for title in ("req/s", "success", "runs", "tok/s", "USD/h", "requests", "USD"):
        table.add_column(title, justify="right", no_wrap=True)
    models = seen.new.values("router_requests_total", "model") | seen.new.values("router_inflight", "model")
    ranked = sorted(models - {"none"}, key=lambda m: (-seen.new.sum("router_requests_total", model=m), m))
    for model in ranked[:MODELS]:
        requests = seen.grown("router_requests_total", model=model)
        success = _success(seen, model=model)
        table.add_row(
            model,
            f"{requests / seen.seconds:.1f}",
            "" if success is None else f"{success:.0%}",
            f"{seen.new.sum('router_inflight', model=model):.0f}",
            f"{seen.rate('router_tokens_total', model=model):,.0f}",
            _usd(seen.rate("router_cost_nusd_total", model=model) * 3600),
            f"{seen.new.sum('router_requests_total', model=model):,.0f}",
            _usd(seen.new.sum("router_cost_nusd_total", model=model)),
        )
    return table


def _resting(now: Scrape) -> Iterator[RenderableType]:
    from rich.text import Text

    names = [f"{o['model']} at {o['provider']} ({o['state']})" for o in now.samples("router_breaker_open")]
    if names:
        yield Text(f"resting after failures: {', '.join(sorted(names))}", style="yellow")


def _recent(lines: deque[bytes], data: Path) -> Iterator[RenderableType]:
    import msgspec
    from rich.text import Text

    from router.cli.logs import in_words
    from router.routing.recorded import DecisionLine

    if not lines:
        yield Text(f"no requests in the decision log of {data}; --data names another folder", style="dim")
    for raw in lines:
        with suppress(msgspec.DecodeError, UnicodeDecodeError):  # what another version wrote
            yield Text(
                in_words(msgspec.json.decode(raw, type=DecisionLine)), no_wrap=True, overflow="ellipsis"
            )


def _usd(nusd: float) -> str:
    return f"{nusd / NUSD_PER_USD:,.4f}" if abs(nusd) < NUSD_PER_USD else f"{nusd / NUSD_PER_USD:,.2f}"


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return f"{seconds * 1e3:.1f} ms" if seconds < 1 else f"{seconds:.1f} s"


def _age(seconds: float) -> str:
    for size_s, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size_s:
            return f"{seconds / size_s:.0f} {unit}"
    return f"{seconds:.0f} s"
