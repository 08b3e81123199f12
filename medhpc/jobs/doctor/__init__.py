"""Is this site ready for medhpc? Looks at a folder, at the cluster, and at a small job, and says what to mend."""

from medhpc.jobs.doctor.check import Check, Verdict
from medhpc.jobs.doctor.visit import doctor

__all__ = ["Check", "Verdict", "doctor"]
