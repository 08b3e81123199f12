"""How a plan is printed: the halo first, because it decides the work, then tiles, time, memory and disk."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from medhpc.cli import show

Summary = Mapping[str, Any]

INTENSITIES = {
    "volume": "by this volume's own mean and deviation",
    "network": "by the training's mean and deviation",
    "none": "as they are",
}


def print_plan(plan: Summary, **more: str) -> None:
    """Print what :func:`medhpc.tiling.summarize` found, and `more` lines at its end."""
    show.fields(_what(plan) | _halo(plan) | _cost(plan) | more)
    if plan["output_bytes"] > plan["free_bytes"]:
        click.echo("medhpc: warning: the output may not fit on this file system", err=True)
    if 0 < plan["free_inodes"] < plan["output_files"]:
        click.echo("medhpc: warning: this file system has too few inodes left", err=True)


def print_halo(plan: Summary) -> None:
    """Print what the plan knows of its halo only."""
    show.fields(_halo(plan))


def _what(plan: Summary) -> dict[str, str]:
    lines = {"volume": f"{show.path(plan['volume'])}\n{show.shape(plan['shape'])} voxels"}
    if plan["copied"]:
        lines["volume"] += "; boxes of it are expensive to read, so it was copied once to Zarr in the run"
    if _is_part(plan):
        lines["region"] = plan["region"]
    lines["network"] = "\n".join((show.path(plan["network"]), *plan["advice"]))
    if plan["classes"]:
        lines["classes"] = ", ".join(plan["classes"])
    normalization = plan["normalization"]
    lines["intensities"] = INTENSITIES[normalization["source"]]
    if normalization["mean"]:
        pairs = zip(normalization["mean"], normalization["std"], strict=True)
        lines["intensities"] += ": " + "; ".join(f"{mean:.5g}, {std:.5g}" for mean, std in pairs)
    return lines | {"stores": plan["store"]}


def _is_part(plan: Summary) -> bool:
    """Whether less than the whole volume is computed."""
    return bool(plan["region"] != ",".join(f"0:{length}" for length in plan["shape"]))


def _halo(plan: Summary) -> dict[str, str]:
    if plan["blend"]["mode"] != "none":
        blend = plan["blend"]
        return {
            "blend": f"{blend['mode']}, windows of {show.shape(blend['window'])}, {show.shape(blend['step'])} apart"
        }
    if plan["tiles"] == 1 and plan["halo_how"] == "exact" and plan["note"]:
        parts = f"{show.shape(plan['halo'])} voxels, should memory run out and it be computed in parts"
        return {"halo": f"none: {plan['note']}\n{parts}"}
    lines = [_size(plan)]
    if plan["max_error"] is not None and plan["halo_how"] != "exact":
        lines.append(f"largest error measured {plan['max_error']:.2g}, tolerance {plan['tolerance']:.2g}")
    if plan["note"]:
        lines.append(plan["note"])
    if plan["halo_table"]:
        lines.append(show.table([_row(row, plan) for row in plan["halo_table"]]))
    return {"halo": "\n".join(lines)}


def _size(plan: Summary) -> str:
    """The halo, and how far it can be relied on."""
    if plan["scheme"] == "sweep":
        return "none: planes stream along z, and each is whole"
    if plan["scheme"] == "columns":
        return f"{show.shape(plan['halo'][1:])} voxels in y and x, {_trust(plan)}\nnone along z, where planes stream"
    return f"{show.shape(plan['halo'])} voxels, {_trust(plan)}"


def _trust(plan: Summary) -> str:
    """How far the halo can be relied on."""
    samples = f"{plan['halo_samples']} samples against a context of {plan['halo_context']} voxels"
    return {
        "exact": "exact: tiled and un-tiled results are equal up to rounding",
        "measured": f"an estimate from {samples}",
        "given": f"as asked; its error is an estimate from {samples}",
        "extrapolated": f"extrapolated from {samples}",
    }[plan["halo_how"]]


def _row(row: Mapping[str, Any], plan: Summary) -> dict[str, str]:
    return {
        "halo": f"{row['halo']}",
        "max error": f"{row['max_error']:.2g}",
        "mean error": f"{row['mean_error']:.2g}",
        "labels flipped": f"{100 * row['flipped']:.2g} %",
        "work": f"{row['work']:.2f} x",
        "": "<- chosen" if row["halo"] == max(plan["halo"]) else "",
    }


def _cost(plan: Summary) -> dict[str, str]:
    threads = f", threads: {plan['threads']}" if plan["device"] == "cpu" else ""
    machine = f"{plan['device']}{threads}, engine {plan['engine']}"
    return _schemes(plan) | {
        "tiles": f"{plan['tiles']:,} of {show.shape(plan['tile'])} voxels, shards of {show.shape(plan['shard'])}",
        "work": _work(plan),
        "time": f"{_predicted(plan['seconds'])} in one task on this machine ({machine}); "
        f"{_predicted(plan['seconds_per_tile']).removeprefix('about ')} a tile",
        "memory": f"about {show.memory(plan['memory_bytes'])} of {show.memory(plan['memory_limit_bytes'])}"
        + (f", on each of {plan['ranks']} ranks" if plan["ranks"] > 1 else ""),
        "disk": f"at most {show.size(plan['output_bytes'])} in {plan['output_files']:,} files; "
        f"free are {show.size(plan['free_bytes'])} and {plan['free_inodes']:,} inodes",
    }


def _schemes(plan: Summary) -> dict[str, str]:
    """The comparison, where one was asked for."""
    if plan["scheme"] == "boxes" and not plan["compare"]:
        return {}
    lines = {
        "boxes": "boxes: every tile with a halo on all sides",
        "columns": f"{plan['columns']} columns, through which planes stream along z",
        "sweep": "one sweep: planes stream along z, nothing is computed twice",
    }
    rows = show.table([_scheme_row(row, plan) for row in plan["schemes"]])
    return {"scheme": f"{lines[plan['scheme']]}\n{rows}"}


def _scheme_row(row: Mapping[str, Any], plan: Summary) -> dict[str, str]:
    chosen = row["name"] == plan["scheme"] and list(row["halo"]) == list(plan["halo"])
    return {
        "scheme": row["name"],
        "halo": show.shape(row["halo"]),
        "exact": "yes" if row["exact"] else "no",
        "tile or column": show.shape(row["column"]),
        "work": f"{row['work']:.2f} x",
        "memory": show.memory(row["bytes"]) if row["fits"] else f"{show.memory(row['bytes'])}: too much",
        "": "<- chosen" if chosen else "",
    }


def _work(plan: Summary) -> str:
    work = f"{plan['read_amplification']:.3g} voxels computed for each voxel written"
    if plan["scheme"] != "boxes" and _is_part(plan):
        work += "; what the network sees around the region is computed, too"
    left_out = round(100 * (1 - plan["needed"]))
    if left_out:
        work += f"; {left_out} % of that work is left out: nothing that is written depends on it"
    if plan["splits"]:
        work += (
            "\na tile does not fit in the memory: it is computed in parts, each with its own halo "
            f"({plan['unsplit_amplification']:.3g} voxels with enough --memory)"
        )
    return work


def _predicted(seconds: float) -> str:
    """A time that is an estimate, so that parts of a second mean nothing."""
    return "under 1 s" if seconds < 1 else f"about {show.duration(seconds)}"
