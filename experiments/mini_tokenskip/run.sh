#!/usr/bin/env bash
# Everything in this folder: one student for six ratios, from 50 and from 400 examples of each, two seeds. The same
# command again goes on where it stopped. Further settings go to every job.
set -euo pipefail
cd "$(dirname "$0")/../.."
here=experiments/mini_tokenskip
out=${OUT:-outputs/mini_tokenskip}
common=(
  "output_root=$out" seed=42,43 data@labelled=planted labelled.seed=1000003
  scorer=tokenskip compression=mixed compression.granularity=token ratio=0.5 'evaluation.ratios=[1.0,0.9,0.8,0.7,0.6]'
  evaluation=students
  benchmark.num_problems=200 hydra/launcher=joblib hydra.launcher.n_jobs=2 trainer=cpu trainer.num_threads=1
  model.dtype=float32
  "$@"
)
sweep() {  # NAME SETTING...: its table goes into this folder
  local name=$1; shift
  python train.py -m "${common[@]}" "hydra.sweep.dir=$out/multirun/$name" "$@"
  cp "$out/multirun/$name/seeds.csv" "$here/$name.csv"
  cp "$out/multirun/$name/seeds.md" "$here/$name.md"
  cp "$out/multirun/$name/results.csv" "$here/$name-results.csv"  # ActRatio, loops, truncation, every seed
}
sweep examples_50 data.num_traces=333    # 300 to train on, 50 for each of the six ratios
sweep examples_400 data.num_traces=2667  # 2,400
python -m experiments.mini_tokenskip.plot
