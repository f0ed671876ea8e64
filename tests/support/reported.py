"""Finished runs on disk with really compressed traces, made in milliseconds, for tests of the report."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from cotpress.compression.config import CompressionConfig
from cotpress.compression.stage import compress
from cotpress.modeling.alignment import tokenize_with_offsets
from cotpress.records import Interval, ScoredTrace, SystemResult, Trace
from cotpress.report.results import RunResults, StageRecord, write_results
from cotpress.store.artifacts import Artifact, ArtifactStore, Summary
from cotpress.store.tables import write_records


def tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE of 340 tokens; unseen characters become several tokens."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    core.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=340, show_progress=False, initial_alphabet=alphabet))
    return PreTrainedTokenizerFast(tokenizer_object=core)


class World:
    """Traces, scorers with random scores, and runs of their students below `root/runs`."""

    def __init__(self, root: Path, traces: Sequence[Trace]) -> None:
        self.root, self.traces, self.store = root, traces, ArtifactStore(root)
        self.tokenizer = tokenizer(t.thinking for t in traces[:50])
        self.data = self._artifact("data", "traces.parquet", list(traces), Trace, "data")

    def compressed(self, scorer: str, ratio: float, rules: Mapping[str, Any] | None = None) -> Artifact:
        """Compress the traces to a ratio by random scores that depend on the scorer's name."""
        rng = np.random.default_rng(sum(scorer.encode()))
        rows = []
        for trace in self.traces:
            ids, offsets = tokenize_with_offsets(self.tokenizer, trace.thinking)
            scores = rng.standard_normal(len(ids)).astype(np.float32).round(2)  # rounded, so that there are ties
            rows.append(
                ScoredTrace(id=trace.id, token_ids=ids, offsets=offsets, scores=scores, tokenizer="t", scorer=scorer)
            )
        return compress(
            CompressionConfig(**(rules or {})), ratio=ratio, seed=1, traces=self.data,
            scores=self._artifact("score", "scores.parquet", rows, ScoredTrace, scorer),
            tokenizer=self.tokenizer, tokenizer_key="t", store=self.store,
        )  # fmt: skip

    def run(self, scorer: str, ratio: float, compressed: Artifact, **change: Any) -> Path:
        """Write a finished run of one student and Original, with a training log."""
        log = self._log(f"{scorer}-{ratio}")
        stages = [("data", self.data), (f"compress ({scorer})", compressed), (f"sft ({scorer})", log)]
        records = [
            StageRecord(label=n, artifact=a.key, seconds=3.0 * i, fresh=i > 0) for i, (n, a) in enumerate(stages)
        ]
        rows = (a_row("Original", 1.0), a_row(scorer, ratio))
        path = self.root / "runs" / f"{scorer}-{ratio}"
        values = {"name": f"{scorer}-{ratio}", "model": "tiny", "benchmark": "planted", "seed": 1, "rows": rows,
                  "stages": tuple(records), "essentials": {"data": "planted"}} | change  # fmt: skip
        write_results(path, RunResults(**values))
        return path

    def _artifact(self, stage: str, name: str, rows: list[Any], record: type, identity: str) -> Artifact:
        def produce(folder: Path) -> Summary:
            write_records(folder / name, rows, record)
            return Summary(num_rows=len(rows))

        return self.store.build(stage, {"of": identity}, produce)

    def _log(self, name: str) -> Artifact:
        def produce(folder: Path) -> Summary:
            lines = [f"{step},{3 / step:.4f},0.001,300" for step in range(1, 31)]
            (folder / "train_log.csv").write_text("\n".join(["step,loss,lr,num_target_tokens", *lines]) + "\n")
            return Summary(num_rows=30, facts={"num_training_tokens": 9000})

        return self.store.build("sft", {"of": name}, produce)


def a_row(system: str, ratio: float) -> SystemResult:
    """Make a row with numbers computed from its ratio."""
    accuracy, tokens = 0.9 - 0.5 * (1 - ratio), 300 * ratio
    return SystemResult(
        system=system, target_ratio=ratio, actual_ratio=ratio,
        accuracy=Interval(value=accuracy, low=accuracy - 0.1, high=accuracy + 0.05, n=84),
        mean_tokens=Interval(value=tokens, low=tokens - 9, high=tokens + 9, n=84),
        truncation_rate=0.0, seconds_per_sample=0.5, generated_ratio=min(1.0, ratio + 0.1),
        artifacts={"evaluate": f"evaluate/{system}-{ratio}"},
    )  # fmt: skip
