#!/usr/bin/env bash
# Every experiment that needs nothing but this package, one after the other: run_all.sh [--quick] [DATA]
#
# --quick redoes a reduced version of every table, below outputs/quick; the committed csv files stay as they are. DATA is a
# folder with thought_anchors.jsonl, prmbench.jsonl, traces.jsonl and labelled.jsonl, rows as the pages of scorer_fidelity
# and real_traces say; without it what needs real traces is left out. `speed` is separate, as it needs an idle machine and
# the release: make bench.
set -euo pipefail
cd "$(dirname "$0")/.."
quick=
if [[ ${1:-} == --quick ]]; then quick=--quick; shift; fi
data=${1:+$(realpath -e "$1")}
run() {  # NAME ARGUMENT...: an experiment, with its own results and output root if it is a reduced version
  local name=$1; shift
  echo "== $name"
  if [[ $quick ]]; then
    mkdir -p "outputs/quick/$name"
    OUT=outputs/quick/out/$name RESULTS=outputs/quick/$name "experiments/$name/run.sh" "$@"
  else
    "experiments/$name/run.sh" "$@"
  fi
}
if [[ $quick ]]; then export LIMIT=4; fi
for name in testbed methods tokenskip_loop; do  # these share one output root
  echo "== $name"
  OUT=${quick:+outputs/quick/out/students} RESULTS=${quick:+outputs/quick/$name} "experiments/$name/run.sh" $quick
done
run merged_student ${quick:+data.num_traces=40} ${quick:+benchmark.num_problems=24}
run several_machines
if [[ $data ]]; then
  run scorer_fidelity "$data"/{thought_anchors,prmbench,labelled}.jsonl ${quick:+planted anchors prmbench pir}
  run real_traces "$data/traces.jsonl" "$data/labelled.jsonl"
  run score_precision "$data/traces.jsonl" ${quick:+data.limit=2}
fi
