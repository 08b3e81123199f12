"""Where a result comes from: the halo it was computed with, and everything that decided it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medhpc.report.facts import Facts
from medhpc.report.html import Html, definitions, element, section, table
from medhpc.report.words import lengths, size


def halo(facts: Facts) -> Html:
    """The halo and its measured errors, or the windows that are blended."""
    plan = facts.plan
    if plan.blend.mode != "none":
        text = f"{plan.blend.mode} windows of {lengths(plan.blend.window)}, {lengths(plan.blend.step)} apart"
        return section("Blending", element("p", text))
    chosen = [number for number, row in enumerate(plan.halo.table) if row.halo == max(plan.halo.size)]
    rows = [
        (
            f"{row.halo}",
            f"{row.max_error:.2g}",
            f"{row.mean_error:.2g}",
            f"{100 * row.flipped:.2g} %",
            f"{row.work:.2f} ×",
        )
        for row in plan.halo.table
    ]
    how = {
        "exact": "exact: tiled and un-tiled results are equal up to rounding",
        "measured": f"measured on {plan.halo.samples} samples against a context of {plan.halo.context} voxels",
        "given": "as asked for",
        "extrapolated": f"extrapolated from {plan.halo.samples} samples",
    }.get(plan.halo.how, plan.halo.how)
    found = None
    if rows:
        header = ("halo, voxels", "max error", "mean error", "labels flipped", "work")
        found = table(header, rows, numbers=range(5), marked=chosen[0] if chosen else None)
    return section("Halo", element("p", f"{lengths(plan.halo.size)} voxels, {how}."), found, note=plan.halo.note)


def provenance(facts: Facts) -> Html:
    """Input, network, options, versions: what is needed to get the same again."""
    plan = facts.plan
    versions = ", ".join(f"{name} {version}" for name, version in facts.versions.items())
    what = [
        ("volume", plan.source.path),
        ("channel, level", _channel(plan.source.channel, plan.source.level)),
        ("input fingerprint", _listing(plan.source.fingerprint)),
        ("network", f"{plan.network.name} {plan.network.path}".strip()),
        ("network sha256", plan.network.digest),
        ("classes", ", ".join(plan.network.classes)),
        ("normalisation", _normalization(facts)),
        ("region", str(plan.region)),
        ("tile", f"{lengths(plan.tile)} voxels, halo {lengths(plan.halo.size)}"),
        ("stored", f"{plan.stored.kind} ({plan.stored.dtype}), {size(facts.status.stored_bytes)}"),
        ("options of tile", _listing(plan.request)),
        ("plan", f"{plan.digest}, made {plan.created} by medhpc {plan.medhpc}"),
        ("run", facts.run),
        ("results", ", ".join(facts.results)),
        ("job ids", ", ".join(facts.jobs)),
        ("versions now", versions),
        ("git commit", facts.commit),
    ]
    return section("Provenance", definitions(what))


def _channel(channel: int | None, level: int) -> str:
    return f"{'all' if channel is None else channel}, {level}"


def _listing(values: Mapping[str, Any]) -> str:
    """Names and values on one line, without those that are not set."""
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in values.items() if value is not None)


def _normalization(facts: Facts) -> str:
    found = facts.plan.normalization
    pairs = zip(found.mean, found.std, strict=True)
    return "; ".join(
        (f"by {found.source}" if found.mean else "none", *(f"{mean:.6g}, {std:.6g}" for mean, std in pairs))
    )
