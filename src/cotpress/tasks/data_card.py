"""The card of an export: metadata for the hub and a page for readers, `README.md` beside the rows."""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cotpress.compression.config import ROWS_FORMATS, ExportFormat, Mode, unit_name
from cotpress.config import CompressConfig
from cotpress.data.provenance import Provenance
from cotpress.invocation import as_typed
from cotpress.modeling.config import ModelConfig, ModelSource
from cotpress.store.artifacts import plain
from cotpress.store.grid import markdown_cell
from cotpress.store.local_names import PATH_SETTINGS, name_of, published
from cotpress.training.config import SavedReferenceConfig

_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
"""Size categories of the hub, by the number of rows below which they hold."""
_LEFT_OUT = ("output", "output_root", "tracker", "trainer", "hydra", "shard", "private", "license")
"""Settings of a command that do not change the rows."""
_COLUMNS = {
    "id": "id in the source",
    "question": "the problem",
    "compressed_thinking": "the chain of thought, compressed",
    "response": "the written solution after the thinking, whole",
    "answer": "the gold answer",
    "token_ids": "tokens of the compressed thinking, in the student's tokenizer",
    "keep_mask": "for each token of the whole thinking: true if it was kept",
    "num_tokens`, `num_kept_tokens": "tokens of the thinking before and after",
    "target_ratio`, `actual_ratio": "the share of the tokens that was asked for, and that is kept",
    "marker_ratio": "the ratio that a control marker in the prompt states; null without one",
    "protection_exceeded": "true if protected tokens alone are more than the ratio",
    "solution_found": "with `mode=first_solution`: true if the thinking states the right answer; otherwise null",
    "split": "`train` or `validation`",
    "loss_weights": "weight of the loss of each token; null where all have one",
}
_CONVERSATIONS = {
    ExportFormat.trl: "`prompt` and `completion`, as messages",
    ExportFormat.openai: "`messages`: system text if there is one, question, assistant's turn",
    ExportFormat.llamafactory: "`messages`: system text if there is one, question, assistant's turn",
}


def data_card(
    config: CompressConfig, about: Mapping[str, Any], path: Path, source: Provenance, overrides: Sequence[str]
) -> str:
    """Write the card of an export.

    Args:
        config: Settings of the command.
        about: Entries of the manifest: rows, ratios, dropped rows.
        path: The exported file, or the folder for `load_from_disk`.
        source: The set that the rows come from.
        overrides: Settings of the command as typed; without any the card has no command.
    """
    from huggingface_hub import DatasetCardData

    repository = config.repository
    title = repository.name if repository is not None else name_of(f"/{path if path.is_dir() else path.parent}")
    selector = "scorer" if config.uses_scorer else "mode"
    header = DatasetCardData(
        **_licence(config, source),
        pretty_name=title,
        task_categories=["text-generation"],
        tags=["cotpress", "chain-of-thought", "chain-of-thought-compression", f"{selector}:{config.selector}"],
        size_categories=next((name for limit, name in _SIZES if about["num_rows"] < limit), "1M<n<10M"),
        source_datasets=[*source.hub_ids] or None,
        configs=None if path.is_dir() else [{"config_name": "default", "data_files": path.name}],
    )
    sections = [
        f"# {title}\n\n{_summary(config)}\n",
        _table(config, about, source),
        _load(config, path),
        _columns(config),
        _licences(config, source),
        _limits(config),
    ]
    if overrides:
        sections.append(f"## Made with\n\n```bash\n{_command(overrides)}\n```\n")
    sections.append("Made with cotpress; `manifest.json` holds all settings.\n")
    return f"---\n{header.to_yaml()}\n---\n\n" + "\n".join(sections) + "\n"


def _summary(config: CompressConfig) -> str:
    match config.compression.mode:
        case Mode.first_solution:
            how = "that end with their first right solution"
        case Mode.mask_loss:
            how = "whole, with the tokens that have a loss in training"
        case _:
            how = f"from which the {_unit(config)}s that matter least are deleted"
    return f"Chains of thought {how}, as training data for models that think in fewer tokens."


def _table(config: CompressConfig, about: Mapping[str, Any], source: Provenance) -> str:
    parts = about["ratios"]
    kept, total = sum(p.num_kept_tokens for p in parts), sum(p.num_tokens for p in parts)
    asked = ", ".join(f"{ratio:g}" for ratio in config.compression.mixed_ratios or [config.ratio])
    rows = {
        "source": source.text,
        "rows": f"{about['num_rows']:,} of {about['num_input_rows']:,} of the source",
        "scorer": f"`{config.selector}`" if config.uses_scorer else "none",
        "model of the scorer": _scoring_model(config),
        "unit": _unit(config) if config.uses_scorer else "step",
        "ratio asked for": "none: each has a length of its own" if config.compression.has_own_length else asked,
        "tokens kept": f"{kept:,} of {total:,} ({kept / total:.3f})",
        "counted in tokens of": f"`{_model_name(config.model)}`",
        "mode": f"`{config.compression.mode.value}`",
    }
    if about["dropped"]:
        rows["left out"] = ", ".join(f"{num} {reason}" for reason, num in sorted(about["dropped"].items()))
    return "| | |\n|---|---|\n" + "".join(f"| {key} | {markdown_cell(value)} |\n" for key, value in rows.items())


def _load(config: CompressConfig, path: Path) -> str:
    name = config.repository.name if config.repository is not None else "FOLDER"
    if path.is_dir():
        return f'## Load\n\n```python\nfrom datasets import load_from_disk\n\nrows = load_from_disk("{name}")\n```\n'
    load = f'rows = load_dataset("{name}", split="train")'
    return f"## Load\n\n```python\nfrom datasets import load_dataset\n\n{load}\n```\n"


def _columns(config: CompressConfig) -> str:
    if config.export not in ROWS_FORMATS:
        masked = config.export is ExportFormat.trl and config.compression.mode is Mode.mask_loss
        text = "`input_ids` and `assistant_masks`" if masked else _CONVERSATIONS[config.export]
        rest = "The assistant's turn is the thinking in its tags, then the response."
        return f"## Columns\n\n{text}. {rest}\n"
    return "## Columns\n\n| | |\n|---|---|\n" + "".join(f"| `{key}` | {text} |\n" for key, text in _COLUMNS.items())


def _licence(config: CompressConfig, source: Provenance) -> dict[str, str]:
    return {"license": config.license} if config.license is not None else dict(source.licence)


def _licences(config: CompressConfig, source: Provenance) -> str:
    of_source = markdown_cell(", ".join(source.licence.values()))
    if config.license is None:
        text = f"That of the source, passed on: {of_source}." if of_source else (
            "Not known: nothing names the licence of the source. Ask its owner before you pass the rows on."
        )  # fmt: skip
    else:
        text = f"{markdown_cell(config.license)}. Licence of the source: {of_source or 'not known'}."
    return f"## Licence\n\n{text}\n"


def _limits(config: CompressConfig) -> str:
    lines = [
        "The ratio counts tokens of the training texts. How much shorter a model trained on them thinks has to be "
        "measured.",
        "Compressing checks no answer: a row that is wrong in the source is wrong here.",
    ]
    if config.compression.mode is Mode.delete:
        lines.insert(0, "A compressed thinking leaves out words or steps, and can be hard to follow for people.")
    return "## Limits\n\n" + "".join(f"- {line}\n" for line in lines)


def _unit(config: CompressConfig) -> str:
    return unit_name(config.compression.selection.value, config.compression.granularity.value)


def _scoring_model(config: CompressConfig) -> str:
    if not config.uses_scorer:
        return "none"
    if encoder := getattr(config.scorer, "path", None):
        return f"encoder `{name_of(encoder)}`"
    if not config.reads_with_model:
        return "none"
    base = f"`{_model_name(config.scoring_model)}`"
    if not (config.needs_reference and config.reference.exists):
        return base
    if isinstance(config.reference, SavedReferenceConfig):
        return f"a reference model that was trained before from {base}"
    labels = plain(config.labelled or config.data)["name"]
    return f"a reference model ({config.reference.origin}) trained from {base} on the traces `{labels}`"


def _model_name(model: ModelConfig) -> str:
    return model.hub_id or (name_of(model.path) if model.source is ModelSource.hub else model.name)


def _command(overrides: Sequence[str]) -> str:
    words = [as_typed("compress"), *_typed(overrides)]
    return " ".join(words)


def _typed(overrides: Sequence[str]) -> Iterator[str]:
    """The settings of the command that determine the rows, with the names of local files in place of their paths."""
    for text in overrides:
        key, equals, value = text.partition("=")
        if key.lstrip("+~").partition("@")[0].partition(".")[0].partition("/")[0] in _LEFT_OUT:
            continue
        name = key.rpartition(".")[2]
        bare = value.strip("'\"") if name in PATH_SETTINGS else value
        for shown in published({name: bare}).values():
            yield shlex.quote(f"{key}{equals}{shown}")
