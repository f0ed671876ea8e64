#!/usr/bin/env bash
# Everything in this folder: a LoRA student of SmolLM2 on built-in traces, merged, and both asked 100 problems.
set -euo pipefail
cd "$(dirname "$0")/../.."
here=${RESULTS:-experiments/merged_student}  # folder of the csv files
mkdir -p "$here"
out=${OUT:-outputs/merged_student}
python train.py model=smollm2 model.dtype=float32 scorer=random ratio=0.9 compression.granularity=token \
  reference=none evaluation=students 'evaluation.baselines=[]' benchmark.num_problems=100 sft.validation_problems=0 "output_root=$out" "$@"
python -m experiments.merged_student.agreement "$here/agreement.csv" "$(echo "$out"/runs/random-0.9-*)" "$out/merged"
