"""The run folder: plan, results, ledger. The only place where tile, infer and stitch meet."""

from medhpc.run.folder import Run
from medhpc.run.plan import Plan
from medhpc.run.share import select
from medhpc.run.state import Status, clean, status

__all__ = ["Plan", "Run", "Status", "clean", "select", "status"]
