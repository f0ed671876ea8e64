"""Answers of a LoRA student as an adapter and as its merged model, on the problems of its run.

    python -m experiments.merged_student.agreement CSV RUN FOLDER

RUN is a run directory of `train.py` whose student is an adapter; FOLDER receives the merged models. The student is
merged onto its base model in float32 and onto a copy of that in bfloat16. Every pair answers greedily; a row of the csv
file says how many texts and verdicts are the same.
"""

import csv
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import torch

from cotpress.answers import judge
from cotpress.devices.config import TrainerConfig
from cotpress.generation.backends import STOP, Request
from cotpress.generation.hf import TransformersBackend
from cotpress.hub.folder import write_folder
from cotpress.hub.merging import base_model
from cotpress.hub.publication import Publication, read_publication
from cotpress.modeling.config import Dtype, ModelConfig, ModelSource
from cotpress.modeling.loading import load_model, load_tokenizer, quiet_transformers
from cotpress.modeling.training_record import TrainingRecord
from cotpress.prompts import ChatFormat
from cotpress.records import PREDICTIONS_FILE, Prediction
from cotpress.store.tables import read_records

MAX_NEW_TOKENS = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Two ways of asking one student.

    Attributes:
        weights: Number format of the base model, and so of the merged one.
        computed: Number format of the forward passes.
        adapter: `beside` the weights in every forward pass (PEFT), or `folded` into them as `evaluate.py` does.
        same_texts: Number of problems with the same text, to the last token.
        same_verdicts: Number of problems that both or neither solve.
        adapter_right: Number of problems that the adapter solves.
        merged_right: Number of problems that the merged model solves.
    """

    weights: str
    computed: str
    adapter: str
    problems: int
    same_texts: int
    same_verdicts: int
    adapter_right: int
    merged_right: int


class Student:
    """A student of a run, its problems, and models to ask."""

    def __init__(self, run: Path, folder: Path, num_problems: int | None = None) -> None:
        self.publication: Publication = read_publication(run, "local/base", merge=True)
        self.problems = [p for p in read_records(run / PREDICTIONS_FILE, Prediction) if p.sample == 0][:num_problems]
        self.folder, self.store = folder, self.publication.store
        self.base = base_model(self.publication.config, None)
        self.tokenizer = load_tokenizer(self.base, self.store)
        record = TrainingRecord.beside(self.publication.weights, "student")
        assert record is not None
        self.chat = ChatFormat(self.tokenizer, record.chat)

    def base_in(self, dtype: Dtype) -> ModelConfig:
        """The base model with weights of a number format; one in bfloat16 is a copy of it."""
        if dtype is Dtype.float32:
            return self.base
        path = self.folder / "base-bfloat16"
        if not (path / "config.json").exists():
            with quiet_transformers():
                load_model(replace(self.base, dtype=Dtype.float32), self.store).to(torch.bfloat16).save_pretrained(path)
            self.tokenizer.save_pretrained(path)
        return ModelConfig(name="base", source=ModelSource.hub, path=str(path), hub_id=self.base.path)

    def merged_in(self, dtype: Dtype) -> ModelConfig:
        """The merged model with weights of a number format."""
        base, output = self.base_in(dtype), self.folder / f"merged-{dtype.value}"
        path = None if base is self.base else base.path
        return ModelConfig(
            name="merged",
            source=ModelSource.hub,
            path=str(write_folder(self.publication, "local/merged", output, base_path=path)),
        )

    def answers(self, model: torch.nn.Module) -> list[tuple[str, bool]]:
        """Text and verdict of each problem, greedily."""
        backend = TransformersBackend(
            model, self.tokenizer, context_tokens=8192, generation_tokens=TrainerConfig().generation_tokens
        )
        prompts = [self.chat.prompt_ids(problem.question) for problem in self.problems]
        requests = [Request(prompt=ids, max_new_tokens=MAX_NEW_TOKENS, stream="") for ids in prompts]
        texts = backend.complete(requests)
        return [
            (done.text, done.finish_reason == STOP and judge(done.text, problem.answer).correct)
            for done, problem in zip(texts, self.problems, strict=True)
        ]

    def compare(self, weights: Dtype, computed: Dtype, *, beside: bool) -> Row:
        """Ask the student as an adapter and as the merged model."""
        both = []
        for model, adapter in ((self.base_in(weights), self.publication.weights), (self.merged_in(weights), None)):
            config = replace(model, dtype=computed)
            loaded = load_model(config, self.store, adapter=adapter, merge_adapter=not beside)
            both.append(self.answers(loaded))
        pairs = list(zip(*both, strict=True))
        return Row(
            weights=weights.value,
            computed=computed.value,
            adapter="beside" if beside else "folded",
            problems=len(pairs),
            same_texts=sum(one[0] == other[0] for one, other in pairs),
            same_verdicts=sum(one[1] == other[1] for one, other in pairs),
            adapter_right=sum(one[1] for one, _ in pairs),
            merged_right=sum(other[1] for _, other in pairs),
        )


CASES = (
    (Dtype.float32, Dtype.float32, True),
    (Dtype.float32, Dtype.float32, False),
    (Dtype.bfloat16, Dtype.bfloat16, True),
    (Dtype.bfloat16, Dtype.bfloat16, False),
    (Dtype.bfloat16, Dtype.float32, True),
)
"""Number format of the weights and of the forward passes, and whether the adapter stays beside the weights."""


def rows(student: Student) -> Iterator[Row]:
    """All comparisons, one after the other."""
    for weights, computed, beside in CASES:
        yield student.compare(weights, computed, beside=beside)


def main(arguments: Sequence[str]) -> None:
    """Compare, print and write."""
    target, run, folder = map(Path, arguments)
    names = [f.name for f in fields(Row)]
    folder.mkdir(parents=True, exist_ok=True)
    with target.open("w", encoding="utf-8", newline="") as handle:
        writer = csv.DictWriter(handle, names, lineterminator="\n")
        writer.writeheader()
        for row in rows(Student(run, folder)):
            writer.writerow(asdict(row))
            sys.stdout.write(
                f"weights {row.weights}, computed in {row.computed}, adapter {row.adapter}: {row.same_texts} of "
                f"{row.problems} texts and {row.same_verdicts} verdicts are the same; right: adapter "
                f"{row.adapter_right}, merged {row.merged_right}\n"
            )


if __name__ == "__main__":
    if len(sys.argv) != 4:
        raise SystemExit(__doc__)
    main(sys.argv[1:])
