"""The page: a pure function of the facts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medhpc.report.drawings import views
from medhpc.report.facts import Facts, Picture
from medhpc.report.html import Html, definitions, element, section, table
from medhpc.report.origin import halo, provenance
from medhpc.report.words import count, duration, error, gib, lengths
from medhpc.report.work import efficiency, hosts, tiles
from medhpc.run import Plan

STYLE = Path(__file__).with_name("style.css")


def page(facts: Facts) -> str:
    """The report as one HTML file without any other."""
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", f"{facts.name}: medhpc report"),
        element("style", Html(STYLE.read_text())),
    )
    sections = (
        _header(facts),
        _key_figures(facts),
        _pictures(facts),
        _measures(facts),
        _failures(facts),
        tiles(facts),
        hosts(facts),
        efficiency(facts),
        halo(facts),
        provenance(facts),
    )
    body = element("body", element("main", *sections), _footer(facts))
    return f"<!DOCTYPE html>\n{element('html', head, body, lang='en')}\n"


# --- the top -------------------------------------------------------------------------------------


def _header(facts: Facts) -> Html:
    status = facts.status
    complete = status.done == status.total
    badge = "complete" if complete else f"{status.missing:,} of {status.total:,} tiles missing"
    return element(
        "header",
        element("p", "medhpc report", class_="kicker"),
        element("h1", facts.name),
        element("p", element("span", badge, class_="badge good" if complete else "badge bad"), f" {facts.created}"),
        element("p", f"{Path(status.result).name}: {status.note}", class_="warning")
        if status.result and status.note
        else None,
    )


def _key_figures(facts: Facts) -> Html:
    plan, status = facts.plan, facts.status
    voxel = plan.source.voxel_size
    unit = plan.source.unit.replace("um", "µm")
    busy = float(facts.tally.seconds[facts.tally.done].sum())
    figures = [
        (lengths(plan.source.shape), f"voxels of {lengths(voxel)} {unit}" if voxel else "voxels"),
        (f"{status.done:,}", "tiles" if status.done == status.total else f"of {status.total:,} tiles"),
        *_best_measure(facts.measures),
        _seams(plan),
        (duration(facts.elapsed), "from the first tile to the last"),
        (duration(busy), f"of computing, on {count(len(status.hosts), 'host')}"),
        (gib(status.peak_memory), "at most in one process"),
    ]
    drawn = [element("div", element("strong", value), element("span", what)) for value, what in figures if value]
    return element("div", *drawn, class_="figures")


def _seams(plan: Plan) -> tuple[str, str]:
    """How much seams may show; nothing where it was not measured."""
    if plan.halo.how == "exact":
        return "exact", "halo: no seams"
    return error(plan.halo.max_error), "largest seam error measured"


def _best_measure(measures: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    names = {"f1": "F1 of objects", "dice": "Dice", "ap50": "AP at IoU 0.5", "psnr": "dB PSNR"}
    found = [(name, (measures or {}).get(name)) for name in names]
    return [(f"{value:.3f}", names[name]) for name, value in found if isinstance(value, int | float)][:1]


# --- pictures ------------------------------------------------------------------------------------


def _pictures(facts: Facts) -> Html:
    drawn = [_figure(facts, picture) for picture in facts.pictures]
    return section(
        "Maximum projections",
        element("div", *drawn, class_="pair"),
        note="Large: along z. Below and beside it: along y and along x. Lines are the faces between tiles, where seams "
        "would be; the frame is the region that was computed.",
    )


def _figure(facts: Facts, picture: Picture) -> Html:
    title = element("strong", picture.title)
    if picture.projections is None:
        missing = element("p", f"Not shown: {picture.note}", class_="missing")
        return element("figure", missing, element("figcaption", title, " ", picture.path))
    looked = f" Looked at: {picture.projections.sampled}."
    return element("figure", views(picture, facts.plan), element("figcaption", title, f" {picture.path}.{looked}"))


# --- results -------------------------------------------------------------------------------------


def _measures(facts: Facts) -> Html | None:
    if facts.measures is None:
        return None
    single = [(name, _value(value)) for name, value in facts.measures.items() if not isinstance(value, dict | list)]
    parts: list[Html] = [definitions(((name.replace("_", " "), value) for name, value in single), "two")]
    for name, value in facts.measures.items():
        if isinstance(value, dict):
            inner = definitions(((key.replace("_", " "), _value(each)) for key, each in value.items()), "two")
            parts += [element("h3", name), inner]
        elif value and isinstance(value, list):
            parts += [element("h3", name), _listed(value)]
    return section("Measured against the truth", *parts)


def _listed(values: list[Any]) -> Html:
    """A list of objects as a table, of anything else as lines."""
    if not all(isinstance(value, dict) for value in values):
        return element("ul", *(element("li", _value(value)) for value in values))
    names = list(dict.fromkeys(name for value in values for name in value))
    rows = [[_value(value.get(name)) for name in names] for value in values]
    return table([name.replace("_", " ") for name in names], rows, numbers=range(1, len(names)))


def _value(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if isinstance(value, str) else json.dumps(value)


def _failures(facts: Facts) -> Html | None:
    status = facts.status
    if not status.missing and not status.failures:
        return None
    missing = element("p", f"Missing tiles: {status.missing_tiles}") if status.missing else None
    kinds = [
        element(
            "details",
            element("summary", f"{failure.count:,} × {failure.kind} (tiles {failure.tiles})"),
            element("pre", failure.traceback or failure.error),
            element("p", " ".join(filter(None, (failure.host, failure.job, failure.log)))),
        )
        for failure in status.failures
    ]
    return section("What is missing", missing, *kinds)


def _footer(facts: Facts) -> Html:
    return element("footer", f"medhpc {facts.versions.get('medhpc', '')}, {facts.created}")
