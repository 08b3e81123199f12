"""The command line: parse, call one library function, print. Nothing else happens here.

No module of this package imports a heavy library at its top; a command imports what it calls when it is called, so
that ``medhpc --help`` answers at once on a busy login node.
"""

from medhpc.cli.main import main

__all__ = ["main"]
