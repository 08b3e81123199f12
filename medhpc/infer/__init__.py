"""The infer step: tiles to shards."""

from medhpc.infer.task import InferResult, infer
from medhpc.infer.worker import WorkResult, ending_on_signals, work

__all__ = ["InferResult", "WorkResult", "ending_on_signals", "infer", "work"]
