"""The pictures of a report: projections with the tile grid, heat maps of tiles, the run over time."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medhpc.geometry import Grid
from medhpc.report.facts import Picture
from medhpc.report.html import Html, element, joined
from medhpc.report.png import MAGMA, VIRIDIS, data_uri, in_grey, in_ramp, of_objects, ramp
from medhpc.report.projections import Projections
from medhpc.run import Plan

WIDTH = 1000.0  # of all views, in units of the drawing: browsers draw letters smaller than a unit as blobs
LEAST_TEXT = 30.0  # as the page shows it, about 13 pixels
GAP = 0.02  # between the three views, of their width
CLOSEST = 0.008  # seams closer than this, of the width of all views, are not drawn
MOST_SLABS = 24  # heat maps of z-slabs; of more, neighbours are put together
MAPS_BESIDE = 5
CURVE = 400  # points of a curve

Plane = NDArray[Any]


# --- projections ---------------------------------------------------------------------------------


def views(picture: Picture, plan: Plan) -> Html:
    """The three projections of a volume as one drawing: from above, and from two sides, with the seams."""
    assert picture.projections is not None
    size = plan.source.voxel_size_um or (1.0, 1.0, 1.0)
    lengths = [n * s for n, s in zip(plan.source.shape, size, strict=True)]
    flat = plan.source.shape[0] == 1
    per_um = WIDTH / (lengths[2] + (0 if flat else lengths[0]))
    depth, height, width = (length * per_um for length in lengths)
    gap = 0.0 if flat else GAP * (width + depth)
    right, below = (0.0, 0.0) if flat else (depth, depth)
    total = (width + gap + right, height + gap + below)
    planes = _coloured(picture)
    boxes = [(0.0, 0.0, width, height, planes[0], (1, 2))]
    if not flat:
        boxes.append((0.0, height + gap, width, depth, planes[1], (0, 2)))
        boxes.append((width + gap, 0.0, depth, height, planes[2].transpose(1, 0, 2), (1, 0)))
    drawn = [_view(*box, plan, total[0]) for box in boxes]
    bar = _scale_bar(width, height, per_um) if plan.source.voxel_size_um else None
    return element(
        "svg",
        *drawn,
        bar,
        viewBox=f"0 0 {total[0]:.6g} {total[1]:.6g}",
        class_="views objects" if picture.objects else "views",
        role="img",
        aria_label=f"maximum projections along z, y and x of {picture.title.lower()}",
    )


def _view(
    x: float, y: float, width: float, height: float, pixels: Plane, axes: tuple[int, int], plan: Plan, total: float
) -> Html:
    """One projection, its axes down and to the right, with the faces of the tiles."""
    image = element(
        "image", href=data_uri(pixels), x=_n(x), y=_n(y), width=_n(width), height=_n(height), preserveAspectRatio="none"
    )
    lines = []
    for axis, length, other, start, begin, across in (
        (axes[0], height, width, y, x, True),
        (axes[1], width, height, x, y, False),
    ):
        scale = length / plan.source.shape[axis]
        faces = seams(plan.grid, axis)
        if plan.tile[axis] * scale < CLOSEST * total:
            continue
        for face in faces:
            place, end = start + face * scale, begin + other
            ends = {"x1": begin, "x2": end, "y1": place, "y2": place}
            if not across:
                ends = {"x1": place, "x2": place, "y1": begin, "y2": end}
            lines.append(element("line", class_="seam", **{name: _n(value) for name, value in ends.items()}))
    return joined((image, *lines, _region(x, y, width, height, axes, plan)))


def _region(x: float, y: float, width: float, height: float, axes: tuple[int, int], plan: Plan) -> Html:
    """The outline of what was computed."""
    down, along = axes
    shape, region = plan.source.shape, plan.region
    return element(
        "rect",
        x=_n(x + width * region.start[along] / shape[along]),
        y=_n(y + height * region.start[down] / shape[down]),
        width=_n(width * region.shape[along] / shape[along]),
        height=_n(height * region.shape[down] / shape[down]),
        class_="region",
    )


def seams(grid: Grid, axis: int) -> list[int]:
    """Where tiles meet along an axis, in voxels."""
    return [start for start, _ in grid.writes_along(axis)[1:]]


def _scale_bar(width: float, height: float, per_um: float) -> Html:
    """About a fifth of the view from above, which is `width` units wide, `per_um` for each µm."""
    length = nice(width / per_um / 5)
    name = f"{length / 1000:g} mm" if length >= 1000 else f"{length:g} µm"
    x, y, text = width * 0.04, height - width * 0.04, max(LEAST_TEXT, width * 0.032)
    ends = {"x1": _n(x), "x2": _n(x + length * per_um), "y1": _n(y), "y2": _n(y)}
    lines = [element("line", class_=class_, **ends) for class_ in ("shadow", "scale")]
    return joined((*lines, element("text", name, x=_n(x), y=_n(y - text / 2), font_size=_n(text), class_="scale")))


def nice(length: float) -> float:
    """The largest 1, 2 or 5 times a power of ten that is not longer."""
    exponent = math.floor(math.log10(length))
    steps = [step * 10.0**power for power in (exponent - 1, exponent) for step in (1, 2, 5)]
    return max(step for step in steps if step <= length)


def _coloured(picture: Picture) -> tuple[Plane, Plane, Plane]:
    """Red, green and blue of the three projections."""
    found = picture.projections
    assert found is not None
    planes = (found.z, found.y, found.x)
    if picture.objects:
        z, y, x = (of_objects(plane) for plane in planes)
    elif picture.title == "Volume":
        low, high = contrast(found)
        z, y, x = (np.repeat(in_grey(plane, low, high)[..., None], 3, axis=2) for plane in planes)
    else:
        low, high = contrast(found)
        z, y, x = (in_ramp(plane.astype(float), low, high, MAGMA) for plane in planes)
    return z, y, x


def contrast(found: Projections) -> tuple[float, float]:
    """Black and white of intensities: nearly all of the view from above lies between them."""
    values = found.z[np.isfinite(found.z)]
    if not values.size:
        return 0.0, 1.0
    low, high = np.percentile(values, (0.5, 99.7))
    return float(low), float(high if high > low else low + 1)


# --- tiles ---------------------------------------------------------------------------------------


def heat_maps(values: NDArray[Any], plan: Plan, colours: tuple[str, ...], unit: str) -> Html:
    """Numbers of tiles, (z, y, x) with NaN where there is none, as a row of z-slabs and their scale of colours."""
    high = float(np.nanmax(values))
    together = -(-len(values) // MOST_SLABS)
    slabs = [values[start : start + together] for start in range(0, len(values), together)]
    width, height = _pixels(plan, len(slabs))
    drawn = [
        element(
            "figure",
            element(
                "img",
                src=data_uri(in_ramp(_mean(slab), 0.0, high, colours)),
                alt=f"tiles of z {_name(number, slab, together)}",
                style=f"width:{width}px;height:{height}px",
            ),
            element("figcaption", f"z {_name(number, slab, together)}"),
        )
        for number, slab in enumerate(slabs)
    ]
    return joined((element("div", *drawn, class_="slabs"), colour_bar(high, colours, unit)))


def _pixels(plan: Plan, slabs: int) -> tuple[int, int]:
    """Width and height of a heat map on the screen: of the shape of a z-slab, smaller where there are many."""
    _, rows, columns = plan.grid.counts
    size = plan.source.voxel_size or (1.0, 1.0, 1.0)
    height, width = rows * plan.tile[1] * size[1], columns * plan.tile[2] * size[2]
    beside = min(slabs, MAPS_BESIDE)
    longest = min(200, (450 - 14 * (beside - 1)) // beside)
    scale = longest / max(height, width)
    return max(4, round(width * scale)), max(4, round(height * scale))


def _name(number: int, slab: NDArray[Any], together: int) -> str:
    first = number * together
    return f"{first}" if len(slab) == 1 else f"{first}–{first + len(slab) - 1}"


def _mean(slab: NDArray[Any]) -> NDArray[Any]:
    """Mean over z, without NaN."""
    known = np.isfinite(slab)
    count = known.sum(axis=0)
    with np.errstate(invalid="ignore"):
        return np.where(count > 0, np.where(known, slab, 0).sum(axis=0) / np.maximum(count, 1), np.nan)


def colour_bar(high: float, colours: tuple[str, ...], unit: str) -> Html:
    """What the colours mean, from 0 on."""
    strip = element("img", src=data_uri(ramp(colours)[None]), alt="", class_="strip")
    return element(
        "div",
        element("span", "0"),
        strip,
        element("span", f"{high:.3g} {unit}"),
        class_="bar",
    )


def time_map(seconds: NDArray[Any], plan: Plan) -> Html:
    """What each tile cost."""
    return heat_maps(seconds, plan, VIRIDIS, "s")


def memory_map(memory: NDArray[Any], plan: Plan) -> Html:
    """The peak memory of the process that computed each tile, when it stored it."""
    return heat_maps(memory / 2**30, plan, MAGMA, "GiB")


# --- time ----------------------------------------------------------------------------------------


def curve(times: NDArray[np.float64], total: int) -> Html | None:
    """Tiles done over time; `times` of commits in seconds."""
    if len(times) < 2 or np.ptp(times) <= 0:
        return None
    times = np.sort(times) - times.min()
    picked = np.unique(np.linspace(0, len(times) - 1, min(CURVE, len(times))).round().astype(int))
    x = 1000 * times[picked] / times[-1]
    y = 200 * (1 - (picked + 1) / total)
    points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))
    area = element("path", d=f"M0,200 L{points.replace(' ', ' L')} L1000,200 Z", class_="area")
    line = element("polyline", points=points, class_="curve")
    return element(
        "svg", area, line, viewBox="0 0 1000 200", preserveAspectRatio="none", class_="time", role="img",
        aria_label="tiles done over time",
    )  # fmt: skip


def meter(share: float | None) -> Html | None:
    """Used against asked, as a bar; full, and in another colour, above 1."""
    if share is None:
        return None
    filled = element("span", style=f"width:{100 * min(share, 1):.0f}%", class_="over" if share > 1 else None)
    return element("span", filled, class_="meter")


def _n(value: float) -> str:
    return f"{value:.6g}"
