"""Scores in bfloat16 against float32: rank correlation and changed keep decisions, one row per data set and scorer.

    python -m experiments.score_precision.agreement CSV NAME scorer=cts data.num_traces=20

The first argument is the csv file, which keeps its other rows; the second names the data in it; all others are
overrides as compress.py takes them. The model reads as it is (reference=none): a reference model that is trained anew
in each number format would be two models.
"""

import csv
import logging
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from hydra import compose, initialize_config_dir

from cotpress.config import ScoringPipelineConfig, register_schemas, to_objects
from cotpress.records import ScoredTrace
from cotpress.store.tables import read_records
from cotpress.tasks.flow import Scoring
from cotpress.tracking import Job, open_tracker
from experiments.drawing import read_rows
from experiments.score_precision.flags import Agreement, agreement

RATIOS = (0.3, 0.5, 0.7, 0.9)
CHANGED = {ratio: f"changed_at_{ratio:g}" for ratio in RATIOS}
COLUMNS = ("data", "scorer", "traces", "tokens", "mean_rank_correlation", "lowest_rank_correlation", *CHANGED.values())
CONF = Path(__file__).parents[2] / "conf"


def configured(overrides: list[str]) -> ScoringPipelineConfig:
    """The settings of compress.py with these overrides."""
    config = to_objects(compose("compress", overrides=overrides))
    assert isinstance(config, ScoringPipelineConfig)
    return config


def scores(config: ScoringPipelineConfig) -> list[ScoredTrace]:
    """Score every training trace; the artifact is kept below `output_root` as in any other run."""
    with TemporaryDirectory() as folder:
        root = Path(config.output_root)
        job = Job(run_dir=Path(folder), name="agreement", system=config.scorer.name, output_root=root)
        with open_tracker(config.tracker, job) as tracker:
            return read_records(Scoring(config, tracker).scores.file("scores.parquet"), ScoredTrace)


def keep(target: Path, data: str, scorer: str, result: Agreement) -> None:
    """Write the row of this data set and scorer into the csv file, replacing an earlier one."""
    row = {
        "data": data,
        "scorer": scorer,
        "traces": str(result.num_traces),
        "tokens": str(result.num_tokens),
        "mean_rank_correlation": f"{result.mean_rank_correlation:.4f}",
        "lowest_rank_correlation": f"{result.lowest_rank_correlation:.4f}",
        **{CHANGED[ratio]: f"{share:.4f}" for ratio, share in result.changed_decisions.items()},
    }
    earlier = read_rows(target) if target.exists() else []
    others = [r for r in earlier if (r["data"], r["scorer"]) != (data, scorer)]
    with target.open("w", encoding="utf-8", newline="") as handle:
        writer = csv.DictWriter(handle, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows([*others, row])


def main(target: Path, data: str, overrides: list[str]) -> None:
    """Score twice, compare, write."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    register_schemas()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        common = ["reference=none", "tracker=none", *overrides]
        formats = ([f"model.dtype={dtype}", f"scorer.dtype={dtype}"] for dtype in ("float32", "bfloat16"))
        full, half = (configured([*common, *dtype]) for dtype in formats)
    result = agreement(scores(full), scores(half), RATIOS)
    keep(target, data, full.scorer.name, result)
    lines = [
        f"{result.num_traces} traces, {result.num_tokens} tokens, bfloat16 against float32",
        f"rank correlation: mean {result.mean_rank_correlation:.4f}, lowest {result.lowest_rank_correlation:.4f}",
        *(
            f"ratio {ratio:g}: {share:.2%} of the decisions changed"
            for ratio, share in result.changed_decisions.items()
        ),
    ]
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    if len(sys.argv) < 3:
        raise SystemExit(__doc__)
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:])
