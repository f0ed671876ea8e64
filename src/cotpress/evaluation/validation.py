"""Validation during fine-tuning: the student in training answers a few held-out problems in the training process."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from cotpress.evaluation.judging import prediction
from cotpress.evaluation.protocol import Answer, Protocol, answer_key
from cotpress.generation.backends import Backend
from cotpress.generation.hf import TransformersBackend
from cotpress.modeling.config import ModelConfig
from cotpress.modeling.loading import load_tokenizer
from cotpress.prompts import ChatFormat
from cotpress.records import Prediction, Problem, Trace
from cotpress.store.artifacts import ArtifactStore
from cotpress.store.tables import read_records

ROOM = 2
"""Budget of an answer, relative to the longest trace; an answer beyond it will hardly end soon."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Validation:
    """Accuracy and tokens of a student on a few validation problems; a `training.fit.Validate`.

    The problems come from the validation split of `traces`. Without a budget an answer has `ROOM` times the longest of
    the problems' own traces. With `marked` the prompt announces the ratio.

    Holds plain values only, so that it can be sent to a training process on another device.
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
        """Metrics of a model in eval mode; empty if there is no validation problem."""
        held_out = [t for t in read_records(self.traces, Trace) if t.split == "validation"][: self.num_problems]
        if not held_out:
            return {}
        problems = [
            Problem(id=t.id, question=t.question, answer=t.answer, family=t.family, extractor=self.extractor)
            for t in held_out
        ]
        tokenizer = load_tokenizer(self.model, self.store)
        context = self.model.context_tokens
        backend = TransformersBackend(
            model, tokenizer, context_tokens=context, generation_tokens=self.generation_tokens
        )
        chat = ChatFormat(tokenizer, self.model.chat)
        longest = max(len(chat.completion_ids(chat.text_ids(t.thinking), t.response)) for t in held_out)
        protocol = Protocol(
            max_new_tokens=self.max_new_tokens or ROOM * longest,
            context_tokens=context,
            marker_ratio=self.ratio if self.marked else None,
        )
        predictions = answer_problems(backend, chat, problems, protocol, system=self.system, ratio=self.ratio)
        return {
            "val/accuracy": sum(p.correct for p in predictions) / len(predictions),
            "val/tokens": sum(p.num_tokens for p in predictions) / len(predictions),
        }


def answer_problems(
    backend: Backend, chat: ChatFormat, problems: Sequence[Problem], protocol: Protocol, *, system: str, ratio: float
) -> list[Prediction]:
    """Greedy, judged answers of a student, one per problem in their order."""
    requests = protocol.requests(problems, chat)
    done = dict(zip(requests, backend.complete(list(requests.values())), strict=True))
    answers = [(p, Answer.of(p, 0, done[answer_key(p.id, 0)], chat)) for p in problems]
    return [prediction(p, answer, chat, system=system, ratio=ratio, thinks=True) for p, answer in answers]
