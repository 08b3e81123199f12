"""Several processes that compute one thing together: which of them this is, and what they tell each other.

=============== ================================================================================================
launch          who started us, and as which rank: torchrun, SLURM, or nobody
group           the ranks: sums, exchanges, agreement; one rank alone talks to nobody
slabs           who has which planes of an axis
halo            planes of the neighbours, and their gradients back to where they came from
whole           slabs to a whole and back
saving          when they keep what they have: now and then, and when a signal asks for it
imagined        one rank of several that are not there, for plans
ping            latency and bandwidth between two
=============== ================================================================================================

All ranks must call the same things in the same order.
"""
