"""Results against the truth: points, masks, labels and images, streamed from disk.

Nothing larger than a few blocks of voxels, the points, and a table of the labels that overlap is held in memory.
"""

from medhpc.evaluate.compare import evaluate
from medhpc.evaluate.evaluation import ClassScore, Evaluation, SeamErrors
from medhpc.evaluate.seams import seam_errors

__all__ = ["ClassScore", "Evaluation", "SeamErrors", "evaluate", "seam_errors"]
