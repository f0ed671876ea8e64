"""Compression of scored traces, and a table of their tokens; loads the student's tokenizer and no model."""

import itertools
import logging
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cotpress.answers import Extractor, package_versions
from cotpress.compression.allocation import SurveyedTrace, allocate
from cotpress.compression.config import Alignment, Allocation, CompressionConfig, TrainedTokens
from cotpress.compression.cutting import NO_SCORE, Cutter
from cotpress.compression.first_solution import first_solution
from cotpress.compression.ranking import TokenizedTrace, student_scores
from cotpress.devices.config import Shard
from cotpress.errors import DataError
from cotpress.modeling.alignment import tokenize_with_offsets
from cotpress.modeling.loading import tokenizer_fingerprint
from cotpress.modeling.selection import PERCENTS, RankedTrace, SharedTrace
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
SURVEY = "survey"  # folder of the scratch with the scores of all traces in the order of deletion
USUAL_SHARE = 0.95  # share of the traces below which the log contains a warning
TRACES_RANKED = 1000  # number of first traces whose order of deletion is stored for reports


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
        parts, chunks = (work.fill if work.cutter.allocation is Allocation.fixed else work.survey)(workdir, shard)
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
    cutter = Cutter.of(
        config, ratio=ratio, seed=seed, is_scored=scores is not None, tokenizer=tokenizer, tokenizer_key=tokenizer_key,
        extractor=extractor,
    )  # fmt: skip
    return _Work(cutter=cutter, traces=traces, scores=scores if cutter.is_scored else None, store=store)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Work:
    """Rows of one artifact, and all that determines them."""

    cutter: Cutter
    traces: Artifact
    scores: RowSource | None
    store: ArtifactStore

    @property
    def identity(self) -> Identity:
        """Everything that determines the rows; settings that came later stand in it where they change some."""
        cutter = self.cutter
        settings: dict[str, Any] = {
            "traces": self.traces.key,
            "scores": None if self.scores is None else self.scores.key,
            "tokenizer": cutter.tokenizer_key,
            "plan": {**plain(cutter.plan), "rules": cutter.plan.rules.identity},
        }
        roots: list[Root] = [compress]
        if cutter.tokens is not TrainedTokens.splice:
            settings["tokens"] = cutter.tokens
        if cutter.allocation is not Allocation.fixed:
            settings["allocation"] = cutter.allocation
        if cutter.loss is not None:
            settings["loss"] = cutter.loss
        if cutter.found_by is not None:
            settings["first_solution"] = {"found_by": cutter.found_by, "packages": package_versions()}
            roots.append(first_solution)
        return identified(settings, *roots)

    def fill(self, workdir: Path, shard: Shard = Shard(1, 1)) -> tuple[Parts, list[Chunk]]:  # noqa: B008
        """Write the missing parts of one shard; returns the parts and all chunks."""
        shares: list[NDArray[np.int64]] | None = None
        traces = self.traces.file(TRACES_FILE)
        parts, chunks = Parts(traces, workdir / SCRATCH, CompressedTrace), plan_chunks(traces)
        missing = parts.missing(chunks[shard.number - 1 :: shard.total])
        if missing and self.cutter.allocation is not Allocation.fixed:
            shares = self._shares(workdir, self.cutter.plan.ratios)

        def cut(chunk: Chunk, tokens: list[TokenizedTrace]) -> list[CompressedTrace]:
            return self.cutter.rows(tokens, None if shares is None else shares[chunk.number][0])

        self._write(parts, chunks, shard, "compress", cut)
        return parts, chunks

    def survey(self, workdir: Path, shard: Shard = Shard(1, 1)) -> tuple[Parts, list[Chunk]]:  # noqa: B008
        """Write the missing parts of one shard of the survey, which shares are counted from; as `fill`."""
        traces = self.traces.file(TRACES_FILE)
        parts, chunks = Parts(traces, workdir / SCRATCH / SURVEY, SurveyedTrace), plan_chunks(traces)
        self._write(parts, chunks, shard, "survey", lambda chunk, tokens: self.cutter.survey(tokens))
        return parts, chunks

    def _shares(self, workdir: Path, ratios: Sequence[float], limit: int | None = None) -> list[NDArray[np.int64]]:
        """Return how many tokens each trace keeps; as `allocate`."""
        parts, chunks = self.survey(workdir)
        return allocate(self.cutter.allocation, ratios, lambda: parts.rows(chunks), limit)

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
        if orders := self._ranked(chunks):
            write_records(folder / RANKING_FILE, orders, RankedTrace)
            if self.cutter.allocation is not Allocation.fixed:
                shares = self._shares(folder, [percent / 100 for percent in PERCENTS], len(orders))
                columns = np.concatenate(shares, axis=1, dtype=np.int32).T
                shared = [SharedTrace(id=o.id, num_kept=kept) for o, kept in zip(orders, columns, strict=True)]
                write_records(folder / SHARES_FILE, shared, SharedTrace)
        facts = sums.facts()
        if self.cutter.tokens is not TrainedTokens.splice:
            facts["num_training_tokens"] = sums.num_training_tokens
        return Summary(num_rows=num_rows, dropped=dropped, facts=facts)

    def _ranked(self, chunks: Sequence[Chunk]) -> list[RankedTrace]:
        """Order of deletion of the first traces; none if the selection has no order."""
        orders: list[RankedTrace] = []
        if self.cutter.has_order:
            for _, _, tokens in self._tokenized(chunks, "ranking"):
                orders += self.cutter.orders(tokens[: TRACES_RANKED - len(orders)])
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
                    result = self.cutter.tokenized(trace, row, anew=i == 0)
                    if isinstance(result, str):
                        dropped[result] += 1
                    else:
                        tokens.append(result)
                yield chunk, dropped, tokens


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
