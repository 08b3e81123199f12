"""Jobs that run out of time. SLURM looks twice a minute, so their run begins with the first test of this folder.

It has a cluster of its own, and is looked at here, by the last test.
"""

from __future__ import annotations


def test_tasks_out_of_time(overtime):
    """One task is told in time and ends well; another hangs and is killed; the repair does what they left."""
    overtime.finish()
    assert sorted(overtime.ends("infer-0")) == ["COMPLETED", "TIMEOUT"]
    assert "ended before the last tile" in overtime.log("infer-0")
    assert [end["TimeLimit"] for end in overtime.over("infer-0") + overtime.over("repair-1")] == ["1", "1", "2"]
