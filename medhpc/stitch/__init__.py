"""The stitch step: shards to results.

What stitches is imported where it is first asked for: a request can be checked, as before a submission, without scipy.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medhpc.stitch.step import StitchResult, stitch
    from medhpc.stitch.where import WorkerJobs

__all__ = ["StitchResult", "WorkerJobs", "stitch"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'medhpc.stitch' has no attribute '{name}'")
    module = "where" if name == "WorkerJobs" else "step"
    return getattr(import_module(f"medhpc.stitch.{module}"), name)
