# Shared by run.sh of testbed, methods and tokenskip_loop, which set `experiment` to their folder and source this file.
#
#   run.sh                      every sweep, three seeds; the same command goes on where it stopped
#   run.sh NAME...              the sweeps of these names only
#   run.sh --quick [NAME...]    a reduced version: two seeds, one ratio, fewer traces and problems
#
# Environment: OUT is the output root, the same for all three, so that they train Original, the reference model and
# common students once. SEEDS=42,43 takes other seeds (two at least), JOBS=1 runs one job at a time (two, with a thread
# each, is the default), SETTINGS="model=tiny" goes to every job. The csv files go into RESULTS: the folder of the
# experiment, or with any of SEEDS, SETTINGS and --quick a folder below OUT, as they are not the committed ones then.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
quick=
if [[ ${1:-} == --quick ]]; then quick=yes; shift; fi
out=${OUT:-outputs/experiments${quick:+-quick}}
results=${RESULTS:-experiments/$experiment}
if [[ -z ${RESULTS:-} && -n ${SEEDS:-}${SETTINGS:-}$quick ]]; then results=$out/results/$experiment; fi
mkdir -p "$results"
if [[ $quick ]]; then
  seeds=${SEEDS:-42,43} ratios=0.5 middle=0.5 upper=0.5 sizes=32,64 rates=0.001,0.003 samples=2 questions=60 num_problems=16
  data=(data.num_traces=32) enough=64  # traces of a student that solves some problems, as it has to write its own
else
  seeds=${SEEDS:-42,43,44} ratios=0.5,0.7,0.9,0.3 middle=0.5,0.7 upper=0.7,0.9 sizes=140,560 rates=0.0003,0.001,0.003 samples=4
  questions=600 num_problems=100 data=() enough=140
fi
wanted=" $* "
sweep() {  # NAME SETTING...: NAME-seeds.csv and NAME-results.csv go into the results
  local name=$1 table; shift
  [[ $wanted == "  " || $wanted == *" $name "* ]] || return 0
  # Reference model and classifier learn from other traces than those that are cut. Traces and training follow the seed,
  # the questions do not. The seed varies fastest, so that jobs side by side do not wait for each other's Original.
  python train.py -m "output_root=$out" hydra/launcher=joblib "hydra.launcher.n_jobs=${JOBS:-2}" trainer.num_threads=1 \
    data@labelled=planted labelled.seed=1000003 sft.validation_problems=0 benchmark.num_problems=$num_problems \
    "${data[@]}" "hydra.sweep.dir=$out/multirun/$experiment/$name" "$@" ${SETTINGS:-} "seed=$seeds"
  for table in seeds results; do
    cp "$out/multirun/$experiment/$name/$table.csv" "$results/$name-$table.csv"
  done
}
finish() {  # figure, and the tables of the page if the results are the committed ones
  python -m "experiments.$experiment.plot" "$results"
  if [[ $results == experiments/* ]]; then python -m experiments.pages; fi
}
