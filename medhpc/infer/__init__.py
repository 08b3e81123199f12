"""The infer step: tiles to shards."""

from medhpc.infer.task import InferResult, infer

__all__ = ["InferResult", "infer"]
