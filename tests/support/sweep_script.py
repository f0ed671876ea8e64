"""`train.py` with a stand-in for the whole flow that needs no torch: python sweep_script.py -m scorer=... ratio=...

The scorer decides the behaviour of a job: `head` fails, `tail` works until it is stopped or the file `go_on` exists,
any other builds the shared reference model and writes results.
"""

import time
from pathlib import Path

from cotpress.cli.app import main
from cotpress.config import TrainConfig
from cotpress.records import Interval, SystemResult
from cotpress.report.results import RunResults, StageRecord, write_results
from cotpress.store.artifacts import Artifact, ArtifactStore, Summary
from cotpress.tasks import Task
from cotpress.tasks.run_directory import row_settings, run_directory

SHARED_WORK_S = 0.5


def work(config: TrainConfig, folder: Path) -> tuple[float, Path]:
    """Replace `cotpress.tasks.train.train`."""
    run_dir = run_directory(config)
    reference = _reference(Path(config.output_root))
    (Path(config.output_root) / f"began-{config.scorer.name}").touch()
    if config.scorer.name == "head":
        raise RuntimeError("no head today")
    while config.scorer.name == "tail" and not Path("go_on").exists():
        time.sleep(0.05)
    row = SystemResult(
        system=config.scorer.name, target_ratio=config.ratio, actual_ratio=config.ratio,
        accuracy=Interval(value=config.ratio, low=0, high=1, n=10),
        mean_tokens=Interval(value=100 * config.ratio, low=0, high=100, n=10),
        truncation_rate=0.0, seconds_per_sample=0.1,
        artifacts={"evaluate": f"evaluate/{config.scorer.name}-{config.ratio}"},
    )  # fmt: skip
    stage = StageRecord(label="reference", artifact=reference.key, seconds=0.5, fresh=reference.fresh)
    results = RunResults(
        name="run", model="tiny", benchmark="planted", seed=1, rows=(row,), stages=(stage,),
        settings=row_settings(config),
    )  # fmt: skip
    write_results(run_dir, results)
    return config.ratio, run_dir


def load_work():
    return work


def _reference(root: Path) -> Artifact:
    def produce(place: Path) -> Summary:
        with (root / "computed").open("a") as handle:
            handle.write("x")
        time.sleep(SHARED_WORK_S)
        (place / "model.txt").write_text("weights")
        return Summary(num_rows=1)

    return ArtifactStore(root).build("reference", {}, produce)


if __name__ == "__main__":
    import sweep_script  # by its name, so that a job's process finds the function

    task = Task(name="train", load=sweep_script.load_work, preload="sweep_script")
    main(task, Path(__file__).parents[2] / "conf")
