#!/usr/bin/env bash
# Everything in this folder: what scorers do to real reasoning traces. The same command again goes on
# where it stopped.
#   experiments/real_traces/run.sh TRACES.jsonl LABELLED.jsonl
# TRACES are scored and cut. Reference model and classifier learn from LABELLED: the steps of each thinking that overlap
# with its response. Only numbers leave these files, no text. RESULTS is the folder of the tables, this one by default, and
# LIMIT=4 cuts fewer traces.
set -euo pipefail
traces=$(realpath -e "${1:?file with the traces that are cut}")
labelled=$(realpath -e "${2:?file with other traces to learn from}")
cd "$(dirname "$0")/../.."
out=${OUT:-outputs/real_traces} here=${RESULTS:-experiments/real_traces}
mkdir -p "$here"
common=(
  "output_root=$out" data=jsonl "data.path=$traces" "data.limit=${LIMIT:-40}" data.validation_fraction=0
  data@labelled=jsonl "labelled.path=$labelled" labelled.limit=30 distill=overlap ratio=0.9,0.7,0.5
  compression.granularity=token model.dtype=float32 "${@:3}"
)
python compress.py -m "${common[@]}" "output=$out/compressed" scorer=cts,llmlingua,reference_likelihood,tokenskip
python compress.py -m "${common[@]}" "output=$out/compressed_by_base" scorer=cts,llmlingua,random reference=none
python compress.py -m "${common[@]}" "output=$out/compressed_by_steps" scorer=pir scorer.ablation=attention \
  scorer.target=answer reference=none
python -m experiments.real_traces.tables "$out" "$here"
python -m experiments.real_traces.units "$out" "$here"
python -m experiments.real_traces.plot "$here"
