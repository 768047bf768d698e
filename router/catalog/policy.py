"""Turn policy.toml into the frozen policy; every alias ends at something that exists."""

from __future__ import annotations

from collections.abc import Collection
from decimal import Decimal

from router.catalog.faults import Report, Source, did_you_mean
from router.catalog.schema import PolicyFile
from router.catalog.snapshot import CATEGORIES, MODES, Policy

_AUTO = ("auto", *CATEGORIES, *(f"auto:{mode}" for mode in MODES))
AUTO_NAMES = frozenset(f"{prefix}{name}" for prefix in ("", "llmrouter/", "router/") for name in _AUTO)


def build_policy(source: Source, model_ids: Collection[str], report: Report) -> Policy:
    """Return the operator's choices; what is faulty has its default."""
    table = report.parse(PolicyFile, source, source.data) or PolicyFile()
    if table.baseline is not None and table.baseline not in model_ids:
        said = f'unknown model "{table.baseline}"{did_you_mean(table.baseline, model_ids)}'
        report.fault(source, ("baseline",), said)
    expected = table.expected_output_tokens
    bands = {category: getattr(table.bands, category) for category in CATEGORIES}
    return Policy(
        mode=table.mode,
        bands={
            category: {
                "quality": float(band.quality),
                "balanced": float(band.balanced),
                "cost": float(band.cost),
            }
            for category, band in bands.items()
        },
        time_value_nusd_per_s=int(table.time_value_usd_per_s * Decimal(10**9)),
        markup_ppm=int(table.markup * Decimal(10**6)),
        baseline=table.baseline,
        aliases=_aliases(table.aliases, source, model_ids, report),
        expected_output_tokens={category: getattr(expected, category) for category in CATEGORIES},
        queue_s=float(table.limits.queue_s),
        output_tokens=table.limits.output_tokens,
        session_idle_s=float(table.sessions.idle_s),
    )


def _aliases(
    aliases: dict[str, str], source: Source, model_ids: Collection[str], report: Report
) -> dict[str, str]:
    """Follow every alias to its end, a catalog id or an auto name."""
    ends: dict[str, str] = {}
    for alias in aliases:
        path = ("aliases", alias)
        if alias in AUTO_NAMES or alias in model_ids:
            report.fault(source, path, f'"{alias}" is a model name already; choose another alias')
            continue
        chain = [alias]
        while chain[-1] in aliases and len(set(chain)) == len(chain):
            chain.append(aliases[chain[-1]])
        end = chain[-1]
        if len(set(chain)) < len(chain):
            report.fault(source, path, f"goes round in a loop: {' -> '.join(chain)}")
        elif end not in AUTO_NAMES and end not in model_ids:
            hint = did_you_mean(end, [*model_ids, *_AUTO])
            report.fault(source, path, f'unknown model "{end}"{hint}')
        else:
            ends[alias] = end
    return ends
