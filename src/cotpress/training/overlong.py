"""Training sequences that are longer than a recipe allows (`max_tokens`), and traces that all systems can hold.

    common  a student learns from the traces that each system of its run has and can hold
    drop    a sequence that is too long is left out
    cut     it is cut, as LLaMA-Factory does (1679930, `infer_seqlen` in data/processor/processor_utils.py)

A student that keeps the whole thinking can hold fewer traces than one that keeps a part of it, and the long ones are
those of the harder questions. So with `drop` the students of a comparison learn from different questions, and with
`cut` from texts without their answer and end token.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cotpress.prompts import ChatConfig, ChatFormat
from cotpress.records import COMPRESSED_FILE, CompressedTrace
from cotpress.store.artifacts import Artifact, ArtifactStore, Summary, fingerprint
from cotpress.store.source import identified
from cotpress.store.tables import read_records, write_records
from cotpress.training.batching import Example, Examples, student_sequences

STAGE, LENGTHS_FILE = "lengths", "lengths.parquet"
MISSING = "missing in another system"
"""Reason for a trace that another system of the run has not, such as one that its scorer refuses."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceLength:
    """Number of tokens of the training sequence of a trace, prompt included."""

    id: str
    num_tokens: int


def sequence_lengths(
    compressed: Artifact,
    chat: ChatFormat,
    *,
    format_: ChatConfig,
    tokenizer_key: str,
    store: ArtifactStore,
    question: bool = True,
) -> dict[str, int]:
    """Number of tokens of every training sequence of `compressed.parquet` by the id of its trace, kept as an artifact.

    Args:
        compressed: The traces of one system.
        chat: Makes the sequences.
        format_: Settings of `chat`.
        tokenizer_key: Fingerprint of its tokenizer.
        store: Store of the artifact.
        question: False for sequences without the question.
    """

    def produce(folder: Path) -> Summary:
        rows = read_records(compressed.file(COMPRESSED_FILE), CompressedTrace)
        sequences = student_sequences(rows, chat, question=question)
        lengths = [SequenceLength(id=s.row, num_tokens=len(s.ids)) for s in sequences]
        write_records(folder / LENGTHS_FILE, lengths, SequenceLength)
        return Summary(num_rows=len(lengths))

    identity = {"compressed": compressed.key, "tokenizer": tokenizer_key, "chat": format_, **chat.opening_identity()}
    identity |= {} if question else {"question": False}
    artifact = store.build(STAGE, identified(identity, sequence_lengths), produce)
    return {row.id: row.num_tokens for row in read_records(artifact.file(LENGTHS_FILE), SequenceLength)}


def left_out(own: Mapping[str, int], others: Sequence[Mapping[str, int]], max_tokens: int) -> dict[str, str]:
    """The traces that a system can hold and another system of its run cannot, with the reason.

    Args:
        own: Tokens of the system's training sequences by the id of the trace.
        others: Those of the other systems.
        max_tokens: Most tokens of a training sequence.
    """
    reasons = {}
    for id_, num_tokens in own.items():
        if num_tokens > max_tokens:
            continue  # counted as too long for the system itself
        if any(id_ not in other for other in others):
            reasons[id_] = MISSING
        elif any(other[id_] > max_tokens for other in others):
            reasons[id_] = f"{too_long(max_tokens)} in another system"
    return reasons


def too_long(max_tokens: int) -> str:
    """Reason for a sequence that is longer than the recipe allows."""
    return f"longer than {max_tokens} tokens"


def limited(
    sequences: Sequence[Example], max_tokens: int, *, cut: bool = False, without: Mapping[str, str] | None = None
) -> Examples:
    """The sequences to train on, and the number of others by reason.

    Args:
        sequences: All sequences.
        max_tokens: Most tokens of a sequence.
        cut: Cut longer ones; otherwise they are left out.
        without: Reasons for traces that are left out by their ids.
    """
    kept, dropped, num_cut, num_withheld = [], Counter[str](), 0, 0
    for sequence in sequences:
        if without is not None and sequence.row in without:
            dropped[without[sequence.row]] += 1
            num_withheld += 1
        elif len(sequence.ids) <= max_tokens:
            kept.append(sequence)
        elif not cut:
            dropped[too_long(max_tokens)] += 1
        elif (rest := shortened(sequence, max_tokens)).num_targets:
            kept.append(rest)
            num_cut += 1
        else:
            dropped[f"no target within {max_tokens} tokens"] += 1
    return Examples(kept=kept, dropped=dict(dropped), num_cut=num_cut, num_withheld=num_withheld)


def shortened(example: Example, max_tokens: int) -> Example:
    """Cut prompt and completion at their ends, as LLaMA-Factory cuts source and target of a single turn.

    A completion below half of the limit stays whole, and so does otherwise a prompt below half of it; else both get
    their share of the limit. A completion that is cut has lost its end token.
    """
    source, target = example.num_prompt, example.num_completion
    if 2 * target < max_tokens:
        room = max_tokens
    elif 2 * source < max_tokens:
        room = max_tokens - source
    else:
        room = int(max_tokens * (target / (source + target)))
    num_targets = min(room, target)
    num_prompt = min(max_tokens - num_targets, source)
    ids = example.ids[:num_prompt] + example.ids[source : source + num_targets]
    weights = None if example.weights is None else example.weights[:num_targets]
    return replace(example, ids=ids, num_prompt=num_prompt, weights=weights)


def set_digest(ids: Collection[str]) -> str:
    """Hash of a set of traces, by which a report sees that two students were trained on the same ones."""
    return fingerprint({"ids": sorted(ids)})
