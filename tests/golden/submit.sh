#!/bin/bash
# Submits the scripts in this folder as one chain; each waits for those before it, however they ended.
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")"
mkdir -p log
here=${PWD//%/%%} # for SLURM, which has signs with %

plan=$(sbatch --parsable --output="$here/log/plan-%j.log" plan.sbatch)
infer_0=$(sbatch --parsable --output="$here/log/infer-0-%A_%a.log" --dependency="afterany:${plan%%;*}" infer-0.sbatch)
infer_1=$(sbatch --parsable --output="$here/log/infer-1-%A_%a.log" --dependency="afterany:${plan%%;*}" infer-1.sbatch)
repair_1=$(sbatch --parsable --output="$here/log/repair-1-%A_%a.log" --dependency="afterany:${infer_0%%;*}:${infer_1%%;*}" repair-1.sbatch)
stitch=$(sbatch --parsable --output="$here/log/stitch-%j.log" --dependency="afterany:${repair_1%%;*}" stitch.sbatch)
echo "submitted; the last job is ${stitch%%;*}"
