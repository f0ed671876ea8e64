"""What the model wrote, as an artifact of its own: other filters ask no model again."""

import dataclasses
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cotpress.data.self_written.config import SelfWrittenDataConfig
from cotpress.devices.config import TrainerConfig
from cotpress.generation.backends import generation_identity, open_backend, sampling_of
from cotpress.generation.base import Generation
from cotpress.generation.config import GenerationConfig
from cotpress.modeling.config import ModelConfig
from cotpress.modeling.loading import load_tokenizer, tokenizer_fingerprint
from cotpress.progress import Progress
from cotpress.prompts import ChatFormat
from cotpress.records import Problem
from cotpress.store.artifacts import SCRATCH, Artifact, ArtifactStore, Summary, fingerprint
from cotpress.store.journal import Journal
from cotpress.store.tables import read_records, write_records

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger(__name__)

DRAFTS = "drafts.parquet"
TEMPERATURE, TOP_P = 0.6, 0.95
"""For several answers to a question, unless given: as in evaluation, the values of CTS (arXiv 2505.17827)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """One answer as the model wrote it, not yet judged.

    Attributes:
        id: The question's.
        sample: Index of the answer for this question.
        text: Everything that was generated.
        num_tokens: Generated tokens, the end token not counted.
        finish_reason: As in `cotpress.generation.base.Generation`.
    """

    id: str
    sample: int
    text: str
    num_tokens: int
    finish_reason: str


def write(
    config: SelfWrittenDataConfig,
    questions: Artifact,
    *,
    model: ModelConfig,
    trainer: TrainerConfig,
    store: ArtifactStore,
) -> Artifact:
    """The model's answers (`drafts.parquet`: `Draft` records in the questions' order, samples one after the other).

    The prompt is the one that a student is asked with, without a ratio marker. A question that was asked before, word
    for word, is not asked again. An interrupted call goes on where it stopped: every answer is kept as it comes, and
    a sampled one depends on its question and index alone.

    Args:
        config: How it is asked.
        questions: Artifact with `problems.parquet`.
        model: Who is asked; a server has to serve the same model, for it gets the prompts as token ids.
        trainer: Hardware.
        store: Where the result goes.

    Raises:
        ConfigError: A value is out of range.
        GenerationError: The server fails.
        ModelError: The model or its adapter cannot be loaded.
    """
    tokenizer, generation = load_tokenizer(model, store), _generation(config)
    identity = {
        "questions": questions.key,
        "prompt": _prompt_identity(tokenizer, model),
        "max_new_tokens": config.max_new_tokens,
        "samples": config.samples,
        **generation_identity(generation, model, trainer, store, adapter=config.adapter),
    }

    def produce(folder: Path) -> Summary:
        asked = distinct(read_records(questions.file("problems.parquet"), Problem))
        draws = [(p, k) for p in asked for k in range(config.samples)]
        kept = Journal(folder / SCRATCH / "drafts.jsonl", Draft, lambda draft: (draft.id, draft.sample))
        waiting = [(p, k) for p, k in draws if (p.id, k) not in kept.done]
        if waiting:
            with Progress("write", len(draws), "answers", done=len(draws) - len(waiting)) as progress:
                log.info("write: asking for %d of %d answers", len(waiting), len(draws))
                format_ = ChatFormat(tokenizer, model.chat)

                def note(index: int, written: Generation) -> None:
                    kept.add(_draft(*waiting[index], written))
                    progress.advance(1)

                open_backend(generation, model, trainer, store, adapter=config.adapter).complete(
                    [format_.prompt_ids(p.question) for p, _ in waiting],
                    max_new_tokens=config.max_new_tokens,
                    sampling=sampling_of(generation),
                    streams=[f"{p.id}/{k}" for p, k in waiting],
                    on_done=note,
                )
        write_records(folder / DRAFTS, [kept.done[p.id, k] for p, k in draws], Draft)
        return Summary(num_rows=len(draws), facts={"questions": len(asked)})

    return store.build("write", identity, produce)


def distinct(problems: Sequence[Problem]) -> list[Problem]:
    """The problems without those whose question an earlier one has, word for word."""
    first: dict[str, Problem] = {}
    for problem in problems:
        first.setdefault(problem.question, problem)
    return list(first.values())


def _generation(config: SelfWrittenDataConfig) -> GenerationConfig:
    """How tokens are chosen where the settings leave it open: one answer is greedy, several are drawn."""
    given = config.generation
    if config.samples == 1:
        return given
    return dataclasses.replace(
        given,
        temperature=TEMPERATURE if given.temperature is None else given.temperature,
        top_p=TOP_P if given.top_p is None else given.top_p,
    )


def _draft(problem: Problem, sample: int, written: Generation) -> Draft:
    return Draft(
        id=problem.id,
        sample=sample,
        text=written.text,
        num_tokens=written.num_tokens,
        finish_reason=written.finish_reason,
    )


def _prompt_identity(tokenizer: "PreTrainedTokenizerBase", model: ModelConfig) -> dict[str, Any]:
    """What determines the token ids of a prompt, besides its question."""
    template = tokenizer.chat_template
    return {
        "tokenizer": tokenizer_fingerprint(tokenizer),
        "template": fingerprint({"template": template}),
        "system": model.chat.system,
    }
