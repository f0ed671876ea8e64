"""The `--help` page: every configuration group with one line per choice, read from the YAML files' first lines.

It needs neither Hydra nor torch, so it answers at once.
"""

from pathlib import Path

USAGE = {
    "train": (
        "The whole flow: data, reference model, scores, compression, fine-tuning, evaluation, table.",
        [
            "python train.py scorer=cts ratio=0.7",
            "python train.py -m scorer=cts,tokenskip,random ratio=0.5,0.7,0.9",
            "python train.py data=self_written questions@data.questions=gsm8k model=qwen7b scorer=tokenskip_xlmr",
        ],
    ),
    "compress": (
        "Data to compressed training data, no fine-tuning.",
        [
            "python compress.py data=jsonl data.path=FILE scorer=cts ratio=0.5 export=trl output=DIR",
            "python compress.py data=jsonl data.path=FILE data.field=COLUMN scorer.condition=question ratio=0.5",
        ],
    ),
    "fidelity": (
        "How well a scorer finds what is known to matter.",
        [
            "python fidelity.py scorer=cts truth=planted",
            "python fidelity.py -m scorer=cts,tokenskip,random reference=none,lora",
            "python fidelity.py truth=thought_anchors truth.path=FILE scorer=cts",
        ],
    ),
    "evaluate": (
        "Any checkpoint or PEFT adapter on any benchmark.",
        [
            "python evaluate.py model=smollm2 adapter=DIR benchmark=planted",
            "python evaluate.py -m model=hub model.path=ID adapter=DIR benchmark=gsm8k,math500 ratio=0.5,0.7 n=4",
        ],
    ),
    "report": ("Tables and plots from finished runs.", ["python report.py runs=outputs/runs"]),
}
COMMON = """\
Everywhere:
  ratio=R            fraction of the thinking tokens KEPT, in (0, 1]
  seed=N  name=NAME  output_root=DIR
  GROUP.KEY=VALUE    any value inside a group, e.g. scorer.condition=question
  -m                 multirun: comma-separated values, every combination once
  --cfg job          show the composed configuration and stop
  --hydra-help       Hydra's own options
"""


def help_page(name: str, conf: Path) -> str:
    """The help text of one entry script.

    Args:
        name: Entry script and primary configuration, e.g. `train`.
        conf: Folder of the configuration groups.
    """
    what, examples = USAGE[name]
    lines = [f"{name}.py - {what}", "", *(f"  {e}" for e in examples), "", "Groups (GROUP=CHOICE, * is the default):"]
    chosen = dict(_defaults(conf / f"{name}.yaml"))
    for group, default in chosen.items():
        if group.startswith("hydra") or "@" in group:
            continue
        lines.append(f"  {group}")
        for file in sorted((conf / group).glob("*.yaml")):
            star = "*" if file.stem == default else " "
            lines.append(f"   {star} {file.stem:<21} {one_liner(file)}")
    return "\n".join([*lines, "", COMMON])


def _defaults(path: Path) -> list[tuple[str, str]]:
    """`(group, choice)` pairs of a primary configuration's defaults list, without parsing YAML."""
    pairs = []
    for line in path.read_text(encoding="utf-8").splitlines():
        entry = line.strip().removeprefix("- ")
        if line.startswith("  - ") and ": " in entry:
            group, _, choice = entry.partition(": ")
            pairs.append((group.strip(), choice.strip()))
    return pairs


def one_liner(path: Path) -> str:
    """The line of help that a YAML file opens with; empty if there is none."""
    lines = path.read_text(encoding="utf-8").splitlines()
    comments = (line.removeprefix("#").strip() for line in lines if line.startswith("#"))
    return next((c for c in comments if not c.startswith("@package")), "")
