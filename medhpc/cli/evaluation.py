"""``medhpc evaluate``."""

from __future__ import annotations

import click

from medhpc.cli import options, show


@click.command(short_help="Measure a result against the truth.")
@click.argument("result")
@click.argument("truth")
@click.option(
    "--tolerance",
    "tolerance_um",
    type=click.FloatRange(0, min_open=True),
    metavar="UM",
    help="Points within this distance can match, um; needed for points.",
)
@options.region
@click.option("--seams", metavar="RUN", help="Also compare the error near the tile faces of this run with the rest.")
@options.as_json
def evaluate(
    result: str, truth: str, tolerance_um: float | None, region: str | None, seams: str | None, as_json: bool
) -> None:
    """Measure RESULT against TRUTH.

    Two lists of points: precision, recall, F1. Masks and labels: Dice and IoU, and average precision of instances.
    Images: PSNR and SSIM.

    \b
      medhpc evaluate cells.csv truth.csv --tolerance 10
      medhpc evaluate cells.ome.zarr truth.tif --region 50:,:,: --json
    """
    from medhpc import evaluate as evaluation

    found = evaluation.evaluate(result, truth, tolerance_um=tolerance_um, region=region, seams=seams)
    if as_json:
        show.as_json(found.as_dict())
    else:
        show.fields({name.replace("_", " "): str(value) for name, value in found.as_dict().items()})
