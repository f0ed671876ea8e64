#!/usr/bin/env bash
# Everything in this folder: tables of what each scorer finds, on three kinds of truth. About 2 hours on 2 idle cores.
#   experiments/scorer_fidelity/run.sh THOUGHT_ANCHORS.jsonl PRMBENCH.jsonl TRACES.jsonl
set -euo pipefail
anchors=$(realpath -e "${1:?file with measured sentence importance}")
prmbench=$(realpath -e "${2:?file with inserted redundant steps}")
traces=$(realpath -e "${3:?file with other real traces to learn from}")
cd "$(dirname "$0")/../.."
here=experiments/scorer_fidelity out=outputs/fidelity_experiment
root="output_root=$out model.dtype=float32"  # bfloat16 decides a tenth of the tokens of cts otherwise
keep() {  # NAME TRUTH [ROOT]: the table that was written last goes into this folder
  for kind in csv md; do cp "$(ls -t "${3:-$out}"/fidelity/"$2"-*."$kind" | head -1)" "$here/$1.$kind"; done
}
READING=cts,self_information,reference_likelihood,reference_walk

# Planted labels: 100 held-out problems; the reference model and the classifier learn from 198 others.
python fidelity.py -m $root truth=planted scorer=$READING,llmlingua,rho1_excess,reference_gain,tokenskip,mix
python fidelity.py -m $root truth=planted reference=none \
  scorer=$READING,entropy,step_entropy,first_token_surprisal,gogi,answer_attention,random,head,tail,stride
python fidelity.py -m $root truth=planted scorer=cts scorer.condition=question,question_answer
python fidelity.py -m $root truth=planted scorer=cts scorer.pooling=word,step
python fidelity.py -m $root truth=planted scorer=reference_likelihood scorer.pooling=token,step
python fidelity.py -m $root truth=planted scorer=reference_walk scorer.unit=token,step
python fidelity.py -m $root truth=planted scorer=reference_walk scorer.max_surprise=0.5
keep planted planted

# Measured importance of sentences, ten traces. A sentence is judged by its mean, so reference_likelihood is
# self_information upside down and reference_gain is rho1_excess. The walk goes by steps: one forward pass per word of
# 30,000 is slow.
anchored="truth=thought_anchors truth.path=$anchors truth.limit=10"
python fidelity.py -m $root $anchored scorer=cts,self_information,rho1_excess,tokenskip
python fidelity.py -m $root $anchored scorer=reference_walk scorer.unit=step
python fidelity.py -m $root $anchored reference=none \
  scorer=cts,self_information,entropy,step_entropy,first_token_surprisal,answer_attention,random,gogi
keep thought_anchors thought_anchors

# The same with a reference model and a classifier of this domain: they learn from thirty other traces, by the overlap of
# thinking and response.
learnt="output_root=${out}_overlap model.dtype=float32 data@labelled=jsonl labelled.path=$traces labelled.limit=30 distill=overlap"
python fidelity.py -m $learnt $anchored scorer=tokenskip,cts,self_information,rho1_excess
keep thought_anchors_overlap thought_anchors "${out}_overlap"

# Inserted redundant steps; these rows have no response to condition on.
inserted="truth=prmbench truth.path=$prmbench truth.limit=60"
python fidelity.py -m $root $inserted scorer=self_information,reference_walk,rho1_excess,tokenskip
python fidelity.py -m $root $inserted scorer=cts scorer.condition=question
python fidelity.py -m $root $inserted reference=none \
  scorer=self_information,entropy,step_entropy,first_token_surprisal,random
python fidelity.py -m $root $inserted reference=none scorer=cts scorer.condition=question
keep prmbench prmbench

# The greedy deletion costs minutes per trace: ten planted ones, sixteen tokens per round, with others beside it.
python fidelity.py $root truth=planted truth.limit=10 reference=none scorer=greedy_nll scorer.deletions_per_round=16
python fidelity.py -m $root truth=planted truth.limit=10 scorer=reference_walk,cts,random
keep planted_10 planted

# Leaving out steps, on the same 100 planted traces: exactly, with the final answer as the paper has it, and in attention
# alone with the whole response.
ablated="output_root=${out}_pir model.dtype=float32 truth=planted reference=none scorer=pir"
python fidelity.py $ablated scorer.ablation=attention
python fidelity.py $ablated scorer.target=answer
keep pir planted "${out}_pir"

python -m experiments.scorer_fidelity.plot
