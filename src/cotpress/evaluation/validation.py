"""What a student in training is asked now and then, in the process that trains it.

Problems in, judged answers out, with a model that is loaded already: validation during fine-tuning.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from cotpress.evaluation.asking import Inquiry, Protocol, ask
from cotpress.evaluation.judging import prediction
from cotpress.generation.base import Backend
from cotpress.generation.local import TransformersBackend
from cotpress.modeling.config import ModelConfig
from cotpress.modeling.loading import load_tokenizer
from cotpress.prompts import ChatFormat
from cotpress.records import Prediction, Problem, Trace
from cotpress.store.artifacts import ArtifactStore
from cotpress.store.tables import read_records


def answer_problems(
    backend: Backend, written: ChatFormat, problems: Sequence[Problem], protocol: Protocol, *, system: str, ratio: float
) -> list[Prediction]:
    """Judged answers of a student in the problems' order, the samples of a problem one after the other.

    Args:
        backend: Who writes.
        written: The student's conversation format.
        problems: What is asked.
        protocol: How it is asked.
        system: Name that the predictions carry.
        ratio: Asked kept fraction that the predictions carry.
    """
    by_id = {p.id: p for p in problems}
    (answers,) = ask(backend, written, problems, [Inquiry(protocol=protocol)])
    return [prediction(by_id[a.id], a, written, system=system, ratio=ratio, thinks=True) for a in answers]


ROOM = 2
"""An answer of more than so many times the longest trace will not end soon, and one a little longer still may."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Validation:
    """Accuracy and tokens of a student on a few validation problems; a `training.fit.Validate`.

    Plain values, so that it reaches a process that trains on another device.

    Attributes:
        traces: `traces.parquet` of the data; its validation split is asked.
        num_problems: Most problems that are asked.
        extractor: Finds the answer in an output: that of the data, whose problems these are.
        model: What the student was made from: its tokenizer, chat format and context.
        store: Where models are kept that were converted or generated.
        generation_tokens: Answers written at once, counted as prompt plus budget of each.
        max_new_tokens: Budget of an answer; None is `ROOM` times the longest of the problems' own traces.
        system: The student's name.
        ratio: Asked kept fraction.
        marked: Whether the prompt announces it.
    """

    traces: Path
    num_problems: int
    extractor: str
    model: ModelConfig
    store: ArtifactStore
    generation_tokens: int
    max_new_tokens: int | None
    system: str
    ratio: float
    marked: bool

    def __call__(self, model: torch.nn.Module) -> Mapping[str, float]:
        """Ask a model in eval mode; nothing to say if there is no validation problem."""
        held_out = [t for t in read_records(self.traces, Trace) if t.split == "validation"][: self.num_problems]
        asked = [
            Problem(id=t.id, question=t.question, answer=t.answer, family=t.family, extractor=self.extractor)
            for t in held_out
        ]
        if not asked:
            return {}
        tokenizer = load_tokenizer(self.model, self.store)
        backend = TransformersBackend(
            model,
            tokenizer,
            context_tokens=self.model.context_tokens,
            generation_tokens=self.generation_tokens,
        )
        written = ChatFormat(tokenizer, self.model.chat)
        asking = Protocol(
            max_new_tokens=self.max_new_tokens or _budget(held_out, written),
            context_tokens=self.model.context_tokens,
            marker_ratio=self.ratio if self.marked else None,
        )
        predictions = answer_problems(backend, written, asked, asking, system=self.system, ratio=self.ratio)
        return {
            "val/accuracy": sum(p.correct for p in predictions) / len(predictions),
            "val/tokens": sum(p.num_tokens for p in predictions) / len(predictions),
        }


def _budget(traces: Sequence[Trace], written: ChatFormat) -> int:
    """Tokens that an answer may take, from what uncompressed traces take as completions."""
    return ROOM * max(len(written.completion_ids(written.text_ids(t.thinking), t.response)) for t in traces)
