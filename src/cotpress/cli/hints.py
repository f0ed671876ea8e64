"""Suggestions for a key that does not exist: a name of another program, a setting at another place, a path.

`MEANT` is the one table of other programs' names. Where a setting stands, and with which choices, is read from the
classes of the configuration (`schema.settings_of`), so a suggestion names only settings of the command.
"""

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cotpress.cli.help import choices, groups_of
from cotpress.cli.schema import Setting, settings_of
from cotpress.config import SCHEMAS
from cotpress.errors import did_you_mean
from cotpress.invocation import program

SCRIPTS = tuple(place.removesuffix("_schema") for place in SCHEMAS if "/" not in place)
"""Names of the entry scripts."""
VALUE = "VALUE"
"""Stands for a value that is not known."""


@dataclass(frozen=True, slots=True)
class Meant:
    """Settings of this project that stand for a name of another program.

    Attributes:
        own: What may be typed instead. A name such as `epochs` is that of settings at any place and takes the value
            that was typed; so does a whole key, or `{value}` in a text. Any other text stays as it is.
        why: A sentence before it.
    """

    own: tuple[str, ...] = ()
    why: str = ""


_CONTINUES = Meant(why="A command that is run again continues by itself and computes nothing twice.")
_DIVIDED = Meant(
    ("sequences_per_step=N",),
    "It is not set by itself: the sequences of a step are divided into passes of trainer.tokens_per_batch tokens.",
)
_DTYPE = Meant(("model.dtype=bfloat16", "model.dtype=float32"), "By default the processor decides.")
_NO_BITS = Meant(
    ("sft=lora", "trainer.activation_checkpointing=true"), "Weights are not quantized; these need less memory."
)
_SHARDED = Meant(("trainer=fsdp2", "trainer=ddp"))

_TABLE: dict[str, Meant] = {
    # training: TRL, LLaMA-Factory, Hugging Face, Lightning
    "lr peak_lr max_lr": Meant(("learning_rate",)),
    "num_train_epochs num_epochs max_epochs n_epochs": Meant(("epochs",)),
    "max_steps num_steps max_train_steps": Meant(("epochs=N",), "Steps follow from epochs and sequences_per_step."),
    "batch_size train_batch_size global_batch_size effective_batch_size": Meant(("sequences_per_step",)),
    "per_device_train_batch_size per_device_eval_batch_size per_device_batch_size micro_batch_size": _DIVIDED,
    "gradient_accumulation_steps accumulate_grad_batches grad_accum": _DIVIDED,
    "max_seq_length max_seq_len max_length cutoff_len seq_length block_size": Meant(("max_tokens",)),
    "model_max_length context_length max_model_len": Meant(("model.context_tokens",)),
    "lora_r rank r": Meant(("lora_rank",)),
    "alpha": Meant(("lora_alpha",)),
    "warmup_ratio": Meant(("warmup_fraction",)),
    "gradient_clip_val max_norm clip_grad_norm": Meant(("max_grad_norm",)),
    "adam_beta1": Meant(("beta1",)),
    "adam_beta2": Meant(("beta2",)),
    "finetuning_type use_peft use_lora peft": Meant(("sft=lora", "sft=full")),
    "lora_target target_modules": Meant(why="Adapters are trained on all linear layers."),
    "load_in_4bit load_in_8bit quantization quantization_bit qlora bnb": _NO_BITS,
    "save_steps save_strategy save_every": Meant(("trainer.checkpoint_every_s=SECONDS",)),
    "eval_steps eval_strategy val_check_interval": Meant(("sft.validations_per_run=N",)),
    "resume resume_from_checkpoint auto_resume overwrite overwrite_output_dir force": _CONTINUES,
    # hardware
    "gpus num_gpus n_gpus n_gpu num_devices nproc_per_node": Meant(("trainer.devices",)),
    "device": Meant(("trainer.accelerator",)),
    "nodes nnodes num_machines": Meant(("trainer.num_nodes",)),
    "num_workers dataloader_num_workers threads": Meant(("trainer.num_threads",)),
    "gradient_checkpointing": Meant(("trainer.activation_checkpointing",)),
    "deepspeed fsdp": _SHARDED,
    "bf16 fp16 fp32 precision mixed_precision": _DTYPE,
    "dtype torch_dtype": Meant(("model.dtype",)),
    "attn_implementation flash_attn": Meant(("model.attention",)),
    # model, data, results
    "model_name_or_path model_name base_model model_id pretrained student": Meant(("model",)),
    "checkpoint checkpoint_path ckpt ckpt_path adapter_path adapter_name_or_path peft_model lora_path": Meant(
        ("adapter", "sft.start")
    ),
    "adapter": Meant(("sft.start",)),
    "dataset dataset_name datasets train_data train_dataset train_file data_path data_file input": Meant(
        ("data", "benchmark", "data=self_written questions@data.questions={value}")
    ),
    "task tasks eval_dataset eval_data test_data test_dataset test_file": Meant(("benchmark",)),
    "max_samples max_train_samples": Meant(("data.limit",)),
    "output_dir save_dir out_dir out default_root_dir logging_dir": Meant(("output", "output_root")),
    "output": Meant(("output_root",)),
    "run_name exp_name experiment_name wandb_name": Meant(("name",)),
    "wandb use_wandb": Meant(("tracker=wandb",)),
    "logger report_to log_with": Meant(("tracker",)),
    "wandb_project project": Meant(("tracker.project",)),
    "wandb_entity": Meant(("tracker.entity",)),
    # scores and answers
    "compression_ratio keep_ratio target_ratio retention rate gamma": Meant(("ratio",)),
    "method metric": Meant(("scorer",)),
    "temperature temp": Meant(("evaluation.temperature",)),
    "top_p": Meant(("evaluation.top_p",)),
    "num_samples n_samples num_return_sequences samples": Meant(("evaluation.samples",)),
    "n": Meant(("evaluation.samples",)),
    "max_new_tokens max_gen_toks max_completion_tokens": Meant(("benchmark.max_new_tokens",)),
}
MEANT = {name: meant for names, meant in _TABLE.items() for name in names.split()}
"""Settings of this project by the names that other programs have for them."""
_ALONE = Meant(("data.path", "benchmark.path", "truth.path", "model.path"))
_PATHS = {"path": _ALONE, "file": _ALONE, "filename": _ALONE}
"""Names of files that stand alone; after a group, `scorer.path`, they are settings of its choices."""
LAUNCHERS = {
    "slurm": "submitit_slurm", "submitit": "submitit_slurm", "cluster": "submitit_slurm", "sbatch": "submitit_slurm",
    "local": "submitit_local", "parallel": "joblib", "multiprocessing": "joblib", "loky": "joblib",
}  # fmt: skip
"""Choices of `hydra/launcher` by the words that users have for them."""
_OF_LAUNCHER = (
    "account", "array_parallelism", "constraint", "cpus_per_task", "gpus_per_node", "mem_gb", "partition", "qos",
    "timeout_min",
)  # fmt: skip
"""Settings of `hydra.launcher` that users type without their place."""
_SBATCH: dict[str, str] = {
    "time timeout time_limit timelimit walltime max_time": "timeout_min",
    "gpus gpu num_gpus n_gpus ngpus": "gpus_per_node",
    "cpus cpu num_cpus ncpus cpus_per_node": "cpus_per_task",
    "mem memory mem_per_node ram": "mem_gb",
    "queue": "partition",
    "num_nodes nnodes": "nodes",
    "job_name": "name",
    "max_jobs n_jobs": "array_parallelism",
}
_OWN_OF_SBATCH = {name: own for names, own in _SBATCH.items() for name in names.split()}
"""Settings of `hydra.launcher` by the names that sbatch and other schedulers have for them."""
WORDS: dict[str, dict[str, str]] = {
    "devices": {"all": "null", "auto": "null"},
    "dtype": {"bf16": "bfloat16", "fp16": "bfloat16", "float16": "bfloat16", "half": "bfloat16", "fp32": "float32"},
    "strategy": {"fsdp": "fsdp2", "deepspeed": "fsdp2"},
    "method": {"qlora": "lora"},
}
"""Values of this project by the setting and by the values that other programs have for it."""

_NAMED = {
    "data": "traces", "sft": "students", "reference": "reference model", "benchmark": "problems",
    "evaluation": "answers", "scorer": "classifier",
}  # fmt: skip
"""Words for the first part of a key, where several keys can be meant."""
_REPEATED = ("model.tuning.", "planning.", "labelled.", "model.tokenskip.")
"""Places with names of settings that stand elsewhere as well, which hardly anyone means."""
_MOST = 3
"""Most settings that are suggested."""
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
_FILE = re.compile(r".*\.(jsonl|json|csv|parquet)(\.gz|\.zst)?")


def meant_by(key: str, value: str, entry: str, conf: Path, chosen: Sequence[str] = ()) -> str:
    """Sentences on the settings that are meant by a key that a script does not have, with its value; empty if none.

    They begin with a space and end with what to type. A setting that only some choices of a group have is named with
    one of them, unless the command line chooses one; `chosen` are its choices, `data=jsonl`.
    """
    if fix := _of_launcher(key, value, chosen):
        return f" Fix: {fix}"
    words = _Words(entry, conf, value, chosen)
    meant = (_PATHS.get(key) or MEANT.get(_plain(key))) or Meant((_plain(key),))
    if not meant.own:
        return f" {meant.why} Fix: leave it out"
    if texts := words.of(meant.own, key):
        told = "" if key in _PATHS else words.told
        why = f" {meant.why}" if meant.why else ""
        return f"{told}{why} Fix: {', or '.join(texts)}"
    if (group := meant.own[0]) in words.groups and value != VALUE:  # a choice that none of the groups has
        return f" Here it is {group}.{did_you_mean(value, choices(conf / group))}"
    return words.told


def _of_launcher(key: str, value: str, chosen: Sequence[str]) -> str:
    """The setting of a launcher that is meant by a key, as it is typed; empty if it is none."""
    if key == "launcher":
        return f"-m hydra/launcher={LAUNCHERS.get(value, value)}"
    launchers = [choice.partition("=")[2] for choice in chosen if choice.startswith("hydra/launcher=")]
    before, name = "" if launchers else "-m hydra/launcher=submitit_slurm ", _plain(key)
    is_placed = key.startswith("hydra.launcher.")
    if name in _OF_LAUNCHER and (key == name or (is_placed and not launchers)):
        return before + _typed(f"hydra.launcher.{name}", value)
    own = _OWN_OF_SBATCH.get(name) if is_placed and "joblib" not in launchers else None
    if own is None:
        return ""
    convert = {"timeout_min": _minutes, "mem_gb": _gigabytes}.get(own, str)
    return before + _typed(f"hydra.launcher.{own}", convert(value))


def _minutes(value: str) -> str:
    """Minutes of a time limit as sbatch reads it: `90`, `1:30:00`, `1-00:00:00`."""
    time = re.fullmatch(r"(?:(\d+)-)?(\d+):(\d\d)(?::\d\d)?", value)
    if time is None:
        return value if value.isdigit() else "MINUTES"
    days, first, second = (int(part or 0) for part in time.groups())
    is_short = value.count(":") == 1 and "-" not in value  # minutes and seconds
    return str(max(first, 1) if is_short else (days * 24 + first) * 60 + second)


def _gigabytes(value: str) -> str:
    size = re.fullmatch(r"(\d+)\s*(?:g|gb|gib)?", value.lower())
    return size[1] if size else "GB"


def meant_elsewhere(key: str, value: str, entry: str, conf: Path) -> str:
    """A sentence on the settings of other scripts that are meant by a key; empty if there are none."""
    scripts: dict[str, list[str]] = {}
    for script in SCRIPTS if "." not in key else ():
        own = MEANT.get(_plain(key), Meant((_plain(key),))).own
        texts = _Words(script, conf, value).of(own, key) if script != entry else []
        if texts:
            scripts.setdefault(texts[0] if texts[0] != _typed(key, value) else "", []).append(program(script))
    told = [f"{', '.join(programs)}{text and f' with {text}'}" for text, programs in scripts.items()]
    return f" {program(entry)} does not have it, but {'; '.join(told)}." if told else ""


def known_words(entry: str, conf: Path) -> set[str]:
    """Names that users type for a setting: those of the script's groups and settings, and of other programs."""
    settings = settings_of(entry, conf)
    return {*groups_of(entry, conf), *(key.rpartition(".")[2] for key in settings), *MEANT}


def choice_of_path(place: str, value: str, entry: str, conf: Path) -> str:
    """Settings that read a file, folder or hub id given as the choice of a group; empty for any other value."""
    group, _, inner = place.partition("@")
    for file in sorted((conf / group).glob("*.yaml")):
        if _HUB_ID.fullmatch(value) and f"dataset: {value}\n".lower() in file.read_text(encoding="utf-8").lower():
            return f"{place}={file.stem}"
    is_path = "/" in value or value.startswith(("~", ".")) or _FILE.fullmatch(value) is not None
    setting = settings_of(entry, conf).get(f"{inner or group}.path")
    if not is_path or setting is None or not setting.choices:
        return ""
    typed = f'"{value}"' if re.search(r"[,\s]", value) else value  # which Hydra would divide
    return f"{_choice(setting, value)} {_typed(setting.key, typed)}"


def _choice(setting: Setting, value: str) -> str:
    """The choice of a group that is meant by a value of a setting: `hub` for a hub id, otherwise the first one."""
    is_hub_id = _HUB_ID.fullmatch(value) and not _FILE.fullmatch(value) and not Path(value).exists()
    hub = [choice for choice in setting.choices if choice.endswith("=hub")] if is_hub_id else []
    return [*hub, *setting.choices][0]


def _plain(key: str) -> str:
    return key.rpartition(".")[2].lower().replace("-", "_")


def _typed(key: str, value: str) -> str:
    """A setting as it is typed into a shell."""
    return shlex.quote(f"{key}={value}") if value != VALUE else f"{key}={value}"


class _Words:
    """The settings of a script that can be meant by a name, with a value.

    Attributes:
        told: A sentence on the choices that have the only setting; empty without.
    """

    def __init__(self, entry: str, conf: Path, value: str, chosen: Sequence[str] = ()) -> None:
        self._entry, self._conf, self._value, self._chosen = entry, conf, value, chosen
        self._settings = settings_of(entry, conf)
        self.groups = {*groups_of(entry, conf)}
        self.told = ""

    def of(self, own: Sequence[str], key: str) -> list[str]:
        """Return the settings to type in place of a key, made from the texts of `Meant.own`."""
        texts: dict[str, str] = {}
        for text in own:
            for place, typed in self._texts(text, key):
                texts.setdefault(typed, _NAMED.get(place.partition(".")[0], ""))
        several = len(texts) > 1 and len({*texts.values()}) > 1
        return [f"{text} ({name})" if several and name else text for text, name in texts.items()][:_MOST]

    def _texts(self, text: str, key: str) -> Iterator[tuple[str, str]]:
        name, equals, value = text.partition("=")
        if "{value}" in text:
            place = text.split()[-1].partition("=")[0]
            if name in self.groups and self._is_choice(place.partition("@")[0]):
                yield name, text.replace("{value}", self._value)
        elif name in self.groups and not equals:
            if self._is_choice(name):
                yield name, _typed(name, self._value)
            elif path := choice_of_path(name, self._value, self._entry, self._conf):
                yield name, path
        elif name in self.groups:
            yield "", text
        else:
            for setting in self._named(name, key):
                typed = f"{setting.key}={value}" if equals else self._setting(setting)
                if typed:
                    yield setting.key, typed

    def _named(self, name: str, key: str) -> list[Setting]:
        """The settings of a name: those in the group of a key, or that of this whole key, or those at any place."""
        named = [s for k, s in self._settings.items() if k.endswith(f".{name}") and not k.startswith(_REPEATED)]
        within = [s for s in named if s.key.partition(".")[0] == key.partition(".")[0]] if "." in key else []
        exact = [self._settings[name]] if name in self._settings else []
        named.sort(key=lambda setting: not setting.key.startswith("sft."))
        return within or exact or [s for s in named if not s.choices] or named

    def _setting(self, setting: Setting) -> str:
        """A setting with the value, and with a choice that has it; empty where another one is chosen."""
        if not setting.choices:
            return _typed(setting.key, self._value)
        self.told = f" It is a setting of {', '.join(setting.choices)}."
        group = f"{setting.choices[0].partition('=')[0]}="
        if chosen := [choice for choice in self._chosen if choice.startswith(group)]:
            return _typed(setting.key, self._value) if chosen[-1] in setting.choices else ""
        return f"{_choice(setting, self._value)} {_typed(setting.key, self._value)}"

    def _is_choice(self, group: str) -> bool:
        if self._value in (VALUE, "null") or group == "model":  # of which hub ids and folders are choices, too
            return True
        return all(value in choices(self._conf / group) for value in self._value.split(","))
