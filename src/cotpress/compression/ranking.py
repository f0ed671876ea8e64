"""Order of deletion of the student's tokens, from the scores of a trace; independent of the ratio.

scorer's tokens --> alignment --> student's tokens --> granularity, protection, limit --> order of deletion
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cotpress.compression.config import Alignment, CompressionConfig, Protection
from cotpress.compression.protection import protected_tokens
from cotpress.errors import ArtifactError
from cotpress.modeling.alignment import pool, project_scores, tokenize_with_offsets
from cotpress.modeling.segments import unit_ids
from cotpress.modeling.selection import Ranking, rank_many
from cotpress.records import SEGMENT_STARTS, RewrittenTrace, ScoredTrace, Trace, Unit

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """Rules for the order of deletion, part of an artifact's identity; texts are sorted and distinct."""

    granularity: Unit = Unit.token
    segment_starts: tuple[str, ...] = tuple(sorted(SEGMENT_STARTS))
    alignment: Alignment = Alignment.own
    protection: Protection = Protection.none
    keep_strings: tuple[str, ...] = ()
    max_consecutive_deletions: int | None = None

    @classmethod
    def of(cls, config: CompressionConfig) -> "Rules":
        """Return the rules of a configuration."""
        return cls(
            granularity=config.granularity,
            segment_starts=tuple(sorted(set(config.segment_starts))),
            alignment=config.alignment,
            protection=config.protection,
            keep_strings=tuple(sorted({unescaped(text) for text in config.keep_strings})),
            max_consecutive_deletions=config.max_consecutive_deletions,
        )

    @property
    def identity(self) -> dict[str, Any]:
        """The rules by name, without the openings of segments where no segment is cut."""
        cuts_segments = self.granularity is Unit.segment
        return {f.name: getattr(self, f.name) for f in fields(self) if cuts_segments or f.name != "segment_starts"}


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizedTrace:
    """A trace in the student's tokens: ids int32 `[n]`, offsets int32 `[n, 2]`, scores float32 `[n]`; `n > 0`.

    `rewritten` is the compressed trace of a selection that gives texts, not tokens.
    """

    trace: Trace
    ids: NDArray[np.int32]
    offsets: NDArray[np.int32]
    scores: NDArray[np.float32]
    rewritten: RewrittenTrace | None = None


def rank_traces(rules: Rules, traces: Sequence[TokenizedTrace]) -> Ranking:
    """Rank the tokens of some traces, each as if it were alone."""
    return rank_many(
        np.concatenate([unit_scores(rules, t) for t in traces]),
        np.concatenate([t.offsets for t in traces]),
        np.array([len(t.ids) for t in traces], dtype=np.int64),
        np.concatenate([_protected(rules, t) for t in traces]),
        rules.max_consecutive_deletions,
    )


def student_tokens(
    tokenizer: "PreTrainedTokenizerBase", tokenizer_key: str, trace: Trace, scored: ScoredTrace | None, *, anew: bool
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Return the student's tokens of a thinking as `tokenize_with_offsets`.

    Scores made with its tokenizer hold them, and tokenizing is most of the work of a compression; `anew` does it all
    the same, so that `student_scores` can compare them.
    """
    if anew or scored is None or scored.tokenizer != tokenizer_key:
        return tokenize_with_offsets(tokenizer, trace.thinking)
    return scored.token_ids, scored.offsets


def student_scores(
    alignment: Alignment,
    scored: ScoredTrace,
    trace: Trace,
    ids: NDArray[np.int32],
    offsets: NDArray[np.int32],
    tokenizer_key: str,
) -> NDArray[np.float32]:
    """Return the scores of a trace for the student's tokens `ids` with their characters, finite, float32 `[n]`.

    With alignment `next`, every token of the scorer first gets the score of its successor; the last one keeps its own.
    Scores made with another tokenizer than the student's are projected through the characters.

    Raises:
        ArtifactError: The scores belong to another text or to other tokens than they say.
    """
    if not np.isfinite(scored.scores).all() or scored.offsets.max() > len(trace.thinking):
        raise ArtifactError(
            f"scores of trace '{trace.id}' do not fit its text: they are not finite or reach past its end. "
            "Fix: remove that score artifact, it is computed again"
        )
    scores = scored.scores
    if alignment is Alignment.next:
        scores = np.append(scores[1:], scores[-1:])
    if scored.tokenizer != tokenizer_key:
        return project_scores(scored.offsets, scores, offsets, len(trace.thinking))
    covered = scored.offsets[0, 0] == 0 and scored.offsets[:, 1].max() == len(trace.thinking)
    if not (covered and np.array_equal(scored.token_ids, ids)):
        raise ArtifactError(
            f"scores of trace '{trace.id}' name the student's tokenizer but hold other tokens "
            f"({len(scored.token_ids)}, expected {len(ids)}). Fix: remove that score artifact, it is computed again"
        )
    return scores


def unit_scores(rules: Rules, tokens: TokenizedTrace) -> NDArray[np.float32]:
    """Return every token's score or the mean of its unit, which makes whole units neighbours in the order."""
    if rules.granularity is Unit.token:
        return tokens.scores
    return pool(tokens.scores, unit_ids(rules.granularity, tokens.trace.thinking, tokens.offsets, rules.segment_starts))


def _protected(rules: Rules, tokens: TokenizedTrace) -> NDArray[np.bool_]:
    trace = tokens.trace
    held = protected_tokens(
        rules.protection, trace.thinking, tokens.offsets, answer=trace.answer, keep_strings=rules.keep_strings
    )
    if rules.alignment is Alignment.next:
        held[-1] = True  # no score decides about it
    return held


def unescaped(text: str) -> str:
    r"""Replace a text of the escapes `\n` and `\t` alone by line breaks and tabs; `\neq` and the like stay."""
    plain = text.replace(r"\n", "\n").replace(r"\t", "\t")
    return text if plain.strip("\n\t") else plain
