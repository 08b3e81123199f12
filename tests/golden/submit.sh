#!/bin/bash
# Submits the scripts in this folder as one chain; each waits for those before it, however they ended.
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")"
mkdir -p log

plan=$(sbatch --parsable plan.sbatch)
infer_0=$(sbatch --parsable --dependency="afterany:${plan%%;*}" infer-0.sbatch)
infer_1=$(sbatch --parsable --dependency="afterany:${plan%%;*}" infer-1.sbatch)
repair_1=$(sbatch --parsable --dependency="afterany:${infer_0%%;*}:${infer_1%%;*}" repair-1.sbatch)
stitch=$(sbatch --parsable --dependency="afterany:${repair_1%%;*}" stitch.sbatch)
echo "submitted; the last job is ${stitch%%;*}"
