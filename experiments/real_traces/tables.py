"""Aggregates over the compressed traces of run.sh: reached ratios, what is deleted, speed. No text of a trace leaves.

python -m experiments.real_traces.tables OUTPUT_ROOT [DIR]
"""

import csv
import json
import logging
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cotpress.modeling.selection import RankedTrace
from cotpress.records import CompressedTrace, Trace
from cotpress.report.token_kinds import TokenKind, token_kinds
from cotpress.store.tables import read_records

log = logging.getLogger(__name__)

HERE = Path(__file__).parent
RESAMPLES = 2000


@dataclass(frozen=True, slots=True)
class Cut:
    """One compress artifact and the scores behind it."""

    scorer: str
    ratio: float
    rows: list[CompressedTrace]
    ranks: dict[str, RankedTrace]
    traces: Path
    scores: str
    num_tokens: int
    seconds: float


def cuts(root: Path) -> Iterator[Cut]:
    """Every compress artifact below an output root, by scorer and falling ratio."""
    all_cuts = []
    for folder in (root / "artifacts" / "compress").iterdir():
        made = json.loads((folder / "manifest.json").read_text())["identity"]
        score = root / "artifacts" / made["scores"]
        manifest, timing = (json.loads((score / f"{n}.json").read_text()) for n in ("manifest", "timing"))
        read_by = "reference model" if manifest["identity"].get("reference") else "base model"
        name = manifest["identity"]["scorer"]["name"]
        trained = root.glob("artifacts/classifier/*/timing.json") if name == "tokenskip" else ()  # while it scored
        all_cuts.append(
            Cut(
                scorer=name if name in ("random", "tokenskip") else f"{name}, {read_by}",
                ratio=made["plan"]["ratios"][0],
                rows=read_records(folder / "compressed.parquet", CompressedTrace),
                ranks={r.id: r for r in read_records(folder / "ranking.parquet", RankedTrace)},
                traces=root / "artifacts" / made["traces"] / "traces.parquet",
                scores=made["scores"],
                num_tokens=manifest["facts"]["num_tokens"],
                seconds=timing["seconds"] - sum(json.loads(t.read_text())["seconds"] for t in trained),
            )
        )
    yield from sorted(all_cuts, key=lambda cut: (cut.scorer, -cut.ratio))


def share_interval(parts: NDArray[np.float64], wholes: NDArray[np.float64]) -> tuple[float, float, float]:
    """Sum of parts over sum of wholes, one of each per trace, with a 95 % bootstrap interval over traces."""
    draws = np.random.default_rng(0).integers(0, len(parts), (RESAMPLES, len(parts)))
    ratios = parts[draws].sum(1) / np.maximum(wholes[draws].sum(1), 1)
    low, high = np.quantile(ratios, (0.025, 0.975))
    return float(parts.sum() / max(wholes.sum(), 1)), float(low), float(high)


def _ratios(all_cuts: Sequence[Cut]) -> Iterator[list[Any]]:
    yield [
        "scorer",
        "asked",
        "traces",
        "tokens",
        "actual",
        "lowest_of_a_trace",
        "highest_of_a_trace",
        "farthest_tokens",
    ]
    for cut in all_cuts:
        kept, whole = (np.array([getattr(r, n) for r in cut.rows]) for n in ("num_kept_tokens", "num_tokens"))
        off = np.abs(kept - cut.ratio * whole).max()  # half a token is rounding
        yield [cut.scorer, cut.ratio, len(cut.rows), whole.sum(), kept.sum() / whole.sum(), *_ends(kept / whole), off]


def _ends(values: NDArray[np.float64]) -> tuple[float, float]:
    return float(values.min()), float(values.max())


def _deletions(all_cuts: Sequence[Cut]) -> Iterator[list[Any]]:
    """Of each kind of token, the share that is gone, in the traces that every scorer scored and that are ranked."""
    yield ["scorer", "asked", "kind", "tokens", "deleted", "deleted_low", "deleted_high"]
    common, num_left_out = _common(all_cuts)
    if num_left_out:
        log.warning("deletions: %d traces are left out, as not every scorer has a ranking of them", num_left_out)
    texts = {t.id: t.thinking for t in read_records(all_cuts[0].traces, Trace)}
    kinds = {i: token_kinds(texts[i], all_cuts[0].ranks[i].offsets) for i in common}
    for cut in all_cuts:
        for kind in TokenKind:
            of_kind = np.array([(kinds[i] == kind).sum() for i in kinds], dtype=np.float64)
            gone = np.array(
                [((kinds[i] == kind) & ~cut.ranks[i].kept(cut.ratio)).sum() for i in kinds], dtype=np.float64
            )
            yield [cut.scorer, cut.ratio, kind.label, int(of_kind.sum()), *share_interval(gone, of_kind)]


def _common(all_cuts: Sequence[Cut]) -> tuple[list[str], int]:
    """Traces that every cut has a ranking of, in the order of the first one, and how many only some have."""
    everywhere = set.intersection(*(set(cut.ranks) for cut in all_cuts))
    anywhere = set.union(*(set(cut.ranks) for cut in all_cuts))
    if not everywhere:
        raise SystemExit(f"deletions: no trace was scored by all scorers, {len(anywhere)} by some")
    return [i for i in all_cuts[0].ranks if i in everywhere], len(anywhere) - len(everywhere)


def _speed(all_cuts: Sequence[Cut]) -> Iterator[list[Any]]:
    yield ["scorer", "tokens", "seconds", "tokens_per_second"]
    seen = {cut.scores: cut for cut in all_cuts}
    for cut in seen.values():
        yield [cut.scorer, cut.num_tokens, cut.seconds, cut.num_tokens / cut.seconds]


def _write(path: Path, rows: Sequence[list[Any]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as handle:
        csv.writer(handle, lineterminator="\n").writerows(rows)


def main(root: Path, folder: Path) -> None:
    """Write ratios.csv, deletions.csv and speed.csv."""
    all_cuts = list(cuts(root))
    _write(folder / "ratios.csv", list(_ratios(all_cuts)))
    _write(folder / "deletions.csv", list(_deletions(all_cuts)))
    _write(folder / "speed.csv", list(_speed(all_cuts)))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else HERE)
