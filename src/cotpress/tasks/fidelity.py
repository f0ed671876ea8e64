"""Task of `fidelity.py`: scores traces whose important parts are known, and measures the agreement.

output_root/fidelity/
    <scorer>-<truth>-<fingerprint>/   config.yaml  results.json
    <truth>-<fingerprint>.md  .csv    every job on the same traces, best first, beside the trivial rules
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cotpress.config import FidelityConfig
from cotpress.fidelity import results as tables
from cotpress.fidelity.metrics import Bootstrap
from cotpress.fidelity.results import FidelityResults, FidelityRow
from cotpress.fidelity.stage import measure
from cotpress.modeling.loading import tokenizer_fingerprint
from cotpress.report.stage import summary
from cotpress.store.artifacts import fingerprint, plain, write_text_atomic
from cotpress.store.grid import WIDTH
from cotpress.store.paths import safe_name
from cotpress.store.redaction import masked, print_lines
from cotpress.store.sweeps import Sweep
from cotpress.tasks.flow import Scoring
from cotpress.tasks.run_directory import tracked_job, write_config
from cotpress.terminal import line_width, text_width, wrapped
from cotpress.tracking import open_tracker

FOLDER = "fidelity"


class _Written(NamedTuple):
    """Rows of a table, the sentences below it, and its Markdown file."""

    rows: Sequence[FidelityRow]
    notes: Sequence[str]
    path: Path


def fidelity(config: FidelityConfig, folder: Path) -> tuple[float, Path]:
    """Run `fidelity.py`; return the scorer's main measure and the folder with its results."""
    name = config.name or config.scorer.name
    job = tracked_job(config, folder, folder, config.scorer.name)
    with open_tracker(config.tracker, job) as tracker:
        results = _measured(config, name, Scoring(config, tracker))
        tracker.log("fidelity", {measure: value.value for measure, value in results.rows[0].metrics.items()})
    # Two configurations with the same scores are one result, e.g. of a scorer that reads with no reference model.
    digest = fingerprint({"name": name, "artifacts": results.artifacts, "comparable": list(results.comparable)})[:8]
    output = Path(config.output_root) / FOLDER / f"{safe_name(name)}-{safe_name(config.truth.name)}-{digest}"
    tables.write_results(output, results)
    write_config(output, plain(config))
    written = _write_tables(output, results)
    if not folder.name.isdigit():  # a multirun shows one table at its end
        _show(written, results)
    print_lines(f"results: {output}")
    return results.rows[0].main.value, output


def _measured(config: FidelityConfig, name: str, flow: Scoring[FidelityConfig]) -> FidelityResults:
    key = tokenizer_fingerprint(flow.tokenizer)
    rows = measure(
        name,
        config.reference.origin if config.scorer.needs_reference else "-",
        truth=flow.traces,
        scores=flow.scores,
        tokenizer=flow.tokenizer,
        tokenizer_key=key,
        bootstrap=Bootstrap(confidence=config.confidence, num_resamples=config.num_resamples),
        settings=_settings(config),
    )
    return FidelityResults(
        truth=config.truth.name,
        truth_artifact=flow.traces.key,
        model=config.model.name,
        tokenizer=key,
        confidence=config.confidence,
        num_resamples=config.num_resamples,
        rows=tuple(rows),
        artifacts={label: stage.artifact for label, stage in flow.stages.items()},
    )


def _settings(config: FidelityConfig) -> dict[str, Any]:
    """Return the settings that may distinguish the scorer from others of its name, by their configuration keys."""
    scorer, reference = config.scorer, config.reference
    settings = tables.flat(plain(scorer.identity()))
    settings |= {"data": config.data.name, "seed": settings.get("seed", config.seed)}
    if config.needs_labels or config.trains_reference:
        learnt = tables.flat(plain(config.labelled or config.data), "data.")
        settings |= {k: v for k, v in learnt.items() if k != "data.name" and (k, v) != ("data.seed", config.seed)}
    if config.needs_labels:
        distill = tables.flat(plain(config.distill), "distill.")
        settings |= {"distill": distill.pop("distill.extractor"), **distill}
    if scorer.reads_with_model:
        settings["reference.base"] = config.scoring_model.name
    if config.trains_reference:
        tune = tables.flat(plain(reference.tune), "reference.tune.")
        if reference.tune.seed == config.seed:
            del tune["reference.tune.seed"]  # rows of several seeds show them once
        settings |= {"reference.limit": reference.limit, **tune}
    shown: dict[str, Any] = masked(settings)
    return shown


def _write_tables(output: Path, results: FidelityResults) -> _Written:
    """Write the tables over all jobs on the same traces beside the jobs."""
    jobs = tables.results_beside(output)
    rows, notes = tables.merged_rows(jobs), tables.numbered(jobs)
    stem = f"{safe_name(results.truth)}-{fingerprint({'comparable': list(results.comparable)})[:8]}"
    main, kinds = (
        tables.main_grid(rows, confidence=results.confidence),
        tables.kinds_grid(rows, confidence=results.confidence),
    )
    below = "".join(f"\n{note}\n" for note in notes)
    text = f"## {_title(results)}\n\n{main.markdown()}{below}"
    if kinds is not None:
        text += f"\n## {tables.kinds_title(results.confidence)}\n\n{kinds.markdown()}"
    path = output.parent / f"{stem}.md"
    write_text_atomic(path, text)
    write_text_atomic(path.with_suffix(".csv"), tables.csv_table(rows))
    return _Written(rows, notes, path)


def _show(written: _Written, results: FidelityResults) -> None:
    """Show the tables in the width of the terminal, with the columns that it lacks and the file that has them."""
    width, kinds = line_width() or WIDTH, tables.kinds_grid(written.rows)
    main = tables.main_grid(written.rows, confidence=results.confidence)
    shown = [(_title(results), main), *([] if kinds is None else [(tables.kinds_title(), kinds)])]
    missing = []
    for title, grid in shown:
        narrow = grid.within(width)
        missing += grid.given_way(narrow)
        print_lines("", *wrapped(title, text_width()), *narrow.plain().splitlines())
    notes = [*written.notes]
    if missing:
        notes.append(f"not in {width} columns, but in {written.path.name}: {'; '.join(missing)}")
    print_lines(*(line for note in notes for line in wrapped(note, text_width(), "  ")), "")


def _title(results: FidelityResults) -> str:
    return f"Agreement with {results.truth}, judged on the tokens of {results.model}"


def show_jobs(sweep: Sweep) -> None:
    """Show one table per truth over the jobs of a sweep and all other jobs on the same traces."""
    notes = [job.note for job in sweep.jobs if job.note is not None and job.note.succeeded]
    outputs = [note.run_dir for note in notes if note.run_dir is not None]
    for output in {tables.read_results(output).comparable: output for output in outputs}.values():
        results = tables.read_results(output)
        _show(_write_tables(output, results), results)
    print_lines(f"sweep: {summary(sweep)}")
