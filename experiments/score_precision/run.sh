#!/usr/bin/env bash
# Everything in this folder: scores in bfloat16 against float32, on short built-in and on long real traces.
#   experiments/score_precision/run.sh TRACES.jsonl [SETTING...]
set -euo pipefail
traces=$(realpath -e "${1:?file with long traces}")
cd "$(dirname "$0")/../.."
here=${RESULTS:-experiments/score_precision}  # folder of the csv files
mkdir -p "$here"
out=${OUT:-outputs/score_precision}
settings=("${@:2}")
compare() {  # NAME SETTING...: one row per scorer
  local name=$1; shift
  for scorer in cts llmlingua reference_likelihood entropy step_entropy; do
    python -m experiments.score_precision.agreement "$here/agreement.csv" "$name" "scorer=$scorer" "output_root=$out" \
      "$@" "${settings[@]}"
  done
}
compare built-in data.num_traces=100
compare real data=jsonl "data.path=$traces" data.limit=10 data.validation_fraction=0
python -m experiments.score_precision.plot "$here"
