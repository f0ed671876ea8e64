"""The extractions of a language model as an artifact of their own: other filters ask no model again."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cotpress.devices.config import TrainerConfig
from cotpress.distill.config import LlmDistillConfig
from cotpress.distill.llm import PROMPT_VERSION, chunk_ranges, conversation
from cotpress.generation.backends import generation_identity, open_backend, sampling_of
from cotpress.generation.base import Backend, Generation
from cotpress.modeling.config import ModelConfig
from cotpress.progress import Progress
from cotpress.records import Trace
from cotpress.store.artifacts import SCRATCH, Artifact, ArtifactStore, Summary
from cotpress.store.journal import Journal
from cotpress.store.tables import write_records

log = logging.getLogger(__name__)

EXTRACTIONS = "extractions.parquet"
_Chunk = tuple[Trace, int, int]
"""A trace, and the character range of one chunk of its thinking."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Extraction:
    """What the language model wrote about one chunk of one trace.

    Attributes:
        id: The trace.
        start: First character of the chunk in `thinking`.
        end: One past its last character.
        answer: Everything that the model wrote.
        finish_reason: As in `cotpress.generation.base.Generation`.
    """

    id: str
    start: int
    end: int
    answer: str
    finish_reason: str


def extract(
    config: LlmDistillConfig,
    traces: Artifact,
    read: Callable[[], Sequence[Trace]],
    *,
    model: ModelConfig,
    trainer: TrainerConfig,
    store: ArtifactStore,
) -> Artifact:
    """The language model's answers (`extractions.parquet`, `Extraction` records in the traces' order).

    An interrupted call goes on where it stopped: every answer is kept as it comes.

    Args:
        config: Which model, and what it is asked.
        traces: The data artifact.
        read: Gives those of its traces that are asked about; called only if there is something to ask.
        model: The run's model, which extracts unless the configuration names another.
        trainer: Hardware.
        store: Where the result goes.

    Raises:
        ConfigError: A value is out of range.
        GenerationError: The server fails.
        ModelError: The model cannot be loaded.
    """
    extracting = config.model or model
    identity = {
        "data": traces.key,
        "prompt": PROMPT_VERSION,
        "show_response": config.show_response,
        "chunk_words": config.chunk_words,
        "max_new_tokens": config.max_new_tokens,
        **generation_identity(config.generation, extracting, trainer, store),
    }

    def produce(folder: Path) -> Summary:
        rows = read()
        chunks = [(trace, *chunk) for trace in rows for chunk in chunk_ranges(trace.thinking, config.chunk_words)]
        kept = Journal(folder / SCRATCH / "extractions.jsonl", Extraction, lambda found: (found.id, found.start))
        _ask(config, chunks, kept, lambda: open_backend(config.generation, extracting, trainer, store))
        write_records(folder / EXTRACTIONS, [kept.done[t.id, start] for t, start, _ in chunks], Extraction)
        return Summary(num_rows=len(chunks), facts={"traces": len(rows), "prompt_version": PROMPT_VERSION})

    return store.build("extract", identity, produce)


def _ask(
    config: LlmDistillConfig,
    chunks: Sequence[_Chunk],
    kept: Journal[Extraction, tuple[str, int]],
    backend: Callable[[], Backend],
) -> None:
    """Ask about every chunk that has no answer yet, and keep each answer as it comes."""
    waiting = [(trace, start, end) for trace, start, end in chunks if (trace.id, start) not in kept.done]
    with Progress("extract", len(chunks), "chunks", done=len(chunks) - len(waiting)) as progress:

        def note(index: int, written: Generation) -> None:
            trace, start, end = waiting[index]
            kept.add(
                Extraction(id=trace.id, start=start, end=end, answer=written.text, finish_reason=written.finish_reason)
            )
            progress.advance(1)

        if waiting:
            log.info("extract: asking for %d of %d chunks", len(waiting), len(chunks))
            backend().chat(
                [conversation(*chunk, show_response=config.show_response) for chunk in waiting],
                max_new_tokens=config.max_new_tokens,
                sampling=sampling_of(config.generation),
                on_done=note,
            )
