"""What can go wrong, one class per cause.

Every message is one line: what was got, what is expected, what to do. The command line prints it and ends with
:attr:`MedhpcError.exit_code`; a library caller catches the class.
"""


class MedhpcError(Exception):
    """Base of all errors that a user can mend; never raised itself."""

    exit_code = 2


# --- volumes -------------------------------------------------------------------------------------


class VolumeNotFound(MedhpcError):
    """No file, folder or dataset of that name."""


class UnknownFormat(MedhpcError):
    """The suffix or the content belongs to no format that medhpc reads or writes."""


class NotAVolume(MedhpcError):
    """The file is sound, but holds no 2D or 3D image (a table, a time series, an empty array)."""


class BrokenFile(MedhpcError):
    """The file is truncated or damaged."""


class UnsupportedDtype(MedhpcError):
    """Complex, structured or textual voxels."""


class SeveralSeries(MedhpcError):
    """A DICOM folder holds more than one series, or its slices do not make one stack."""


class NonFinite(MedhpcError):
    """NaN or infinity among the voxels."""


# --- networks ------------------------------------------------------------------------------------


class BadNetwork(MedhpcError):
    """The file is not a network that medhpc can load safely."""


class NetworkMismatch(MedhpcError):
    """Network and volume do not fit: channels, dimensions, or an axis too thin for the padding."""


class OutOfRange(MedhpcError):
    """Numbers too large for the precision of the engine."""


# --- options -------------------------------------------------------------------------------------


class BadOption(MedhpcError):
    """An option's value cannot be used; regions, tiles, halos and tolerances included."""


class BadTruth(MedhpcError):
    """Annotations that cannot be read, or that do not fit their volume."""


# --- runs ----------------------------------------------------------------------------------------


class NotARun(MedhpcError):
    """The folder holds no medhpc run, or one of another version."""


class RunNotEmpty(MedhpcError):
    """A new run was asked for in a folder that is in use."""


class SourceChanged(MedhpcError):
    """The input volume is not the one that the plan was made for."""


class NetworkChanged(MedhpcError):
    """The network is not the one that the plan was made for."""


class MissingTiles(MedhpcError):
    """Tiles are not done yet, or their shards are damaged."""


class NoResult(MedhpcError):
    """Tiles would be removed that no stitched result holds."""


class NotInPlan(MedhpcError):
    """Stitch was asked for something that the run does not store."""


# --- the cluster ---------------------------------------------------------------------------------


class NoSlurm(MedhpcError):
    """The programs of SLURM are not on this machine."""


class SlurmDown(MedhpcError):
    """SLURM does not answer: what was asked is unknown, and what was submitted may exist."""


class RunBusy(MedhpcError):
    """Jobs of the run are live or are being submitted, or another process writes the same file."""


class NothingToDo(MedhpcError):
    """All that was asked for is there already, as it was asked for."""


class SubmissionRefused(MedhpcError):
    """SLURM said no to a job."""


class NoWorkers(MedhpcError):
    """A Dask cluster that cannot be reached, or has no workers that can do the work."""


# --- ranks ---------------------------------------------------------------------------------------


class RankLost(MedhpcError):
    """Another of the processes that compute together has ended, or cannot be reached."""


class ToldElsewhere(MedhpcError):
    """Another of the processes that compute together has failed, and says why; this one has nothing to add."""


# --- the machine ---------------------------------------------------------------------------------


class DiskFull(MedhpcError):
    """The file system has no room (or no quota) left."""


class NoPermission(MedhpcError):
    """A file or folder cannot be read or written."""


class NotEnoughMemory(MedhpcError):
    """The work does not fit into the memory of the device."""


class NoDevice(MedhpcError):
    """The device asked for is not on this machine."""


class NoEngine(MedhpcError):
    """The engine asked for, or planned with, cannot be used on this machine."""
