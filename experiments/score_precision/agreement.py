"""Scores in bfloat16 against float32: rank correlation and changed keep decisions, as a table and as JSON.

    python experiments/score_precision/agreement.py agreement.json scorer=cts data.num_traces=20

The first argument is the file to write; all others are overrides as compress.py takes them. The model reads as it is
(reference=none): a reference model that is trained anew in each number format would be two models.
"""

import dataclasses
import json
import logging
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from hydra import compose, initialize_config_dir

from cotpress.artifacts import write_text_atomic
from cotpress.compression.agreement import agreement
from cotpress.config import ScoringPipelineConfig, register_schemas, to_objects
from cotpress.flow import Scoring
from cotpress.records import ScoredTrace
from cotpress.tables import read_records
from cotpress.tracking import Job, open_tracker

RATIOS = (0.3, 0.5, 0.7, 0.9)
CONF = Path(__file__).parents[2] / "conf"


def scores(config: ScoringPipelineConfig) -> list[ScoredTrace]:
    """What the scorer says about every training trace; kept below `output_root` as in any other run."""
    with TemporaryDirectory() as folder:
        root = Path(config.output_root)
        job = Job(run_dir=Path(folder), name="agreement", system=config.scorer.name, output_root=root)
        with open_tracker(config.tracker, job) as tracker:
            return read_records(Scoring(config, tracker).scores.file("scores.parquet"), ScoredTrace)


def main(target: Path, overrides: list[str]) -> None:
    """Score twice, compare, write."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    register_schemas()
    by_format = {}
    with initialize_config_dir(str(CONF), version_base="1.3"):
        for dtype in ("float32", "bfloat16"):
            asked = ["reference=none", "tracker=none", *overrides, f"model.dtype={dtype}"]
            config = to_objects(compose("compress", overrides=asked))
            assert isinstance(config, ScoringPipelineConfig)
            by_format[dtype] = scores(config)
    found = agreement(by_format["float32"], by_format["bfloat16"], RATIOS)
    write_text_atomic(target, json.dumps({"overrides": overrides, **dataclasses.asdict(found)}, indent=1) + "\n")
    lines = [
        f"{found.num_traces} traces, {found.num_tokens} tokens, bfloat16 against float32",
        f"rank correlation: mean {found.mean_rank_correlation:.4f}, lowest {found.lowest_rank_correlation:.4f}",
        *(f"ratio {ratio:g}: {share:.2%} of the decisions changed" for ratio, share in found.changed_decisions.items()),
    ]
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
