"""Jobs on a cluster: what SLURM can give, what is submitted, what has become of it.

Nothing of medhpc stays behind while jobs run: a submission is a chain of jobs, and what is done stands in the ledger.
"""

from medhpc.jobs.again import is_folder_of_several
from medhpc.jobs.cancellation import cancel
from medhpc.jobs.dispatch import check_free, scripts, submit, write_scripts
from medhpc.jobs.prepare import Prepared, prepare_folder, prepare_run, prepare_volumes
from medhpc.jobs.submission import Submission, submissions
from medhpc.jobs.wishes import Wishes

__all__ = [
    "Prepared",
    "Submission",
    "Wishes",
    "cancel",
    "check_free",
    "is_folder_of_several",
    "prepare_folder",
    "prepare_run",
    "prepare_volumes",
    "scripts",
    "submissions",
    "submit",
    "write_scripts",
]
