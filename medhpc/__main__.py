"""``python -m medhpc``."""

from medhpc.cli import main

main()
