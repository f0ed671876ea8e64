"""The model card of a student: metadata for the hub and a page for readers."""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from cotpress.hub.publication import Publication
from cotpress.modeling.config import ORIGINAL_WEIGHTS
from cotpress.modeling.training_record import TRAINING_CONFIG
from cotpress.records import ORIGINAL
from cotpress.report.table import percent_interval
from cotpress.store.grid import markdown_cell

if TYPE_CHECKING:
    from huggingface_hub import ModelCard, ModelCardData

PAPERS = {
    "cts": "[Conditional Token Selection](https://arxiv.org/abs/2505.17827)",
    "tokenskip": "[TokenSkip](https://arxiv.org/abs/2502.12067)",
    "tokenskip_xlmr": "[TokenSkip](https://arxiv.org/abs/2502.12067)",
    "tokenskip_mbert": "[TokenSkip](https://arxiv.org/abs/2502.12067)",
}


def model_card(publication: Publication, name: str) -> "ModelCard":
    """Build the card of `user/name`: `base_model`, `library_name`, `tags`, `metrics`, results as a `model-index`."""
    from huggingface_hub import ModelCard

    sections = [_summary(publication, name), _use(publication, name), _training(publication), _results(publication)]
    sections.append(f"Made with cotpress; `{TRAINING_CONFIG}` holds every setting.\n")
    return ModelCard(f"---\n{_header(publication, name).to_yaml()}\n---\n\n" + "\n".join(sections))


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
        + (["lora"] if publication.publishes_adapter else []),
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
        f"compressed token by token: the scorer `{scorer}`{source} gives each thinking token an importance, and of "
        f"every chain of thought the most important tokens are kept at {ratios} (kept over all: "
        f"{facts['actual_ratio']:.3f})"
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
    source = config.data.get("path") or config.data.name
    kept = f"{facts['num_kept_tokens']:,} of {facts['num_tokens']:,} kept ({facts['actual_ratio']:.3f})"
    start = publication.training["identity"].get("start")
    rows = [
        ("data", f"{source}, {publication.training['num_rows']} chains of thought"),
        ("thinking tokens", kept),
        ("scorer", f"`{_selector(publication)}`"),
        ("method", f"{tune.method}, epochs: {tune.epochs}, learning rate {tune.learning_rate:g}, seed {tune.seed}"),
        *([("start", _start(start, config.sft.get("start")))] if start else []),
        ("final training loss", f"{trained['final_loss']:.3f}"),
    ]
    return "## Training\n\n| | |\n|---|---|\n" + "".join(
        f"| {name} | {markdown_cell(value)} |\n" for name, value in rows
    )


def _start(start: Mapping[str, Any], named: str) -> str:
    how = "whose adapter was trained further" if start["trains_adapter"] else "with whose weights the training began"
    return f"the student {ORIGINAL.name}, {how}" if named == ORIGINAL_WEIGHTS else f"another student, {how}"


def _results(publication: Publication) -> str:
    lines = [
        "## Results\n",
        "Intervals are over questions; overlapping ones do not tell systems apart.\n",
        "| benchmark | system | target ratio | accuracy % | questions | generated tokens | truncated % |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for run, row in [(r, row) for r, rows in publication.results for row in rows]:
        names = f"{markdown_cell(run.benchmark)} | {markdown_cell(row.system)}"
        accuracy = f"{percent_interval(row.accuracy)} ({run.confidence:.0%})"
        tokens, cut = f"{row.mean_tokens.value:.1f}", f"{100 * row.truncation_rate:.1f}"
        lines.append(f"| {names} | {row.asked} | {accuracy} | {row.accuracy.n} | {tokens} | {cut} |")
    return "\n".join(dict.fromkeys(lines)) + "\n"  # each once, as Original is a row of every run


def _shown(text: str) -> str:
    return text.strip().replace("\n", " ") or " "
