"""The network of the benchmarks: an MS-D network of depth 16, trained on made cells, kept beside this script.

A network without training shows no seam worth measuring, and training anew each time would measure another network each
time. ``python -m benchmarks.network`` makes it again.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from benchmarks.predictions import NETWORK
from medhpc.demo_data import write_demo
from medhpc.train.msd import train_msd

DEPTH = 16
SEED = 1000  # of the volume it learns from; the benchmarks measure on others


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=600, help="of training (default 600, about two minutes)")
    steps = parser.parse_args().steps
    with tempfile.TemporaryDirectory() as folder:
        files = write_demo(folder, seed=SEED)
        made = Path(folder, NETWORK.name)
        result = train_msd([(files.volume, files.labels)], made, depth=DEPTH, steps=steps, threads=1, resume=False)
        NETWORK.write_bytes(made.read_bytes())
    print(result)


if __name__ == "__main__":
    main()
