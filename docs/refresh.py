"""Fill README.md with what its commands print: ``.venv/bin/python docs/refresh.py [FOLDER]``.

The commands run in FOLDER (a temporary one unless given), on the volume that `medhpc demo` makes. The picture
of the seam is drawn by ``python -m benchmarks.seam_picture``.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from medhpc.demo_data import write_demo

README = Path(__file__).parents[1] / "README.md"
MARK = "<!-- README:commands -->\n```\n"


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp(prefix="medhpc-readme-")).resolve()
    write_demo(folder)
    os.chdir(folder)
    before, _, rest = README.read_text().partition(MARK)
    commands, _, after = rest.partition("```")
    filled = [f"$ {command}\n{run(command)}" for command in re.findall(r"^\$ (.*)$", commands, re.MULTILINE)]
    README.write_text(before + MARK + "\n".join(filled) + "```" + after)


def run(command: str) -> str:
    """What a command prints; of a training, the first and the last judgements."""
    print("$", command, flush=True)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "SLURM_JOB_ID": "0"}  # on a login node, some hints are others
    printed = subprocess.run(command, shell=True, check=True, text=True, stdout=subprocess.PIPE, env=environment).stdout
    print(printed, flush=True)
    return re.sub(r"((?:^step .*\n){2})(?:^step .*\n)+(^step .*\n)", r"\1...\n\2", printed, flags=re.MULTILINE)


if __name__ == "__main__":
    main()
