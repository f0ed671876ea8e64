"""Scoring against the release, the naive scorer and the limit: by length, over a sweep, by size of the corpus."""

from collections.abc import Sequence

from experiments.speed.bench import PACKAGE, Bench
from experiments.speed.figures import rates, ratios, timed
from experiments.speed.processes import System
from experiments.speed.settings import RATIOS
from experiments.speed.worker import Measurement

OURS, BEST = "cotpress", "cotpress (best)"
NAIVE, LIMIT, LIMIT_BEST, RELEASE = "naive", "limit", "limit (best)", "release"

AGAINST_LIMIT = "time / limit"
AGAINST_LIMIT_BEST = "time / limit, best settings"
FASTER_THAN_RELEASE = "faster than release"
FASTER_THAN_RELEASE_BEST = "faster than release, best settings"
FASTER_THAN_NAIVE = "faster than naive"
LIMIT_FASTER_THAN_RELEASE = "limit faster than release"
"""Upper bound for every scorer with the same forward passes."""
READINGS, AGAINST_READINGS = "readings alone", "sweep over scorers / readings alone"
MEMORY_OF_NAIVE = "peak memory / naive"
MEGABYTE = 1e6

Measurements = dict[str, list[Measurement]]


def by_length(bench: Bench) -> None:
    """One ratio, one trace, from short to long."""
    for length in bench.settings.lengths:
        _compare(bench, "scoring", f"{length} tokens", length, RATIOS[-1:], bench.settings.repeats_at(length))


def sweep(bench: Bench) -> None:
    """Five ratios: cotpress scores once, the others pay for each."""
    length = bench.settings.sweep_length
    _compare(bench, "sweep", f"{len(RATIOS)} ratios, {length} tokens", length, RATIOS, bench.settings.repeats)


def _compare(bench: Bench, group: str, case: str, length: int, kept: Sequence[float], repeats: int) -> None:
    job = bench.job(bench.texts.rows(1, length), ratios=list(kept))
    systems = {OURS: bench.ours(job), LIMIT: bench.limit(job), NAIVE: bench.naive(job), **bench.release(job)}
    if bench.tunes:
        systems |= {BEST: bench.ours(job, best=True), LIMIT_BEST: bench.limit(job, best=True)}
    measurements = bench.measure(group, case, systems, repeats)
    best, best_limit = (BEST, LIMIT_BEST) if bench.tunes else (OURS, LIMIT)
    for name, measured in measurements.items():
        bench.add(group, case, name, "tokens/s", rates(measured))
    bench.add(group, case, AGAINST_LIMIT, "x", ratios(measurements[OURS], measurements[LIMIT]))
    bench.add(group, case, AGAINST_LIMIT_BEST, "x", ratios(measurements[best], measurements[best_limit]))
    bench.add(group, case, FASTER_THAN_NAIVE, "x", ratios(measurements[NAIVE], measurements[OURS]))
    if RELEASE in measurements:
        bench.add(group, case, FASTER_THAN_RELEASE, "x", ratios(measurements[RELEASE], measurements[OURS]))
        bench.add(group, case, FASTER_THAN_RELEASE_BEST, "x", ratios(measurements[RELEASE], measurements[best]))
        bench.add(group, case, LIMIT_FASTER_THAN_RELEASE, "x", ratios(measurements[RELEASE], measurements[best_limit]))
    _memory(bench, group, case, measurements)


def _memory(bench: Bench, group: str, case: str, measurements: Measurements) -> None:
    """Peak memory above the weights: of the first repetition, before anything lies ready from an earlier one."""
    peaks = {name: measured[0].peak_bytes for name, measured in measurements.items()}
    for name, peak in peaks.items():
        if peak is not None:
            bench.add(group, case, f"peak memory, {name}", "MB", (peak / MEGABYTE,))
    ours, naive = peaks[OURS], peaks[NAIVE]
    if ours is not None and naive:
        bench.add(group, case, MEMORY_OF_NAIVE, "x", (ours / naive,))


def readings(bench: Bench) -> None:
    """A sweep over the scorers that are formulas over readings, against its distinct readings alone."""
    s = bench.settings
    job = bench.job(bench.texts.rows(s.corpora[0], s.sweep_length), ratios=list(RATIOS))
    systems = {}
    for name, only in ((OURS, False), (READINGS, True)):
        ours = bench.ours({**job, "only_readings": only})
        systems[name] = System(module=f"{PACKAGE}.readings", job=ours.job)
    case = f"{s.corpora[0]} traces of {s.sweep_length} tokens"
    measurements = bench.measure("readings", case, systems, s.repeats)
    for name, measured in measurements.items():
        bench.add("readings", case, name, "s", tuple(m.seconds for m in timed(measured)))
    bench.add("readings", case, AGAINST_READINGS, "x", ratios(measurements[OURS], measurements[READINGS]))


def corpus(bench: Bench) -> None:
    """Time per trace and memory against the number of traces; the tiny model makes corpora of real size affordable."""
    s = bench.settings
    for model, sizes in ((s.model, s.corpora), ("tiny", s.streamed)):
        texts = bench.texts_for(model)
        measurements: dict[int, list[Measurement]] = {}
        for size in sizes:
            case = f"{size} traces, {model}"
            job = bench.job(texts.rows(size, s.corpus_length), ratios=list(RATIOS[-1:]), model=model)
            measurements[size] = bench.measure(
                "corpus", case, {OURS: bench.ours(job, best=model != "tiny")}, s.repeats
            )[OURS]
            bench.add(
                "corpus",
                case,
                "time per trace",
                "ms",
                tuple(1000 * m.seconds / size for m in timed(measurements[size])),
            )
            peak = measurements[size][0].peak_bytes
            if peak is not None:
                bench.add("corpus", case, "peak memory", "MB", (peak / MEGABYTE,))
