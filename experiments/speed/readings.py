"""Measures a sweep over scorers that are formulas over readings, or the distinct readings of that sweep alone.

The sweep: eight scorers, three conditions of cts and several ratios, from traces on disk to compressed rows on disk.
"""

import shutil
from pathlib import Path
from typing import Any

from experiments.speed.ours import Engine, compose, job_overrides
from experiments.speed.worker import Job, Measurement, Meter, serve, use_threads

SCORERS = (
    ["scorer=cts"],
    ["scorer=cts", "scorer.condition=question"],
    ["scorer=cts", "scorer.condition=question_answer"],
    ["scorer=self_information"],
    ["scorer=llmlingua"],
    ["scorer=entropy"],
    ["scorer=step_entropy"],
    ["scorer=first_token_surprisal"],
    ["scorer=reference_likelihood"],
    ["scorer=rho1_excess"],
)


def prepare(job: Job) -> Any:
    """One repetition makes everything anew; `job["only_readings"]` chooses the readings alone."""
    from cotpress.scoring.config import ReadBy
    from cotpress.store.artifacts import fingerprint

    use_threads(job)
    engine = Engine(job)
    engine.models.reference = _reference(engine, Path(job["checkpoint"]))
    engine.models.model(ReadBy.reference)
    scorers = [
        compose([*job_overrides({**job, "scorer": overrides}), "reference=lora"]).scorer for overrides in SCORERS
    ]

    def repeat() -> Measurement:
        with Meter(job["device"]) as meter:
            jobs = [engine.scoring(scorer) for scorer in scorers]
            if job["only_readings"]:
                made = [source.artifact() for scoring in jobs for source in scoring.sources]
            else:
                made = [scoring.artifact() for scoring in jobs]
                for scored in made:
                    for ratio in job["ratios"]:
                        engine.compress(scored, ratio)
        tokens = int(made[0].facts["num_tokens"])
        readings = len({fingerprint(source.identity) for scoring in jobs for source in scoring.sources})
        engine.forget("read", "score", "compress")
        return Measurement(
            seconds=meter.seconds, tokens=tokens, peak_bytes=meter.peak_bytes, facts={"readings": readings}
        )

    return repeat


def _reference(engine: Engine, checkpoint: Path) -> Any:
    """An artifact of the reference stage with the weights of the base model."""
    from cotpress.store.artifacts import Summary
    from cotpress.store.source import identified

    def produce(folder: Path) -> Summary:
        shutil.copytree(checkpoint, folder / "model")
        return Summary(num_rows=0)

    return engine.store.build("reference", identified({"copy of": checkpoint.name}), produce)


if __name__ == "__main__":
    serve(prepare)
