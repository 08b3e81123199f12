"""How a run scales: the same volume by 1, 2, 4 ... ranks or tasks, measured, and predicted for more.

=============== ================================================================================================
measure         each count in turn, what it took, and whether it gave the same; goes on where it was
processes       ranks and tasks as processes of this machine
shares          what each rank or task of a plan computes, reads, writes and sends: integers
ghosts          what the neighbours' rows cost
model           what that takes, by the rates of one rank and of a link between two
results         all that is known, as JSON keeps it
drawing         efficiency and time as a picture
=============== ================================================================================================
"""

from medhpc.scaling.measure import scaling
from medhpc.scaling.model import Link, Predicted
from medhpc.scaling.results import Measured, Scaling

__all__ = ["Link", "Measured", "Predicted", "Scaling", "scaling"]
