#!/usr/bin/env bash
# Ceiling, floor, units, start, learning rate, protected tokens, and number of examples. Arguments: experiments/sweeps.sh.
experiment=testbed
source "$(dirname "$0")/../sweeps.sh"
control='evaluation.baselines=[original,random]' alone='evaluation.baselines=[original]'
# Words that open the sentences of the built-in thinking
openings='compression.keep_strings=[Okay,Alright,Hmm,So,The question,I know,First,At first,To begin,Then,Next,After that,Let me,Checking,To verify,Yes,Right,Wait,That makes]'
words=compression.granularity=word both=compression.granularity=word,step
sweep bounds $words $control scorer=planted ratio=$ratios                         # ceiling and floor
sweep cts $both $control scorer=cts ratio=$ratios
sweep tokenskip $both $control scorer=tokenskip ratio=$ratios
sweep tokens compression.granularity=token $alone scorer=cts,tokenskip ratio=$ratios
sweep start $words $control scorer=cts ratio=$middle sft.start=base,original
sweep rate $words $alone scorer=cts ratio=0.7 sft.tune.learning_rate=$rates
sweep protect $words $alone scorer=cts,random ratio=$middle compression.protection=math  # no equation with holes
sweep openings $words $alone scorer=cts,random ratio=$upper "$openings"                       # no sentence without its beginning
sweep examples $words $alone scorer=cts ratio=0.5 data.num_traces=$sizes
python -m experiments.testbed.contrasts "$out/multirun/testbed" "$results"
python -m experiments.testbed.damage "$out/multirun/testbed" "$results"
finish
