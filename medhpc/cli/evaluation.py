"""``medhpc evaluate``."""

from __future__ import annotations

from typing import Any

import click

from medhpc.classes import parse_classes
from medhpc.cli import options, show

KIND = click.Choice(["auto", "points", "mask", "labels", "image"])


@click.command(short_help="Measure a result against the truth.")
@click.argument("result")
@click.argument("truth")
@click.option(
    "--tolerance",
    "tolerance_um",
    type=click.FloatRange(0, min_open=True),
    metavar="UM",
    help="Points at this distance or closer can be a pair, um; needed for points.",
)
@options.region
@click.option(
    "--as", "kind", type=KIND, default="auto", show_default=True, help="What RESULT holds; 'mask' for classes."
)
@click.option("--truth", "truth_kind", type=KIND, default="auto", show_default=True, help="What TRUTH holds.")
@click.option("--classes", metavar="NAME=LABELS,...", help="Label values of TRUTH: 'bone=26-50,92-116,liver=5'.")
@click.option("--ignore", type=int, metavar="LABEL", help="Voxels with this value in TRUTH are left out.")
@click.option("--threshold", type=float, metavar="P", help="RESULT is an image; from here on it is foreground.")
@click.option("--channel", type=click.IntRange(0), metavar="C", help="Channel of RESULT.")
@click.option("--truth-channel", type=click.IntRange(0), metavar="C", help="Channel of TRUTH.")
@click.option(
    "--voxel-size", "voxel_size_um", type=options.VoxelSize(), help="Voxel size in um, where no file tells it."
)
@click.option(
    "--data-range",
    type=click.FloatRange(0, min_open=True),
    metavar="R",
    help="What PSNR and SSIM are relative to; the range of TRUTH unless given.",
)
@click.option("--seams", metavar="RUN", help="Also compare the error near the tile faces of this run with the rest.")
@click.option("--partial", is_flag=True, help="Not every object is annotated: tell recall only.")
@options.as_json
def evaluate(result: str, truth: str, classes: str | None, as_json: bool, **settings: Any) -> None:
    """Measure RESULT against TRUTH.

    Two lists of points: precision, recall, F1. Masks and labels: Dice and IoU, and average precision of instances.
    Images: PSNR and SSIM. All but recall need TRUTH to be complete in the region: an object that nobody annotated
    counts as an error; where it is not, give --partial.

    \b
      medhpc evaluate cells.csv truth.csv --tolerance 10
      medhpc evaluate cells.ome.zarr truth.tif --region 50:,:,: --json
    """
    from medhpc import evaluate as evaluation

    named = parse_classes(classes) if classes else None
    with show.bar("evaluate", "voxels") as progress:
        found = evaluation.evaluate(result, truth, classes=named, progress=progress, **settings)
    if as_json:
        show.as_json(found.as_dict())
    else:
        show.fields(found.lines())
