"""Traces that students are trained on if some sequences are over the limit, by `sft.overlong`; prints a csv.

    python -m experiments.real_traces.overlong traces.jsonl data.limit=200 > overlong.csv

Random scores at 0.7. Further arguments are overrides as train.py takes them; nothing is trained. `shared` counts the
traces that the students of a mode have in common.
"""

import csv
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from hydra import compose, initialize_config_dir

from cotpress.config import TrainConfig, register_schemas, to_objects
from cotpress.modeling.loading import tokenizer_fingerprint
from cotpress.prompts import ChatFormat
from cotpress.records import COMPRESSED_FILE, CompressedTrace
from cotpress.store.tables import read_records
from cotpress.tasks.flow import Flow
from cotpress.tracking import Job, open_tracker
from cotpress.training.batching import student_sequences
from cotpress.training.config import Overlong
from cotpress.training.module import SftModule
from cotpress.training.overlong import left_out, limited, sequence_lengths
from cotpress.training.stage import TrainingJob

CONF = Path(__file__).parents[2] / "conf"
COLUMNS = ("overlong", "system", "ratio", "max_tokens", "traces", "trained", "left_out", "cut", "shared")


def configured(traces: Path, root: Path, overrides: Sequence[str]) -> TrainConfig:
    """The settings of train.py for the traces of a file, all of them for training."""
    given = ["data=jsonl", f"data.path={traces.resolve()}", "data.validation_fraction=0", "scorer=random"]
    register_schemas()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = to_objects(compose("train", [*given, "tracker=none", f"output_root={root}", *overrides]))
    assert isinstance(config, TrainConfig)
    return config


def counts(config: TrainConfig) -> Iterator[tuple[object, ...]]:
    """Count the training traces of Original and of the scorer's student in every mode; one row of `COLUMNS` each."""
    root = Path(config.output_root)
    with open_tracker(config.tracker, Job(run_dir=root, name="overlong", system="", output_root=root)) as tracker:
        flow = Flow(config, tracker)
        systems = {"Original": flow.uncompressed(), config.scorer.name: flow.compressed()}
    chat, key = ChatFormat(flow.tokenizer, config.model.chat), tokenizer_fingerprint(flow.tokenizer)
    lengths, sequences = {}, {}
    for name, artifact in systems.items():
        lengths[name] = sequence_lengths(artifact, chat, format_=config.model.chat, tokenizer_key=key, store=flow.store)
        sequences[name] = student_sequences(read_records(artifact.file(COMPRESSED_FILE), CompressedTrace), chat)
    job = TrainingJob(kind=SftModule, tune=config.sft.tune, base=config.model, trainer=config.trainer, store=flow.store)
    for mode in Overlong:
        examples = {}
        for name in systems:
            others = [lengths[other] for other in systems if other != name] if mode is Overlong.common else []
            without = left_out(lengths[name], others, job.max_tokens)
            examples[name] = limited(sequences[name], job.max_tokens, cut=mode is Overlong.cut, without=without)
        shared = set.intersection(*({example.row for example in made.kept} for made in examples.values()))
        for name, made in examples.items():
            ratio = 1.0 if name == "Original" else config.ratio
            numbers = (len(sequences[name]), len(made.kept), sum(made.dropped.values()), made.num_cut, len(shared))
            yield (mode.value, name, ratio, job.max_tokens, *numbers)


def main(traces: Path, overrides: Sequence[str]) -> None:
    """Print the csv."""
    with tempfile.TemporaryDirectory() as folder:
        rows = [COLUMNS, *counts(configured(traces, Path(folder), overrides))]
    csv.writer(sys.stdout, lineterminator="\n").writerows(rows)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    main(Path(sys.argv[1]), sys.argv[2:])
