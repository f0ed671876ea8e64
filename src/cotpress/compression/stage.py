"""Compression of scored traces, and a table of their tokens; loads the student's tokenizer and no model."""

import itertools
import logging
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cotpress.answers import Extractor, package_versions
from cotpress.compression.allocation import SurveyedTrace, allocate, survey
from cotpress.compression.config import (
    Alignment,
    Allocation,
    CompressionConfig,
    Mode,
    Selection,
    Statement,
    TrainedTokens,
)
from cotpress.compression.first_solution import first_solution
from cotpress.compression.ranking import Rules, TokenizedTrace, rank_traces, student_scores, student_tokens
from cotpress.devices.config import Shard
from cotpress.errors import ConfigError, DataError
from cotpress.modeling.alignment import decoded_text, pool, retokenized, tokenize_with_offsets
from cotpress.modeling.loading import tokenizer_fingerprint
from cotpress.modeling.segments import character_groups, unit_ids
from cotpress.modeling.selection import PERCENTS, RankedTrace, SharedTrace, draw_ratio, num_to_keep, rank_weights
from cotpress.progress import Progress
from cotpress.records import (
    COMPRESSED_FILE,
    RANKING_FILE,
    REWRITTEN_FILE,
    SCORES_FILE,
    SHARES_FILE,
    TRACES_FILE,
    CompressedTrace,
    RewrittenTrace,
    ScoredTrace,
    Trace,
    Unit,
)
from cotpress.store.artifacts import SCRATCH, Artifact, ArtifactStore, Summary, plain
from cotpress.store.parts import (
    TRAIN,
    Chunk,
    ChunkRows,
    FinishedRows,
    Parts,
    RowSource,
    Tally,
    plan_chunks,
    read_chunks,
    rows_of,
)
from cotpress.store.source import Identity, Root, identified
from cotpress.store.tables import iter_records, write_records
from cotpress.tracking import Table

if TYPE_CHECKING:
    import pyarrow as pa
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger(__name__)

STAGE = "compress"
LOSS_SHARE = "loss_share"  # fact of `mode=mask_loss`: mean weight of the loss over all thinking tokens
NUM_UNSTATED = "num_unstated"  # fact of `mode=first_solution`: traces that never state the right answer, and stay whole
NUM_SHORTENED = "num_shortened"  # fact of `mode=first_solution`: traces that lost a part of their thinking
BY_MARKER = "actual_ratio_by_marker"  # fact of mixed ratios: the reached ratio by the drawn one, as Python writes it
NO_SCORE = "no score"  # reason for a trace that the score stage neither scored nor refused
SURVEY = "survey"  # folder of the scratch with the scores of all traces in the order of deletion
NO_TOKENS = "no tokens"  # reason for a trace whose thinking has no token of the student
USUAL_SHARE = 0.95  # share of the traces below which the log contains a warning
TRACES_RANKED = 1000  # number of first traces whose order of deletion is stored for reports
DECIDED_TO_KEEP = 0.5
"""The tokens of a character, mostly one, stay if at least this share of them was decided to stay. Shares other than 0
and 1 occur in characters of several tokens, and if the student has another tokenizer than LLMLingua's model."""


def compress(
    config: CompressionConfig,
    *,
    ratio: float,
    seed: int,
    traces: Artifact,
    scores: Artifact | None,
    tokenizer: "PreTrainedTokenizerBase",
    tokenizer_key: str,
    store: ArtifactStore,
    extractor: Extractor = Extractor.math,
) -> Artifact:
    """Compress the training traces: an artifact with `compressed.parquet` (`CompressedTrace`).

    Where scores decide, `ranking.parquet` (`RankedTrace`) holds the order of deletion of the first `TRACES_RANKED`
    traces, and so their compression at every ratio; for an allocation other than `fixed` with `shares.parquet`
    (`SharedTrace`), their numbers of kept tokens.

    The ratio is counted in the student's tokens; mixed ratios, of which each trace draws one by `seed`, take its place.
    No scores keep everything (the system Original); so does a single ratio of 1, which is therefore the same artifact
    for every scorer. With `selection=llmlingua_compat` the scores are decisions, 1 or 0, made for this ratio, and
    exactly their tokens are kept. With `llmlingua2_compat` they hold texts, made for the ratio that each trace draws.
    Validation rows of the data are left out. Only `mode=first_solution` uses `extractor`, the kind of the answers; it
    takes no scores.

    The rows are computed chunk by chunk (`store/parts.py`): memory does not grow with the number of traces, and an
    interrupted call goes on from its finished chunks.

    Raises:
        ConfigError: A ratio below 1 without scores, or settings that do not go together.
        DataError: No trace is left.
        ArtifactError: The scores belong to other texts or tokens than they say, or have another order.
    """
    source = None
    if scores is not None:
        file, record = _file_of(scores)
        source = FinishedRows(scores, file, record, traces.file(TRACES_FILE))
    work = _work(config, ratio, seed, traces, source, tokenizer, tokenizer_key, store, extractor)

    def produce(folder: Path) -> Summary:
        parts, chunks = work.fill(folder)
        refused = {} if work.scores is None or scores is None else scores.manifest["dropped"]
        return work.join(parts, chunks, folder, refused)

    artifact = store.build(STAGE, work.identity, produce)
    num_rows, dropped = artifact.manifest["num_rows"], artifact.manifest["dropped"]
    num_traces = num_rows + sum(dropped.values())
    line = f"compress: only {num_rows} of {num_traces} traces are left ({_listed(dropped)})"
    if num_rows < USUAL_SHARE * num_traces and store.first_time(line):
        log.warning("%s", line)
    if num := artifact.facts.get(NUM_UNSTATED):
        line = f"compress: {num} of {num_rows} traces never state the right answer in their thinking, and stay whole"
        if store.first_time(line):
            log.log(logging.WARNING if num > (1 - USUAL_SHARE) * num_rows else logging.INFO, "%s", line)
    if (num := artifact.facts.get(NUM_SHORTENED)) is not None:
        line = (
            f"compress: {num} of {num_rows} traces are shortened to their first right solution; "
            f"{100 * artifact.facts['actual_ratio']:.1f} % of the thinking tokens are kept"
        )
        if num == 0:
            line += (
                ", so the student is that of whole traces. Fix: compression.statement=concluded, which finds more "
                "statements; other traces; or another compression.mode"
            )
        if store.first_time(line):
            log.log(logging.INFO if num else logging.WARNING, "%s", line)
    return artifact


def compress_shard(
    config: CompressionConfig,
    shard: Shard,
    *,
    ratio: float,
    seed: int,
    traces: Artifact,
    scores: RowSource | None,
    tokenizer: "PreTrainedTokenizerBase",
    tokenizer_key: str,
    store: ArtifactStore,
    extractor: Extractor = Extractor.math,
) -> bool:
    """Compute the parts of one shard of `compress`, beside jobs that compute others; True if none is missing any more.

    The scores of its chunks are there, those of other shards need not be. An allocation other than `fixed` depends on
    all scores: the parts are then those of the survey, and `compress` cuts the traces once there are all of them.
    Arguments and errors as `compress`.
    """
    work = _work(config, ratio, seed, traces, scores, tokenizer, tokenizer_key, store, extractor)
    with store.sharing(STAGE, work.identity, f"{shard.number}-of-{shard.total}") as workdir:
        if workdir is None:
            return True
        parts, chunks = (work.fill if work.allocation is Allocation.fixed else work.survey)(workdir, shard)
        left = sum(not parts.path(chunk).exists() for chunk in chunks)
    missing = f"{left} of {len(chunks)} chunks are still missing" if left else "it was the last"
    log.info("compress: shard %s is done; %s", shard, missing)
    return left == 0


def _work(
    config: CompressionConfig,
    ratio: float,
    seed: int,
    traces: Artifact,
    scores: RowSource | None,
    tokenizer: "PreTrainedTokenizerBase",
    tokenizer_key: str,
    store: ArtifactStore,
    extractor: Extractor,
) -> "_Work":
    tokens, found_by = config.tokens, None
    if config.mode is Mode.first_solution:
        scores, ratio = None, 1.0
        found_by = _SolutionFinder(extractor=extractor, statement=config.statement)
    if scores is None and ratio < 1 and not config.mixed_ratios:
        raise ConfigError(
            f"ratio: got {ratio:g} but no scores; without a scorer only 1.0 (keep everything) is possible"
        )
    keeps_all = scores is None or (ratio >= 1 and not config.mixed_ratios)
    loss = config.mode is Mode.mask_loss and not keeps_all
    tokens, allocation = config.tokens, config.allocation
    if loss or (keeps_all and found_by is None):
        tokens = TrainedTokens.splice  # nothing is cut
    if keeps_all or ratio <= 0:
        allocation = Allocation.fixed  # all traces keep all of their tokens, or none
    if keeps_all:
        scores, plan = None, _Plan(ratios=(1.0,), mixed=False, rules=Rules(), seed=0)
    elif config.mixed_ratios:
        ratios = tuple(sorted(config.mixed_ratios))
        plan = _Plan(ratios=ratios, mixed=True, rules=Rules.of(config), seed=seed, selection=config.selection)
    else:
        plan = _Plan(ratios=(ratio,), mixed=False, rules=Rules.of(config), seed=0, selection=config.selection)
    return _Work(
        plan=plan, allocation=allocation, tokens=tokens, traces=traces, scores=scores, tokenizer=tokenizer,
        tokenizer_key=tokenizer_key, store=store, loss=_Loss(soft=config.soft_weights) if loss else None,
        found_by=found_by,
    )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """Settings of the selection; part of the artifact's identity."""

    ratios: tuple[float, ...]
    mixed: bool
    rules: Rules
    seed: int
    selection: Selection = Selection.exact

    def draw(self, trace_id: str) -> float:
        """Draw the ratio of one trace."""
        return draw_ratio(self.ratios, self.seed, trace_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Loss:
    """The thinking stays whole, and its tokens have weights of the loss, `soft` ones or 1 and 0."""

    soft: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _SolutionFinder:
    """The thinking ends with the step that `first_solution` finds."""

    extractor: Extractor
    statement: Statement


@dataclass(frozen=True, slots=True, kw_only=True)
class _Work:
    """Rows of one artifact, and all that determines them."""

    plan: _Plan
    allocation: Allocation
    tokens: TrainedTokens
    traces: Artifact
    scores: RowSource | None
    tokenizer: "PreTrainedTokenizerBase"
    tokenizer_key: str
    store: ArtifactStore
    loss: _Loss | None = None
    found_by: _SolutionFinder | None = None

    @property
    def identity(self) -> Identity:
        """Everything that determines the rows; settings that came later stand in it where they change some."""
        settings: dict[str, Any] = {
            "traces": self.traces.key,
            "scores": None if self.scores is None else self.scores.key,
            "tokenizer": self.tokenizer_key,
            "plan": {**plain(self.plan), "rules": self.plan.rules.identity},
        }
        roots: list[Root] = [compress]
        if self.tokens is not TrainedTokens.splice:
            settings["tokens"] = self.tokens
        if self.allocation is not Allocation.fixed:
            settings["allocation"] = self.allocation
        if self.loss is not None:
            settings["loss"] = self.loss
        if self.found_by is not None:
            settings["first_solution"] = {"found_by": self.found_by, "packages": package_versions()}
            roots.append(first_solution)
        return identified(settings, *roots)

    def fill(self, workdir: Path, shard: Shard = Shard(1, 1)) -> tuple[Parts, list[Chunk]]:  # noqa: B008
        """Write the missing parts of one shard; returns the parts and all chunks."""
        shares: list[NDArray[np.int64]] | None = None
        traces = self.traces.file(TRACES_FILE)
        parts, chunks = Parts(traces, workdir / SCRATCH, CompressedTrace), plan_chunks(traces)
        missing = parts.missing(chunks[shard.number - 1 :: shard.total])
        if missing and self.allocation is not Allocation.fixed:
            shares = self._shares(workdir, self.plan.ratios)

        def cut(chunk: Chunk, tokens: list[TokenizedTrace]) -> list[CompressedTrace]:
            own = None if shares is None else shares[chunk.number][0]
            return [self._with_tokens(row) for row in self._compressed(tokens, own)]

        self._write(parts, chunks, shard, "compress", cut)
        return parts, chunks

    def _compressed(self, tokens: Sequence[TokenizedTrace], shares: NDArray[np.int64] | None) -> list[CompressedTrace]:
        """Compress traces; one row per trace, with the tokens of the whole thinking.

        `shares`, int64 `[traces]`, are their numbers of kept tokens; None follows the ratio.
        """
        if self.found_by is not None:
            return [_ended(self.tokenizer, self.found_by, t) for t in tokens]
        if self.loss is not None:
            return _weighted(self.tokenizer, self.plan, self.loss, tokens, shares)
        return _cut(self.tokenizer, self.plan, tokens, shares)

    def survey(self, workdir: Path, shard: Shard = Shard(1, 1)) -> tuple[Parts, list[Chunk]]:  # noqa: B008
        """Write the missing parts of one shard of the survey, which shares are counted from; as `fill`."""
        traces = self.traces.file(TRACES_FILE)
        parts, chunks = Parts(traces, workdir / SCRATCH / SURVEY, SurveyedTrace), plan_chunks(traces)
        self._write(parts, chunks, shard, "survey", lambda chunk, tokens: survey(self.plan.rules, tokens))
        return parts, chunks

    def _shares(self, workdir: Path, ratios: Sequence[float], limit: int | None = None) -> list[NDArray[np.int64]]:
        """Return how many tokens each trace keeps; as `allocate`."""
        parts, chunks = self.survey(workdir)
        return allocate(self.allocation, ratios, lambda: parts.rows(chunks), limit)

    def _write(
        self,
        parts: Parts,
        chunks: Sequence[Chunk],
        shard: Shard,
        label: str,
        make: Callable[[Chunk, list[TokenizedTrace]], list[Any]],
    ) -> None:
        """Write the missing parts of one shard, the rows of which `make` computes from the traces of a chunk."""
        own = chunks[shard.number - 1 :: shard.total]
        if not (missing := parts.missing(own)):
            return
        parts.folder.mkdir(parents=True, exist_ok=True)
        total, todo = (sum(chunk.num_characters for chunk in some) for some in (own, missing))
        label = f"shard {shard} {label}" if shard.total > 1 else label
        with Progress(label, total, "characters", done=total - todo) as progress:
            for chunk, dropped, tokens in self._tokenized(missing, f"{shard.number}-of-{shard.total}"):
                rows = make(chunk, tokens) if tokens else []
                num_tokens = sum(len(t.ids) for t in tokens)
                parts.write(chunk, rows, Tally(chunk.num_traces, num_tokens, dropped=dropped))
                progress.advance(chunk.num_characters)

    def join(self, parts: Parts, chunks: Sequence[Chunk], folder: Path, refused: Mapping[str, int]) -> Summary:
        """Merge all parts into the files of the artifact; `refused` are traces without a score, by reason."""
        sums = _Sums()
        tally = parts.merge(chunks, folder / COMPRESSED_FILE, sums.add)
        # The score stage knows the reasons.
        dropped = tally.dropped - Counter({NO_SCORE: sum(refused.values())}) + Counter(refused)
        num_rows = tally.num_traces - tally.dropped.total()
        if not num_rows:
            reasons = _listed(dropped) or "the data has no training rows"
            raise DataError(
                f"compress: no trace is left of {tally.num_traces} ({reasons}). Fix: check data and scorer settings"
            )
        if self.scores is not None and (orders := self._ranked(chunks)):
            write_records(folder / RANKING_FILE, orders, RankedTrace)
            if self.allocation is not Allocation.fixed:
                shares = self._shares(folder, [percent / 100 for percent in PERCENTS], len(orders))
                columns = np.concatenate(shares, axis=1, dtype=np.int32).T
                shared = [SharedTrace(id=o.id, num_kept=kept) for o, kept in zip(orders, columns, strict=True)]
                write_records(folder / SHARES_FILE, shared, SharedTrace)
        facts = sums.facts()
        if self.tokens is not TrainedTokens.splice:
            facts["num_training_tokens"] = sums.num_training_tokens
        return Summary(num_rows=num_rows, dropped=dropped, facts=facts)

    def _ranked(self, chunks: Sequence[Chunk]) -> list[RankedTrace]:
        """Order of deletion of the first traces; none if the selection has no order."""
        orders: list[RankedTrace] = []
        if self.plan.selection is Selection.exact and self.loss is None:
            for _, _, tokens in self._tokenized(chunks, "ranking"):
                orders += _orders(self.plan, tokens[: TRACES_RANKED - len(orders)])
                if len(orders) == TRACES_RANKED:
                    break
        return orders

    def _tokenized(
        self, chunks: Sequence[Chunk], reader: str
    ) -> Iterator[tuple[Chunk, Counter[str], list[TokenizedTrace]]]:
        """Yield each chunk with the number of dropped traces by reason and the other traces."""
        traces, name = self.traces.file(TRACES_FILE), f"{self.store.key(STAGE, self.identity)}-{reader}"
        source: AbstractContextManager[ChunkRows] = nullcontext(_no_rows)
        if self.scores is not None:
            source = self.scores.rows(name.replace("/", "-"))
        with source as read:
            for (chunk, members), rows in zip(read_chunks(traces, chunks), read(chunks), strict=True):
                dropped: Counter[str] = Counter()
                tokens = []
                for i, (trace, row) in enumerate(zip(members, rows, strict=True)):
                    result = self._tokens_of(trace, row, is_first=i == 0)
                    if isinstance(result, str):
                        dropped[result] += 1
                    else:
                        tokens.append(result)
                yield chunk, dropped, tokens

    def _tokens_of(self, trace: Trace, row: ScoredTrace | None, *, is_first: bool) -> TokenizedTrace | str:
        """Return a trace in the student's tokens with its scores, or the reason to drop it."""
        if self.scores is not None and (row is None or len(row.scores) == 0):
            return NO_SCORE
        ids, offsets = student_tokens(self.tokenizer, self.tokenizer_key, trace, row, anew=is_first)
        if len(ids) == 0:
            return NO_TOKENS
        if row is None:
            scores = np.zeros(len(ids), dtype=np.float32)
        else:
            scores = student_scores(self.plan.rules.alignment, row, trace, ids, offsets, self.tokenizer_key)
        rewritten = row if isinstance(row, RewrittenTrace) else None
        return TokenizedTrace(trace=trace, ids=ids, offsets=offsets, scores=scores, rewritten=rewritten)

    def _with_tokens(self, row: CompressedTrace) -> CompressedTrace:
        """Return a row with the tokens that a student is trained on, and the text that they stand for."""
        if self.tokens is TrainedTokens.splice:
            return row
        text, ids = retokenized(self.tokenizer, row.compressed_thinking)
        return replace(row, compressed_thinking=text, token_ids=ids)


def _file_of(scores: Artifact) -> tuple[str, type[ScoredTrace]]:
    """Return the name and record of the rows of an artifact of the stage score or decide."""
    is_text = REWRITTEN_FILE in scores.manifest["files"]
    return (REWRITTEN_FILE, RewrittenTrace) if is_text else (SCORES_FILE, ScoredTrace)


def _rows(scores: Artifact, traces: Path) -> Iterator[ScoredTrace | None]:
    file, record = _file_of(scores)
    return rows_of(scores.file(file), record, traces)


def _no_rows(chunks: Iterable[Chunk]) -> Iterator[list[Any]]:
    return ([None] * chunk.num_traces for chunk in chunks)


def _listed(dropped: Mapping[str, int]) -> str:
    return ", ".join(f"{n} {reason}" for reason, n in dropped.items())


@dataclass(slots=True)
class _Sums:
    """Sums over rows: tokens by the ratio that the marker states (None without one), and numbers of some rows."""

    num_tokens: Counter[float | None] = field(default_factory=Counter)
    num_kept_tokens: Counter[float | None] = field(default_factory=Counter)
    num_training_tokens: int = 0
    num_exceeded: int = 0
    num_empty_responses: int = 0
    loss_weight: float | None = None
    num_unstated: int | None = None
    num_shortened: int | None = None

    def add(self, table: "pa.Table") -> None:
        """Add the rows of a table of `CompressedTrace`."""
        names = (
            "marker_ratio", "num_tokens", "num_kept_tokens", "token_ids", "protection_exceeded", "response",
            "loss_weights", "solution_found",
        )  # fmt: skip
        for marker, num_tokens, num_kept, ids, exceeded, response, weights, stated in zip(
            *map(table.column, names), strict=True
        ):
            self.num_tokens[marker.as_py()] += num_tokens.as_py()
            self.num_kept_tokens[marker.as_py()] += num_kept.as_py()
            self.num_training_tokens += len(ids.values)
            self.num_exceeded += exceeded.as_py()
            self.num_empty_responses += not response.as_py().strip()
            if weights.is_valid:
                self.loss_weight = (self.loss_weight or 0.0) + math.fsum(weights.as_py())
            if stated.is_valid:
                self.num_unstated = (self.num_unstated or 0) + (not stated.as_py())
                self.num_shortened = (self.num_shortened or 0) + (num_kept.as_py() < num_tokens.as_py())

    def facts(self) -> dict[str, Any]:
        """Return the facts of the artifact."""
        drawn = sorted(marker for marker in self.num_tokens if marker is not None)
        by_marker = {str(m): self.num_kept_tokens[m] / self.num_tokens[m] for m in drawn}
        return {
            "num_tokens": self.num_tokens.total(),
            "num_kept_tokens": self.num_kept_tokens.total(),
            "actual_ratio": self.num_kept_tokens.total() / self.num_tokens.total(),
            "num_exceeded": self.num_exceeded,
            "num_empty_responses": self.num_empty_responses,
            **({BY_MARKER: by_marker} if by_marker else {}),
            **({} if self.loss_weight is None else {LOSS_SHARE: self.loss_weight / self.num_tokens.total()}),
            **({} if self.num_unstated is None else {NUM_UNSTATED: self.num_unstated}),
            **({} if self.num_shortened is None else {NUM_SHORTENED: self.num_shortened}),
        }


def _cut(
    tokenizer: "PreTrainedTokenizerBase",
    plan: _Plan,
    chunk: Sequence[TokenizedTrace],
    shares: NDArray[np.int64] | None = None,
) -> list[CompressedTrace]:
    """Cut traces to their ratios, or to `shares`, numbers of tokens; one row per trace."""
    match plan.selection:
        case Selection.llmlingua_compat:
            decided = [pool(t.scores, character_groups(t.offsets)) for t in chunk]
            return [
                _row(tokenizer, t, plan.ratios[0], kept >= DECIDED_TO_KEEP)
                for t, kept in zip(chunk, decided, strict=True)
            ]
        case Selection.llmlingua2_compat:
            rows = [_rewritten_row(tokenizer, t) for t in chunk]
            return [replace(row, marker_ratio=row.target_ratio if plan.mixed else None) for row in rows]
        case Selection.exact:
            return _cut_exactly(tokenizer, plan, chunk, shares)


def _cut_exactly(
    tokenizer: "PreTrainedTokenizerBase",
    plan: _Plan,
    chunk: Sequence[TokenizedTrace],
    shares: NDArray[np.int64] | None,
) -> list[CompressedTrace]:
    ranking = rank_traces(plan.rules, chunk)
    ratios = np.array([plan.draw(t.trace.id) for t in chunk], dtype=np.float64)
    kept = ranking.cut(ratios) if shares is None else ranking.cut_to(shares)
    bounds = np.cumsum(ranking.lengths)[:-1]
    rows = []
    for t, ratio, keep, held in zip(
        chunk, ratios.tolist(), np.split(kept, bounds), np.split(ranking.held, bounds), strict=True
    ):
        exceeded = int(held.sum()) > num_to_keep(len(t.ids), ratio)
        row = _row(tokenizer, t, ratio, keep)
        rows.append(replace(row, marker_ratio=ratio if plan.mixed else None, protection_exceeded=exceeded))
    return rows


def _weighted(
    tokenizer: "PreTrainedTokenizerBase",
    plan: _Plan,
    loss: _Loss,
    chunk: Sequence[TokenizedTrace],
    shares: NDArray[np.int64] | None,
) -> list[CompressedTrace]:
    """Return the whole traces with weights of the loss, whose mean is the ratio or that of the shares."""
    if loss.soft:
        ranking = rank_traces(plan.rules, chunk)
        bounds = np.cumsum(ranking.lengths)[:-1]
        soft = [np.split(values, bounds) for values in (ranking.places, ranking.held)]
        means = [plan.ratios[0]] * len(chunk) if shares is None else (shares / ranking.lengths).tolist()
        weights = [rank_weights(places, held, mean) for places, held, mean in zip(*soft, means, strict=True)]
        exceeded = [int(held.sum()) > num_to_keep(len(held), mean) for held, mean in zip(soft[1], means, strict=True)]
    else:
        cut = _cut(tokenizer, plan, chunk, shares)
        weights = [row.keep_mask.astype(np.float32) for row in cut]
        exceeded = [row.protection_exceeded for row in cut]
    rows = []
    for t, w, e in zip(chunk, weights, exceeded, strict=True):
        row = _row(tokenizer, t, plan.ratios[0], np.ones(len(t.ids), dtype=np.bool_))
        rows.append(replace(row, loss_weights=w, protection_exceeded=e))
    return rows


def _ended(tokenizer: "PreTrainedTokenizerBase", found_by: _SolutionFinder, tokens: TokenizedTrace) -> CompressedTrace:
    """Return the row of a trace that ends with its first right solution; whole without one.

    A token belongs to a step as in `unit_ids`, so that the white space after a full stop may end the thinking with it.
    """
    trace, keep = tokens.trace, np.ones(len(tokens.ids), dtype=np.bool_)
    step = first_solution(trace.thinking, trace.answer, extractor=found_by.extractor, statement=found_by.statement)
    if step is not None:
        keep = unit_ids(Unit.step, trace.thinking, tokens.offsets) <= step
    return replace(_row(tokenizer, tokens, 1.0, keep), solution_found=step is not None)


def _orders(plan: _Plan, chunk: Sequence[TokenizedTrace]) -> list[RankedTrace]:
    """Order of deletion of each trace; none if the selection has no order."""
    if plan.selection is not Selection.exact or not chunk:
        return []
    ranking = rank_traces(plan.rules, chunk)
    bounds = np.cumsum(ranking.lengths)[:-1]
    parts = zip(chunk, np.split(ranking.places.astype(np.int32), bounds), np.split(ranking.held, bounds), strict=True)
    return [
        RankedTrace(id=t.trace.id, offsets=t.offsets, scores=t.scores, places=places, num_held=int(held.sum()))
        for t, places, held in parts
    ]


def _row(
    tokenizer: "PreTrainedTokenizerBase", tokens: TokenizedTrace, ratio: float, keep: NDArray[np.bool_]
) -> CompressedTrace:
    trace, num_tokens, num_kept = tokens.trace, len(keep), int(keep.sum())
    return CompressedTrace(
        id=trace.id,
        question=trace.question,
        compressed_thinking=decoded_text(tokenizer, trace.thinking, tokens.ids, tokens.offsets, keep),
        response=trace.response,
        answer=trace.answer,
        split=trace.split,
        token_ids=tokens.ids[keep],
        keep_mask=keep,
        num_tokens=num_tokens,
        num_kept_tokens=num_kept,
        target_ratio=ratio,
        actual_ratio=num_kept / num_tokens,
    )


def _rewritten_row(tokenizer: "PreTrainedTokenizerBase", tokens: TokenizedTrace) -> CompressedTrace:
    """Return the row of a text that was rewritten; the student learns from the tokens of that text."""
    rewritten = tokens.rewritten
    assert rewritten is not None
    if rewritten.ratio >= 1:
        return _row(tokenizer, tokens, rewritten.ratio, np.ones(len(tokens.ids), dtype=np.bool_))
    text, ids = retokenized(tokenizer, rewritten.text)
    row = _row(tokenizer, tokens, rewritten.ratio, _surviving(tokens, rewritten))
    return replace(
        row,
        compressed_thinking=text,
        token_ids=ids,
        num_kept_tokens=len(ids),
        actual_ratio=len(ids) / row.num_tokens,
    )


def _surviving(tokens: TokenizedTrace, rewritten: RewrittenTrace) -> NDArray[np.bool_]:
    """Mark the student's tokens that are still in a rewritten text, bool `[n]`.

    A token is marked if at least `DECIDED_TO_KEEP` of its characters were decided to stay. White space that nothing was
    decided about does not count; a token of nothing else goes with the next one, or is lost if it holds a line break.
    """
    text = tokens.trace.thinking
    counted, stays = np.array([not c.isspace() for c in text]), np.zeros(len(text), dtype=np.bool_)
    for (start, end), score in zip(rewritten.offsets.tolist(), rewritten.scores.tolist(), strict=True):
        counted[start:end] = True
        stays[start:end] = score >= DECIDED_TO_KEEP
    keep, following = np.zeros(len(tokens.ids), dtype=np.bool_), False
    for i, (start, end) in reversed([*enumerate(tokens.offsets.tolist())]):
        num_counted = counted[start:end].sum()
        if num_counted:
            following = bool(stays[start:end].sum() >= DECIDED_TO_KEEP * num_counted)
        keep[i] = following and (num_counted > 0 or "\n" not in text[start:end])
    return keep


def reached_ratio(compressed: Artifact, marker_ratio: float | None) -> float | None:
    """Return the kept fraction of the thinking tokens of the traces whose marker states a ratio; None for all traces.

    None if no trace drew that ratio, or if an earlier release made the artifact.
    """
    if marker_ratio is None:
        return float(compressed.facts["actual_ratio"])
    reached = compressed.facts.get(BY_MARKER, {}).get(str(float(marker_ratio)))
    return None if reached is None else float(reached)


TOKEN_COLUMNS = ("trace_id", "position", "token", "score", "kept", "ratio")


def token_table(
    compressed: Artifact, traces: Artifact, scores: Artifact | None, tokenizer: "PreTrainedTokenizerBase", limit: int
) -> Table:
    """Return one row per thinking token of the first traces, `limit` rows at most, for a tracker."""
    path, key = traces.file(TRACES_FILE), tokenizer_fingerprint(tokenizer)
    scored: Iterator[ScoredTrace | None] = itertools.repeat(None)
    if scores is not None:
        scored = _rows(scores, path)
    members = zip((t for t in iter_records(path, Trace) if t.split == TRAIN), scored, strict=False)
    rows: list[tuple[str, int, str, float | None, bool, float]] = []
    for row in iter_records(compressed.file(COMPRESSED_FILE), CompressedTrace):
        if len(rows) >= limit:
            break
        trace, of_scorer = next(member for member in members if member[0].id == row.id)
        ids, offsets = tokenize_with_offsets(tokenizer, trace.thinking)
        if of_scorer is not None:
            values = student_scores(Alignment.own, of_scorer, trace, ids, offsets, key).tolist()
        else:
            values = [None] * len(ids)
        for place, ((start, end), value, kept) in enumerate(zip(offsets.tolist(), values, row.keep_mask, strict=True)):
            rows.append((row.id, place, trace.thinking[start:end], value, bool(kept), row.target_ratio))
    return Table(columns=TOKEN_COLUMNS, rows=rows[:limit])
