#!/usr/bin/env bash
# Everything in this folder: tables of what each scorer finds, on three kinds of truth. About 3 hours on 2 idle cores.
#   experiments/scorer_fidelity/run.sh THOUGHT_ANCHORS.jsonl PRMBENCH.jsonl TRACES.jsonl [PART...]
# A PART is planted, anchors, overlap, prmbench, greedy or pir. RESULTS is the folder of the tables, this one by default, and
# LIMIT=8 takes fewer traces of every kind.
set -euo pipefail
anchors=$(realpath -e "${1:?file with measured sentence importance}")
prmbench=$(realpath -e "${2:?file with inserted redundant steps}")
traces=$(realpath -e "${3:?file with other real traces to learn from}")
cd "$(dirname "$0")/../.."
here=${RESULTS:-experiments/scorer_fidelity} out=${OUT:-outputs/fidelity_experiment}
mkdir -p "$here"
parts=" ${*:4} " few=${LIMIT:+truth.limit=$LIMIT}
part() { [[ $parts == "  " || $parts == *" $1 "* ]]; }
root="output_root=$out model.dtype=float32"  # bfloat16 decides a tenth of the tokens of cts otherwise
keep() {  # NAME TRUTH [ROOT]: the table that was written last goes into this folder
  for kind in csv md; do cp "$(ls -t "${3:-$out}"/fidelity/"$2"-*."$kind" | head -1)" "$here/$1.$kind"; done
}
READING=cts,self_information,reference_likelihood,reference_walk

if part planted; then
  # 100 held-out problems; the reference model and the classifier learn from others.
  planted="truth=planted $few"
  python fidelity.py -m $root $planted scorer=$READING,llmlingua,rho1_excess,reference_gain,tokenskip,mix
  python fidelity.py -m $root $planted reference=none \
    scorer=$READING,entropy,step_entropy,first_token_surprisal,gogi,answer_attention,random,head,tail,stride
  python fidelity.py -m $root $planted scorer=cts scorer.condition=question,question_answer
  python fidelity.py -m $root $planted scorer=cts scorer.pooling=word,step
  python fidelity.py -m $root $planted scorer=reference_likelihood scorer.pooling=token,step
  python fidelity.py -m $root $planted scorer=reference_walk scorer.unit=token,step
  keep planted planted
fi

anchored="truth=thought_anchors truth.path=$anchors $few"
if part anchors; then
  # Measured importance of sentences, all 20 traces of 5 problems. First what needs no training; steps left out (pir) and
  # units longer than a sentence among it. A sentence is judged by its mean, so reference_likelihood is self_information
  # upside down and reference_gain is rho1_excess. The walk goes by steps: one forward pass per word is slow.
  python -m experiments.scorer_fidelity.first_solution "$anchors" "$here"
  python fidelity.py -m $root $anchored reference=none \
    scorer=cts,self_information,entropy,step_entropy,first_token_surprisal,random
  python fidelity.py -m $root $anchored reference=none scorer=pir scorer.ablation=attention scorer.target=answer
  python fidelity.py -m $root $anchored reference=none scorer=cts,self_information scorer.pooling=paragraph,segment
  keep thought_anchors thought_anchors
  python fidelity.py -m $root $anchored scorer=cts,self_information,rho1_excess,tokenskip
  keep thought_anchors thought_anchors
  python fidelity.py -m $root $anchored reference=none scorer=answer_attention,gogi
  python fidelity.py -m $root $anchored scorer=reference_walk scorer.unit=step
  keep thought_anchors thought_anchors
fi

if part overlap; then
  # The same with a reference model and a classifier of this domain: they learn from thirty other traces, by the overlap of
  # thinking and response.
  learnt="output_root=${out}_overlap model.dtype=float32 data@labelled=jsonl labelled.path=$traces labelled.limit=30 distill=overlap"
  python fidelity.py -m $learnt $anchored scorer=tokenskip,cts,self_information,rho1_excess
  keep thought_anchors_overlap thought_anchors "${out}_overlap"
fi

if part prmbench; then
  # Inserted redundant steps, all rows; they have no response to condition on, and no answer for pir or first_solution.
  inserted="truth=prmbench truth.path=$prmbench $few"
  python fidelity.py -m $root $inserted reference=none \
    scorer=self_information,entropy,step_entropy,first_token_surprisal,random
  python fidelity.py -m $root $inserted reference=none scorer=cts scorer.condition=question
  python fidelity.py -m $root $inserted reference=none scorer=cts scorer.condition=question scorer.pooling=paragraph,segment
  keep prmbench prmbench
  python fidelity.py -m $root $inserted scorer=self_information,rho1_excess,tokenskip
  python fidelity.py -m $root $inserted scorer=cts scorer.condition=question
  python fidelity.py -m $root $inserted scorer=reference_walk
  keep prmbench prmbench
fi

if part greedy; then
  # The greedy deletion costs minutes per trace: ten planted ones, sixteen tokens per round, with others beside it.
  python fidelity.py $root truth=planted truth.limit=10 reference=none scorer=greedy_nll scorer.deletions_per_round=16
  python fidelity.py -m $root truth=planted truth.limit=10 scorer=reference_walk,cts,random
  keep planted_10 planted
fi

if part pir; then
  # Leaving out steps, on the 100 planted traces: exactly, with the final answer as the paper has it, and in attention alone
  # with the whole response.
  ablated="output_root=${out}_pir model.dtype=float32 truth=planted $few reference=none scorer=pir"
  python fidelity.py $ablated scorer.ablation=attention
  python fidelity.py $ablated scorer.target=answer
  keep pir planted "${out}_pir"
fi

if [[ $here == experiments/* ]]; then python -m experiments.scorer_fidelity.plot; fi  # needs every part
