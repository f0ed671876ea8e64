#!/usr/bin/env bash
# Everything in this folder: students of six scorers and their ablations, two seeds. The same command
# again goes on where it stopped. Further settings go to every job: run.sh model=tiny benchmark.num_problems=8
set -euo pipefail
cd "$(dirname "$0")/../.."
here=experiments/mini_cts
out=${OUT:-outputs/mini_cts}
common=(
  "output_root=$out" seed=42,43                                     # traces and training follow the seed,
  data@labelled=planted labelled.seed=1000003                       # what reference model and classifier learn from
  benchmark.num_problems=200                                        # and the questions do not
  hydra/launcher=joblib hydra.launcher.n_jobs=2 trainer=cpu trainer.num_threads=1
  model.dtype=float32
  "$@"
)
sweep() {  # NAME SETTING...: its table goes into this folder
  local name=$1; shift
  python train.py -m "${common[@]}" "hydra.sweep.dir=$out/multirun/$name" "$@"
  for kind in seeds differences; do
    cp "$out/multirun/$name/$kind.csv" "$here/$name-$kind.csv"
    cp "$out/multirun/$name/$kind.md" "$here/$name-$kind.md"
  done
  cp "$out/multirun/$name/results.csv" "$here/$name-results.csv"  # every seed: loops, truncation, thinking
}
ratios=ratio=0.9,0.7,0.5 tokens=compression.granularity=token
sweep table $tokens scorer=random,tokenskip,llmlingua,cts,reference_likelihood,reference_walk $ratios
sweep reference $tokens evaluation=students scorer=cts,llmlingua reference=lora,none $ratios
sweep protection $tokens evaluation=students scorer=cts,random,tokenskip,llmlingua compression.protection=none,digits \
  ratio=0.7,0.5
sweep alignment $tokens evaluation=students scorer=cts compression.alignment=own,next $ratios
sweep condition $tokens evaluation=students scorer=cts scorer.condition=answer,question,question_answer $ratios
sweep granularity evaluation=students scorer=tokenskip,reference_walk,reference_likelihood,cts,random \
  compression.granularity=token,step $ratios
python -m experiments.mini_cts.plot
python -m experiments.mini_cts.ablations
