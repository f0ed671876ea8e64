#!/usr/bin/env bash
# Methods beside deletion, and baselines, at the lengths that they come to. Arguments: experiments/sweeps.sh.
# Students that testbed has too (Original, Random, planted, cts and tokenskip) are found in OUT.
experiment=methods
source "$(dirname "$0")/../sweeps.sh"
words=compression.granularity=word alone='evaluation.baselines=[original]'
without_training=original,random,truncation,budget_forcing,chain_of_draft
sweep deletion $words scorer=cts,tokenskip,reference_walk,planted ratio=$middle \
  "evaluation.baselines=[$without_training]"
sweep units scorer=cts ratio=0.5 compression.granularity=step,segment $alone
sweep pir scorer=pir scorer.target=answer scorer.ablation=attention ratio=0.5 compression.granularity=step $alone
sweep allocation $words scorer=cts ratio=0.5 compression.allocation=threshold,budget $alone
sweep mask_loss $words scorer=cts ratio=0.5 compression.mode=mask_loss compression.soft_weights=false,true $alone
sweep first_solution $words compression.mode=first_solution $alone
empty="$words scorer=random scorer.name=response_only reference=none ratio=0"
sweep response_only $empty $alone
sweep no_question $words scorer=random scorer.name=qfft reference=none ratio=1 sft.question=false \
  'evaluation.baselines=[]'
sweep shortest $empty data.num_traces=$enough evaluation.shortest.writer=original evaluation.shortest.samples=$samples \
  'evaluation.baselines=[original,shortest]'
python -m experiments.methods.front "$out/multirun/methods" "$results"
finish
