"""Measures cotpress: the score stage once, then the compress stage per ratio, configured as `compress.py` is.

What is timed begins with traces on disk and ends with compressed rows on disk; loading the model is not timed, on any
side.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from experiments.speed.worker import Job, Measurement, Meter, serve, use_threads

PROFILE_ROWS = 30
CONF = Path(__file__).parents[2] / "conf"


def compose(overrides: list[str]) -> Any:
    """The configuration of `compress.py` with these overrides, as the command would get it."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir

    from cotpress.config import register_schemas, to_objects

    register_schemas()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return to_objects(hydra_compose("compress", overrides))


def job_overrides(job: Job) -> list[str]:
    """Hydra overrides of one job: the benchmark's own, then those of the settings that are measured."""
    return [
        "model=hub",
        f"model.path={job['checkpoint']}",
        f"model.dtype={job['dtype']}",
        f"model.context_tokens={job['context_tokens']}",
        "data=jsonl",
        f"data.path={job['traces']}",
        "data.validation_fraction=0",
        "reference=none",
        "compression.granularity=token",
        *job.get("scorer", ["scorer=cts", "scorer.template=plain"]),
        f"scorer.dtype={job['dtype']}",
        "tracker=none",
        f"trainer={'gpu' if job['device'] == 'cuda' else 'cpu'}",
        f"trainer.num_threads={job['threads']}",
        f"output_root={job['work']}",
        *job.get("overrides", []),
    ]


def prepare(job: Job) -> Any:
    """One repetition scores every text once and selects at every ratio."""
    use_threads(job)
    engine = Engine(job)

    def repeat() -> Measurement:
        with _profiled(job.get("profile")), Meter(job["device"]) as meter:
            scored = engine.score()
            for ratio in job["ratios"]:
                engine.compress(scored, ratio)
        facts = {"scores": engine.values(scored)} if job.get("keep") else {}
        tokens = int(scored.facts["num_tokens"])
        engine.forget("read", "score", "compress")
        return Measurement(seconds=meter.seconds, tokens=tokens, peak_bytes=meter.peak_bytes, facts=facts)

    return repeat


@contextmanager
def _profiled(table: str | None) -> Iterator[None]:
    """Write where the time goes to the file `table`; profiling slows the work down, so its times are not used."""
    if table is None:
        yield
        return
    from torch.cuda import is_available
    from torch.profiler import ProfilerActivity, profile

    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if is_available() else [])]
    with profile(activities=activities, profile_memory=True) as profiler:
        yield
    column = "self_cuda_time_total" if is_available() else "self_cpu_time_total"
    text = profiler.key_averages().table(sort_by=column, row_limit=PROFILE_ROWS)
    Path(table).write_text(text, encoding="utf-8")


class Engine:
    """The stages of cotpress on one corpus, with the model loaded and warm."""

    def __init__(self, job: Job) -> None:
        from cotpress.data.stage import traces
        from cotpress.modeling.loading import load_tokenizer, tokenizer_fingerprint
        from cotpress.scoring.models import Models
        from cotpress.store.artifacts import ArtifactStore

        self.config = compose(job_overrides(job))
        self._work = Path(job["work"])
        self.store = ArtifactStore(self._work)
        c = self.config
        self.traces = traces(c.data, self.store, model=c.model, trainer=c.trainer)
        self.models = Models(config=c.model, reference=None, trainer=c.trainer, store=self.store)
        self._tokenizer = load_tokenizer(c.model, self.store)
        self._tokenizer_key = tokenizer_fingerprint(self._tokenizer)
        self._warm_up()

    def _warm_up(self) -> None:
        from cotpress.modeling.logprobs import ScoreInput, token_readings
        from cotpress.scoring.config import ReadBy

        ids = self._tokenizer("So 3 + 4 = 7. " * 8)["input_ids"]
        model = self.models.model(ReadBy.base, forwards_only=True)
        list(token_readings(model, [ScoreInput(context_ids=ids[:1], target_ids=ids[1:])], len(ids)))

    def scoring(self, scorer: Any = None) -> Any:
        """The job that scores the corpus, by default with the scorer of the configuration."""
        from cotpress.scoring.job import scoring_job

        return scoring_job(scorer or self.config.scorer, traces=self.traces, models=self.models)

    def score(self) -> Any:
        """The score artifact of the corpus."""
        return self.scoring().artifact()

    def compress(self, scored: Any, ratio: float) -> Any:
        """The compressed rows at one ratio."""
        from cotpress.compression.stage import compress

        return compress(
            self.config.compression,
            ratio=ratio,
            seed=self.config.seed,
            traces=self.traces,
            scores=scored,
            tokenizer=self._tokenizer,
            tokenizer_key=self._tokenizer_key,
            store=self.store,
        )

    def values(self, scored: Any) -> list[list[float]]:
        """All scores, trace by trace."""
        from cotpress.records import ScoredTrace
        from cotpress.store.tables import read_records

        return [row.scores.tolist() for row in read_records(scored.file("scores.parquet"), ScoredTrace)]

    def forget(self, *stages: str) -> None:
        """Remove artifacts, so that the next repetition computes them again."""
        for stage in stages:
            shutil.rmtree(self._work / "artifacts" / stage, ignore_errors=True)


if __name__ == "__main__":
    serve(prepare)
