#!/usr/bin/env bash
# The same trainings in one process, in two of one machine, and on two machines: LoRA with ddp, all weights with fsdp2.
# SRUN starts the two machines, as in SRUN="srun -N 2 --ntasks-per-node=1"; without it they are two copies on this one.
set -euo pipefail
cd "$(dirname "$0")/../.."
here=${RESULTS:-experiments/several_machines}  # folder of the csv files
mkdir -p "$here"
out=${OUT:-outputs/several_machines}
train() {  # FOLDER [SETTING...]
  ${START:-} python train.py model=tiny model.dtype=float32 scorer=random ratio=0.7 \
    compression.granularity=token reference=none sft.validation_problems=0 'evaluation.baselines=[]' until=sft \
    trainer.num_threads=1 trainer.tokens_per_batch=256 \
    "output_root=$out/$1" "${@:2}"
}
for method in lora full; do
  strategy=$([ $method = lora ] && echo ddp || echo fsdp2)
  two=("sft=$method" "trainer=$strategy" trainer.accelerator=cpu)
  train "$method-one" "sft=$method" trainer=cpu
  train "$method-two" "${two[@]}" trainer.devices=2
  apart=("$method-machines" "${two[@]}" trainer.devices=1 trainer.num_nodes=2)
  if [ -n "${SRUN:-}" ]; then
    START=$SRUN train "${apart[@]}"
  else
    train "${apart[@]}" trainer.rendezvous=127.0.0.1:29437 & other=$!
    train "${apart[@]}" trainer.rendezvous=127.0.0.1:29437
    wait $other
  fi
done
python -m experiments.several_machines.curves "$out" "$here/losses.csv"
python -m experiments.several_machines.plot "$here"
