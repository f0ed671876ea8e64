"""The model card of a student: metadata for the hub and a page for readers."""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from cotpress.compression.config import unit_name
from cotpress.data.provenance import Provenance, provenance
from cotpress.hub.publication import Publication, Settings
from cotpress.modeling.config import ORIGINAL_WEIGHTS, ModelSource
from cotpress.modeling.hub import hub_licence
from cotpress.modeling.training_record import TRAINING_CONFIG
from cotpress.records import ORIGINAL, Interval
from cotpress.report.table import percent_interval
from cotpress.store.grid import markdown_cell
from cotpress.store.local_names import name_of

if TYPE_CHECKING:
    from huggingface_hub import ModelCard, ModelCardData

PAPERS = {
    "cts": "[Conditional Token Selection](https://arxiv.org/abs/2505.17827)",
    "tokenskip": "[TokenSkip](https://arxiv.org/abs/2502.12067)",
    "tokenskip_xlmr": "[TokenSkip](https://arxiv.org/abs/2502.12067)",
    "tokenskip_mbert": "[TokenSkip](https://arxiv.org/abs/2502.12067)",
}


def model_card(publication: Publication, name: str) -> "ModelCard":
    """Build the card of `user/name`: `license`, `base_model`, `datasets`, `tags`, results as a `model-index`; a page.

    Licences are those in the cache of the hub.
    """
    from huggingface_hub import ModelCard

    sections = [_summary(publication, name), _use(publication, name), _training(publication), _results(publication)]
    sections += [_limits(publication), _licence(publication)]
    sections.append(f"Made with cotpress; `{TRAINING_CONFIG}` holds the settings of the run.\n")
    return ModelCard(f"---\n{_header(publication, name).to_yaml()}\n---\n\n" + "\n".join(sections))


def origin(publication: Publication, *, online: bool = False) -> Provenance:
    """The source of the training traces; `online` also asks the hub for the licence."""
    return provenance(publication.config.data.values, online=online)


def _header(publication: Publication, name: str) -> "ModelCardData":
    from huggingface_hub import EvalResult, ModelCardData

    metrics = [
        EvalResult(
            task_type="text-generation",
            task_name="Solving problems with compressed thinking",
            dataset_type=run.benchmark,
            dataset_name=run.benchmark,
            metric_type=kind,
            metric_name=title if row.has_own_length else f"{title} at ratio {row.target_ratio:g}",
            metric_value=value,
        )
        for run, rows in publication.results
        for row in rows
        if row.system == run.rows[-1].system
        for kind, title, value in (
            ("accuracy", "Accuracy", round(row.accuracy.value, 4)),
            ("mean_generated_tokens", "Generated tokens per answer", round(row.mean_tokens.value, 1)),
        )
    ]
    return ModelCardData(
        base_model=publication.base_model,
        library_name="peft" if publication.publishes_adapter else "transformers",
        pipeline_tag="text-generation",
        tags=["cotpress", "chain-of-thought", "chain-of-thought-compression", f"scorer:{_selector(publication)}"]
        + ([f"unit:{_unit(publication)}"] if _mode(publication) != "first_solution" else [])
        + (["lora"] if publication.publishes_adapter else []),
        datasets=[*origin(publication).hub_ids] or None,
        **_licence_of(publication),
        metrics=["accuracy"],
        model_name=name.rpartition("/")[2],
        eval_results=metrics,
    )


def _summary(publication: Publication, name: str) -> str:
    config, facts = publication.config, publication.compression["facts"]
    scorer = _selector(publication)
    source = f" ({PAPERS[scorer]})" if scorer in PAPERS else ""
    mixed = list(config.compression.mixed_ratios)
    ratios = f"ratios {', '.join(f'{r:g}' for r in mixed)}" if mixed else f"ratio {config.ratio:g}"
    how = (
        f"compressed by {_unit(publication)}s: the scorer `{scorer}`{source} gives each thinking token an importance, "
        f"and of every chain of thought the most important {_unit(publication)}s are kept at {ratios} (share of the "
        f"tokens kept over all: {facts['actual_ratio']:.3f})"
    )
    if _mode(publication) == "mask_loss":
        how = (
            f"whole, with a loss on a part of their tokens: the scorer `{scorer}`{source} gives each thinking token an "
            f"importance, by which its loss counts or not, at {ratios} (mean weight over all: "
            f"{facts.get('loss_share', 1.0):.3f})"
        )
    elif _mode(publication) == "first_solution":
        how = f"cut after their first right solution (kept over all: {facts['actual_ratio']:.3f})"
    kind = "LoRA adapter" if publication.publishes_adapter else "fine-tune" if publication.merge else "full fine-tune"
    return (
        f"# {name}\n\n"
        f"A {kind} of [{publication.base_model}](https://huggingface.co/{publication.base_model}), trained on chains "
        f"of thought that were {how}.\n" + (_merged(publication) if publication.merge else "")
    )


def _mode(publication: Publication) -> str:
    """Value of `compression.mode`; runs of earlier releases delete."""
    return publication.config.compression.get("mode") or "delete"


def _selector(publication: Publication) -> str:
    """Name of the scorer, or of what compresses the traces in its place."""
    mode = _mode(publication)
    return mode if mode == "first_solution" else str(publication.config.scorer.name)


def _unit(publication: Publication) -> str:
    compression = publication.config.compression
    return unit_name(compression.get("selection"), compression.get("granularity"))


def _merged(publication: Publication) -> str:
    base = publication.base_model
    return (
        f"\nThe LoRA adapter that was trained on {base} is merged into these weights: base weights and adapter are "
        f"added in float32 and rounded once to the number format of {base}. The chat template writes the system text "
        "of the training where a conversation has none.\n"
    )


def _use(publication: Publication, name: str) -> str:
    chat, base = publication.config.model.chat, publication.base_model
    load = (
        f'model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("{base}"), "{name}")'
        if publication.publishes_adapter
        else f'model = AutoModelForCausalLM.from_pretrained("{name}")'
    )
    imports = "from peft import PeftModel\n" if publication.publishes_adapter else ""
    tokenizer = base if publication.publishes_adapter else name
    content = json.dumps(chat.system, ensure_ascii=False)  # also a literal of Python
    system = "" if chat.system is None else f'{{"role": "system", "content": {content}}}, '
    template = "" if chat.template is None else f"chat_template={json.dumps(chat.template, ensure_ascii=False)}, "
    marker, user = "", chat.user.replace("{question}", "QUESTION")
    if publication.config.compression.mixed_ratios:
        user += chat.ratio_marker.replace("{ratio}", "0.5")
        marker = (
            "The text after the question requests a ratio, here 0.5; without it the model writes its whole thinking.\n"
        )
    return (
        "## Use\n\n```python\n"
        f"{imports}from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        f'tokenizer = AutoTokenizer.from_pretrained("{tokenizer}")\n{load}\n'
        f'messages = [{system}{{"role": "user", "content": {json.dumps(user, ensure_ascii=False)}}}]\n'
        f"prompt = tokenizer.apply_chat_template(messages, {template}add_generation_prompt=True, "
        'return_tensors="pt", return_dict=True)\n'
        "print(tokenizer.decode(model.generate(**prompt, max_new_tokens=1024)[0]))\n```\n\n"
        f"{marker}An answer is `{_shown(chat.thinking_open)}` thinking `{_shown(chat.thinking_close)}` response.\n"
    )


def _training(publication: Publication) -> str:
    config, facts = publication.config, publication.compression["facts"]
    tune, trained = config.sft.tune, publication.training["facts"]
    mixed = list(config.compression.mixed_ratios)
    own = _mode(publication) == "first_solution"
    asked = ", ".join(f"{ratio:g}" for ratio in mixed or [config.ratio])
    kept = f"{facts['num_kept_tokens']:,} of {facts['num_tokens']:,} kept ({facts['actual_ratio']:.3f})"
    start = publication.training["identity"].get("start")
    rows = [
        ("base model", publication.base_model),
        ("data", f"{origin(publication).text}, {publication.training['num_rows']} chains of thought"),
        ("scorer", f"`{_selector(publication)}`{_scoring_model(config)}"),
        *([] if own else [("unit", _unit(publication)), ("ratio", asked)]),
        ("thinking tokens", kept),
        ("method", f"{tune.method}, epochs: {tune.epochs}, learning rate {tune.learning_rate:g}, seed {tune.seed}"),
        *([("start", _start(start, config.sft.get("start")))] if start else []),
        ("final training loss", f"{trained['final_loss']:.3f}"),
    ]
    return "## Training\n\n| | |\n|---|---|\n" + "".join(
        f"| {name} | {markdown_cell(value)} |\n" for name, value in rows
    )


def _scoring_model(config: Settings) -> str:
    """The model that scored the traces, as far as the settings name it."""
    if encoder := config.scorer.get("path"):
        return f", encoder `{name_of(encoder)}`"
    reference = config.get("reference")
    if config.scorer.get("read_by") is None or reference is None:
        return ""
    model = reference.get("base") or config.model
    named = model.path if model.source == ModelSource.hub.value else model.name
    base = name_of(str(model.get("hub_id") or named))
    if config.scorer.get("read_by") != "reference":
        return f", read by `{base}`"
    method = reference.tune.method
    if reference.get("path"):
        return f", read by a reference model that was trained before from `{base}`"
    return f", read by `{base}`" if method == "none" else f", read by a reference model ({method}) from `{base}`"


def _start(start: Mapping[str, Any], named: str) -> str:
    how = "whose adapter was trained further" if start["trains_adapter"] else "with whose weights the training began"
    return f"the student {ORIGINAL.name}, {how}" if named == ORIGINAL_WEIGHTS else f"another student, {how}"


def _results(publication: Publication) -> str:
    lines = [
        "## Results\n",
        "Intervals are over questions; overlapping ones do not tell systems apart.\n",
        "| benchmark | system | target ratio | accuracy % | questions | generated tokens per answer | truncated % |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for run, row in [(r, row) for r, rows in publication.results for row in rows]:
        names = f"{markdown_cell(run.benchmark)} | {markdown_cell(row.system)}"
        accuracy = f"{percent_interval(row.accuracy)} ({run.confidence:.0%})"
        tokens, cut = _interval(row.mean_tokens), f"{100 * row.truncation_rate:.1f}"
        lines.append(f"| {names} | {row.asked} | {accuracy} | {row.accuracy.n} | {tokens} | {cut} |")
    return "\n".join(dict.fromkeys(lines)) + "\n"  # each once, as Original is a row of every run


def _interval(interval: Interval) -> str:
    return f"{interval.value:.1f} [{interval.low:.1f}, {interval.high:.1f}]"


def _limits(publication: Publication) -> str:
    runs = [run for run, _ in publication.results]
    benchmarks = ", ".join(f"`{markdown_cell(name)}`" for name in dict.fromkeys(run.benchmark for run in runs))
    seeds = ", ".join(str(seed) for seed in sorted({run.seed for run in runs}))
    lines = [
        f"Measured on {benchmarks} alone, with the prompt above and seed {seeds}; other questions, prompts, budgets "
        "and seeds give other numbers.",
        "The ratio is that of the training texts. What is saved at inference is the difference between the generated "
        "tokens of the rows above.",
        "A compressed thinking leaves out words and steps. It is no explanation for people, and text that a reader "
        "would need in order to check an answer may be missing.",
    ]
    if "num_traces" in publication.config.data.values:
        lines.append("The training data are synthetic word problems; nothing here says how it does on real ones.")
    return "## Limits\n\n" + "".join(f"- {line}\n" for line in lines)


def _licence_of(publication: Publication) -> dict[str, str]:
    if publication.licence is not None:
        return {"license": publication.licence}
    return hub_licence(publication.base_model, online=False)


def _licence(publication: Publication) -> str:
    base = f"[{publication.base_model}](https://huggingface.co/{publication.base_model})"
    own, of_base = _licence_of(publication), hub_licence(publication.base_model, online=False)
    data = origin(publication).licence
    lines = [
        f"This model: {_named(own)}" if own else "This model: not stated; the licence of the base model applies",
        f"Base model {base}: {_named(of_base)}" if of_base else f"Base model {base}: see its card",
        f"Training data: {_named(data)}" if data else "Training data: not known",
    ]
    return "## Licence\n\n" + "".join(f"- {line}\n" for line in lines)


def _named(licence: Mapping[str, str]) -> str:
    more = ", ".join(licence[key] for key in ("license_name", "license_link") if key in licence)
    return markdown_cell(f"{licence.get('license', '')} ({more})" if more else licence.get("license", ""))


def _shown(text: str) -> str:
    return text.strip().replace("\n", " ") or " "
