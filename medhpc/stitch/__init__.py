"""The stitch step: shards to results."""

from medhpc.stitch.step import StitchResult, stitch

__all__ = ["StitchResult", "stitch"]
