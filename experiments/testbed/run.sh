#!/usr/bin/env bash
# Everything in this folder, three seeds. `run.sh NAME...` runs the sweeps of these names only, SEEDS=42 fewer seeds. The
# same command goes on where it stopped. Settings in SETTINGS go to every job: SETTINGS="model=tiny" run.sh bounds
set -euo pipefail
cd "$(dirname "$0")/../.."
here=experiments/testbed
out=${OUT:-outputs/testbed}
common=(
  "output_root=$out" "seed=${SEEDS:-42,43,44}"                      # traces and training follow the seed,
  benchmark.num_problems=100                                        # and the questions do not
  data@labelled=planted labelled.seed=1000003                       # what reference model and classifier learn from
  sft.validation_problems=0 'evaluation.baselines=[original,random]'
  ${SETTINGS:-}
)
wanted=" $* "
sweep() {  # NAME SETTING...: its table goes into this folder
  local name=$1; shift
  [[ $wanted == "  " || $wanted == *" $name "* ]] || return 0
  python train.py -m "${common[@]}" "hydra.sweep.dir=$out/multirun/$name" "$@"
  for kind in seeds differences; do
    cp "$out/multirun/$name/$kind.csv" "$here/$name-$kind.csv"
    cp "$out/multirun/$name/$kind.md" "$here/$name-$kind.md"
  done
  cp "$out/multirun/$name/results.csv" "$here/$name-results.csv"  # every seed: loops, truncation, thinking
}
ratios=ratio=0.9,0.7,0.5,0.3 words=compression.granularity=word units=compression.granularity=token,word,step
sweep bounds $words scorer=planted $ratios                          # ceiling and floor
sweep cts $units scorer=cts $ratios
sweep tokenskip $units scorer=tokenskip $ratios
sweep start compression.granularity=word,step scorer=cts ratio=0.7,0.5 sft.start=base,original
sweep rate $words scorer=cts ratio=0.7 sft.tune.learning_rate=0.0003,0.001,0.003
sweep examples compression.granularity=word,step scorer=cts ratio=0.5 data.num_traces=160,1000
