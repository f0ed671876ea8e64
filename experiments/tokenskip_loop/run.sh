#!/usr/bin/env bash
# TokenSkip's loop: a taught student writes its own traces, and is tuned on them at ratios that a marker announces.
# Arguments: experiments/sweeps.sh.
experiment=tokenskip_loop
source "$(dirname "$0")/../sweeps.sh"
data=("data.taught.num_traces=$enough")
# The student with the marker answers at every ratio; the writer learns from the traces of testbed's Original.
sweep marker compression.granularity=word data=self_written data.writer=original sft.start=original \
  data.questions.num_problems=$questions scorer=tokenskip compression=mixed ratio=0.5 \
  'evaluation.ratios=[1.0,0.9,0.8,0.7,0.6]' 'evaluation.baselines=[original]'
python -m experiments.tokenskip_loop.slope "$out/multirun/tokenskip_loop" "$results"
finish
