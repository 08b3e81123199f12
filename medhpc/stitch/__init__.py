"""The stitch step: shards to results."""

from medhpc.stitch.step import StitchResult, stitch
from medhpc.stitch.where import WorkerJobs

__all__ = ["StitchResult", "WorkerJobs", "stitch"]
