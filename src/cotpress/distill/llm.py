"""The extractor `llm`: a language model copies out the words that are needed, and two filters drop unfaithful copies.

The instruction follows LLMLingua-2 (arXiv 2403.12968, section 3.1: only delete, keep the order, change nothing, add
nothing), but asks for the words from which the answer is derived instead of those from which the text can be
reconstructed. CTS (arXiv 2505.17827) does not publish its instruction. Long thinking is extracted in chunks, as in
LLMLingua-2 (512 tokens), because models shorten long texts more and more towards their end.

The filters are those of LLMLingua-2, section 3.3. With the words W of the original, the words E of the extraction, and
the words L of W that the alignment labels as kept:

    variation rate   VR = |{e in E : e not in W}| / |E|       words that the model made up
    hitting rate     HR = |{e in E : e in W}| / |W|           words that it copied
    matching rate    MR = |L| / |W|
    alignment gap    AG = HR - MR                             copies that were not matched to a place

The paper drops the 5 % of samples with the highest VR, then the 10 % of the rest with the highest AG. A sample is a
whole trace here, its chunks counted together, because the reference model learns from whole traces.

Deviation: the release drops all samples that reach the 90th percentile, for VR too, and so drops all samples of a set
in which all are equally good. Here no more than the given share is dropped, and of equal values either all or none.
"""

import itertools
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from cotpress.devices.config import TrainerConfig
from cotpress.distill.alignment import Ranges, Word, align, matched_ranges, merged, words
from cotpress.distill.config import LlmDistillConfig
from cotpress.generation.asking import ask, journal
from cotpress.generation.backends import (
    LENGTH,
    REFUSED,
    STOP,
    KeptBackend,
    Message,
    Request,
    generation_identity,
    sampling_of,
)
from cotpress.modeling.config import ModelConfig
from cotpress.modeling.segments import step_ranges
from cotpress.records import TRACES_FILE, Trace
from cotpress.store.artifacts import Artifact, ArtifactStore, Summary
from cotpress.store.source import identified
from cotpress.store.tables import read_records, training_traces, write_records

Extracted: TypeAlias = tuple[Mapping[str, Ranges], Summary]
"""Valuable part of each trace by its id, and the number of traces without one by reason."""
EXTRACTIONS = "extractions.parquet"
_SYSTEM = "You shorten chains of thought by deleting words."
_RULES = """\
Below stand a problem and a part of the reasoning about it. Copy from the reasoning only the words that are needed to \
derive the answer, and delete all others.

1. Only delete. Keep the order of what is left.
2. Do not change a word: 'divided' -> 'divide' is wrong.
3. Do not add words or symbols and do not abbreviate: '30 plus 20 equals 50' -> '30 + 20 = 50' is wrong.
4. Keep numbers, operators and formulas of every step that is needed exactly as they are written.
5. Delete hesitation, restated questions, repetitions, checks of what is known already, and attempts that are given up.
6. Write only what is left, without a comment. If nothing of it is needed, write NONE."""
_FENCED = re.compile(r"\A```\w*\n(.*?)\n?```\Z", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Extraction:
    """The language model's whole answer about the chunk `thinking[start:end]` of one trace."""

    id: str
    start: int
    end: int
    answer: str
    finish_reason: str


def extract(
    config: LlmDistillConfig, traces: Artifact, model: ModelConfig, trainer: TrainerConfig, store: ArtifactStore
) -> Artifact:
    """The language model's answers (`extractions.parquet`, `Extraction` records in the order of the traces).

    An artifact of its own, so that other filter settings generate nothing. An interrupted call continues where it
    stopped.

    Raises:
        GenerationError: The server fails.
        ModelError: The model cannot be loaded.
    """
    setting = "model.path" if config.model is None else "distill.model.path"
    identity = {
        "data": traces.key,
        "show_response": config.show_response,
        "chunk_words": config.chunk_words,
        "max_new_tokens": config.max_new_tokens,
        **generation_identity(config.generation, model, trainer, key=setting),
    }

    def produce(folder: Path) -> Summary:
        rows = training_traces(traces.file(TRACES_FILE))
        chunks = {
            f"{trace.id}/{start}": (trace, start, end)
            for trace in rows
            for start, end in chunk_ranges(trace.thinking, config.chunk_words)
        }
        requests = {
            key: Request(
                prompt=conversation(*chunk, show_response=config.show_response),
                max_new_tokens=config.max_new_tokens,
                stream=str(number),
            )
            for number, (key, chunk) in enumerate(chunks.items())
        }
        done = journal(folder)
        with KeptBackend() as opened:
            ask(
                [(requests, done)],
                lambda: opened(config.generation, model, trainer, store, key=setting),
                label="extract",
                unit="chunks",
                sampling=sampling_of(config.generation),
            )
        extractions = [
            Extraction(id=trace.id, start=start, end=end, answer=done[key].text, finish_reason=done[key].finish_reason)
            for key, (trace, start, end) in chunks.items()
        ]
        write_records(folder / EXTRACTIONS, extractions, Extraction)
        return Summary(num_rows=len(chunks), facts={"traces": len(rows)})

    return store.build("extract", identified(identity, extract), produce)


def conversation(trace: Trace, start: int, end: int, *, show_response: bool) -> list[Message]:
    """The prompt about `trace.thinking[start:end]`; `show_response` adds the written response, if there is one."""
    parts = [_RULES, f"Problem:\n{trace.question.strip()}"]
    if show_response and trace.response.strip():
        parts.append(f"Solution:\n{trace.response.strip()}")
    parts.append(f"Reasoning:\n{trace.thinking[start:end].strip()}")
    return [{"role": "system", "content": _SYSTEM}, {"role": "user", "content": "\n\n".join(parts)}]


def extracted_text(answer: str) -> str:
    """The copied words in a model's answer, without its own thinking, a code fence, or the word for nothing."""
    text = answer.rpartition("</think>")[2].strip()
    fenced = _FENCED.match(text)
    text = fenced[1].strip() if fenced else text
    return "" if text.rstrip(".") == "NONE" else text


def chunk_ranges(text: str, chunk_words: int) -> list[tuple[int, int]]:
    """Consecutive character ranges that cover `text`, of at most `chunk_words` words each, cut where steps end.

    A single step with more words is cut between words. White space alone has no chunk.
    """
    if not text.strip():
        return []
    chunks: list[tuple[int, int]] = []
    room = 0
    for start, end in step_ranges(text):
        ends = [start + word.end for word in words(text[start:end])]
        if chunks and len(ends) <= room:
            chunks[-1] = (chunks[-1][0], end)
            room -= len(ends)
            continue
        cuts = [start, *ends[chunk_words - 1 : -1 : chunk_words], end]
        chunks += itertools.pairwise(cuts)
        room = chunk_words - (len(ends) - 1) % chunk_words - 1
    return chunks


@dataclass(slots=True)
class Quality:
    """Word counts of the chunks of a trace, from which the rates of its extraction are computed.

    Attributes:
        num_original: Words of the original.
        num_extracted: Words of the extraction.
        num_copied: Extracted words that the original has anywhere.
        num_matched: Words of the original that are labelled as kept.
    """

    num_original: int = 0
    num_extracted: int = 0
    num_copied: int = 0
    num_matched: int = 0

    def add(self, original: Sequence[Word], extracted: Sequence[Word], matches: Sequence[int | None]) -> None:
        """Count one more chunk; `matches` as `cotpress.distill.alignment.align` returns them."""
        known = {word.key for word in original}
        self.num_original += len(original)
        self.num_extracted += len(extracted)
        self.num_copied += sum(word.key in known for word in extracted)
        self.num_matched += sum(match is not None for match in matches)

    @property
    def variation_rate(self) -> float:
        """VR in [0, 1]; 0 for an empty extraction."""
        return 1 - self.num_copied / self.num_extracted if self.num_extracted else 0.0

    @property
    def alignment_gap(self) -> float:
        """AG, at least 0; above 1 only if the model repeats words of the original."""
        return (self.num_copied - self.num_matched) / self.num_original if self.num_original else 0.0


def outliers(values: Mapping[str, float], share: float, highest: float) -> set[str]:
    """Names of the samples to drop: those with a value above `highest`, and the `share` with the highest values.

    At most this share, in [0, 1), is dropped by rank; samples equal to the first kept one stay.
    """
    if not values:
        return set()
    first_kept = sorted(values.values(), reverse=True)[int(share * len(values))]
    return {name for name, value in values.items() if value > min(first_kept, highest)}


_UNFINISHED = {LENGTH: "budget ended the extraction", REFUSED: "chunk longer than the model's context"}


def aligned(config: LlmDistillConfig, answers: Artifact, traces: Sequence[Trace]) -> Extracted:
    """The valuable parts of the traces whose extractions, the artifact of `extract`, pass both filters.

    The facts are means over all finished extractions, and the share of the words of the kept ones that is valuable.
    """
    chunks = defaultdict(list)
    for extraction in read_records(answers.file(EXTRACTIONS), Extraction):
        chunks[extraction.id].append(extraction)
    dropped: Counter[str] = Counter()
    ranges: dict[str, Ranges] = {}
    quality: dict[str, Quality] = {}
    for trace in traces:
        unfinished = next((e.finish_reason for e in chunks[trace.id] if e.finish_reason != STOP), None)
        if unfinished is not None:
            dropped[_UNFINISHED[unfinished]] += 1
            continue
        parts, total = _align(trace, chunks[trace.id])
        if total.num_extracted:
            ranges[trace.id], quality[trace.id] = parts, total
        else:
            dropped["empty extraction"] += 1
    varied = outliers({i: q.variation_rate for i, q in quality.items()}, config.drop_variation, config.max_variation)
    rest = {i: q for i, q in quality.items() if i not in varied}
    gaps = outliers({i: q.alignment_gap for i, q in rest.items()}, config.drop_gap, config.max_gap)
    nothing = {i for i, q in rest.items() if i not in gaps and not q.num_matched}
    dropped.update({"variation rate": len(varied), "alignment gap": len(gaps), "no valuable part": len(nothing)})
    kept = {i: ranges[i] for i in rest if i not in gaps | nothing}
    num, original = max(len(quality), 1), sum(quality[i].num_original for i in kept)
    facts = {
        "mean_variation_rate": round(sum(q.variation_rate for q in quality.values()) / num, 4),
        "mean_alignment_gap": round(sum(q.alignment_gap for q in quality.values()) / num, 4),
        "kept_words": round(sum(quality[i].num_matched for i in kept) / max(original, 1), 4),
    }
    return kept, Summary(num_rows=len(kept), dropped=+dropped, facts=facts)


def _align(trace: Trace, chunks: Sequence[Extraction]) -> tuple[Ranges, Quality]:
    """Valuable ranges of the whole thinking, and the quality of all its chunks together."""
    ranges: list[tuple[int, int]] = []
    quality = Quality()
    for chunk in chunks:
        original = words(trace.thinking[chunk.start : chunk.end])
        extracted = words(extracted_text(chunk.answer))
        matches = align(original, extracted)
        quality.add(original, extracted, matches)
        ranges += [(chunk.start + a, chunk.start + b) for a, b in matched_ranges(original, matches)]
    return merged(ranges), quality
