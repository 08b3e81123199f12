"""Jobs on a cluster: what SLURM can give, what is submitted, what has become of it.

Nothing of medhpc stays behind while jobs run: a submission is a chain of jobs, and what is done stands in the ledger.
"""
