"""The keep/drop token classifier of TokenSkip: loading, training, keep probabilities of windows of text.

A published classifier (hub id or directory) is used as it is. With `train=true` an encoder gets a fresh two-class
head and is fine-tuned on the distilled labels first (Lightning), once per encoder, labels and settings.
"""

import logging
import math
import warnings
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader
from transformers import DataCollatorForTokenClassification

from cotpress.devices.lightning import ctrl_c_stops, lightning_trainer, quiet_lightning
from cotpress.devices.memory import smaller_batches
from cotpress.errors import ConfigError, DataError, ModelError, TrainingError
from cotpress.modeling.alignment import encode_plainly, spans_to_mask, tokenize_with_offsets
from cotpress.modeling.foreign import reading
from cotpress.modeling.loading import check_finite, quiet_transformers, without_limits
from cotpress.modeling.sources import (
    PACKAGE_PREFIX,
    directory_sha256,
    model_directory,
    package_folder,
    require_model,
    source_identity,
)
from cotpress.progress import Progress
from cotpress.records import VALUABLE_FILE, ValuableTrace
from cotpress.scoring.reader import padded_batches
from cotpress.scoring.scorers.tokenskip import TokenskipConfig
from cotpress.store.artifacts import Artifact, ArtifactStore, Summary
from cotpress.store.source import Identity, identified
from cotpress.store.tables import read_records

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

log = logging.getLogger(__name__)

KEEP = 1
"""Index of the class that means keep, as in the published LLMLingua-2 models."""
IGNORE = -100
WARMUP_FRACTION = 0.1


class Encoded(NamedTuple):
    """A text in the encoder's tokens: `Tokens`, and the pre-tokenizer's word of each, int64 `[n]`, ascending."""

    token_ids: NDArray[np.int32]
    offsets: NDArray[np.int32]
    word_ids: NDArray[np.int64]


def windows(word_ids: NDArray[np.int64], window_tokens: int) -> list[slice]:
    """Consecutive ranges of at most `window_tokens` tokens, cut between words where a word fits a window."""
    starts = np.flatnonzero(np.diff(word_ids, prepend=-1))
    ranges, begin = [], 0
    while begin < len(word_ids):
        limit = begin + window_tokens
        if limit < len(word_ids):
            at = int(starts[np.searchsorted(starts, limit, side="right") - 1])
            limit = at if at > begin else limit
        ranges.append(slice(begin, min(limit, len(word_ids))))
        begin = limit
    return ranges


class Classifier:
    """A token classifier with its tokenizer."""

    def __init__(self, model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", window_tokens: int) -> None:
        """Raises ConfigError if the windows are longer than the encoder can read."""
        self.model, self.tokenizer = model, tokenizer
        limit = min(int(model.config.max_position_embeddings), int(tokenizer.model_max_length))
        if not 1 <= window_tokens <= limit - 2:
            raise ConfigError(f"scorer.window_tokens: got {window_tokens}, this encoder allows 1 to {limit - 2}")
        self.window_tokens = window_tokens
        tokenizer.padding_side = "right"  # tokens are found again by their place in a row
        self.collate = DataCollatorForTokenClassification(tokenizer, label_pad_token_id=IGNORE)

    def encode(self, text: str) -> Encoded:
        """Split `text` into the encoder's tokens."""
        ids, offsets = tokenize_with_offsets(self.tokenizer, text)
        words: list[int | None] = encode_plainly(self.tokenizer, text).word_ids()
        # A token that was added to the tokenizer belongs to no word: it is its own.
        known = np.array([-1 if w is None else w for w in words], dtype=np.int64)
        starts = np.ones(len(known), dtype=np.bool_)
        starts[1:] = (known[1:] != known[:-1]) | (known[1:] < 0)
        return Encoded(ids, offsets, np.cumsum(starts) - 1)

    def example(self, window: NDArray[np.int32]) -> dict[str, list[int]]:
        """Put the tokens of a window between the encoder's two special tokens, for `collate`."""
        return {"input_ids": [self.tokenizer.cls_token_id, *window.tolist(), self.tokenizer.sep_token_id]}

    def keep_probabilities(self, texts: Sequence[Encoded], tokens_per_batch: int) -> Iterator[NDArray[np.float32]]:
        """Yield P(keep) of every token, float32 `[n]` in [0, 1], one array per text, in order."""
        parts = [[text.token_ids[part] for part in windows(text.word_ids, self.window_tokens)] for text in texts]
        values = self.probabilities([self.example(part) for part in chain(*parts)], tokens_per_batch)
        for some in parts:
            read = islice(values, len(some))
            yield np.concatenate([np.empty(0, dtype=np.float32), *(keep[1:-1] for keep in read)])

    def probabilities(
        self, examples: Sequence[dict[str, list[int]]], tokens_per_batch: int
    ) -> Iterator[NDArray[np.float32]]:
        """Yield P(keep) of every token of each example, the special ones included, float32 `[len(input_ids)]`."""
        smaller = smaller_batches(self.model, "classifying tokens")
        batches = padded_batches(examples, lambda example: len(example["input_ids"]), tokens_per_batch)
        return chain.from_iterable(smaller.run(batch, self._score, len) for batch in batches)

    @torch.inference_mode()
    def _score(self, examples: Sequence[dict[str, list[int]]]) -> list[NDArray[np.float32]]:
        batch = self.collate([*examples]).to(self.model.device)
        keep = self.model(**batch).logits.float().softmax(dim=-1)[..., KEEP].cpu().numpy()
        return [keep[row, : len(example["input_ids"])] for row, example in enumerate(examples)]


def encoder_directory(path: str, key: str = "scorer.path") -> Path:
    """The folder of an encoder: `package:NAME`, a local directory or a hub id; raises ModelError if there is none.

    `key` is the setting that holds the path, for messages.
    """
    if not path.startswith(PACKAGE_PREFIX):
        return model_directory(path, key=key)
    package = path.removeprefix(PACKAGE_PREFIX)
    folder = package_folder(package, key=key)
    folders = sorted({p.parent for p in folder.rglob("*.safetensors") if (p.parent / "config.json").is_file()})
    if len(folders) != 1:
        raise ModelError(
            f"{key}: the Python package '{package}' should carry one folder with config.json and safetensors weights, "
            f"got {[str(p.relative_to(folder)) for p in folders]}. Fix: reinstall it, or give {key}=DIR"
        )
    return folders[0]


def encoder_identity(path: str, key: str = "scorer.path") -> dict[str, str]:
    """The content of an encoder's files; arguments and errors as `encoder_directory`."""
    if path.startswith(PACKAGE_PREFIX):
        return {"directory": directory_sha256(encoder_directory(path, key))}
    require_model(path, key=key)
    return source_identity(path, key=key)


def load_classifier(folder: Path, config: TokenskipConfig, *, new_head: bool, device: torch.device) -> Classifier:
    """A token classifier in eval mode, float32.

    With `new_head` an encoder gets a fresh two-class head, drawn from torch's random state.

    Raises:
        ModelError: It cannot be loaded, or is no two-class token classifier.
    """
    from transformers import AutoModelForTokenClassification, AutoTokenizer
    from transformers.utils import logging as transformers_logging

    options = {"dtype": torch.float32, "use_safetensors": True, "local_files_only": True, "output_loading_info": True}
    if new_head:
        options["num_labels"] = 2
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()  # the report of a head that is new on purpose
    try:
        with reading(f"'{config.path}' cannot be loaded as a token classifier from {folder}"), quiet_transformers():
            loaded: Any = AutoModelForTokenClassification.from_pretrained(folder, trust_remote_code=False, **options)
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    finally:
        transformers_logging.set_verbosity(verbosity)
    model, info = loaded
    if not new_head and (info["missing_keys"] or model.config.num_labels != 2):
        raise ModelError(
            f"'{config.path}' is no finished keep/drop classifier ({model.config.num_labels} labels, without weights: "
            f"{sorted(info['missing_keys'])}). Fix: scorer.train=true trains a head on the distilled labels"
        )
    check_finite(model, f"scorer.path: '{config.path}'")
    model.to(device).eval()
    return Classifier(model, without_limits(tokenizer), config.window_tokens)


def classifier_identity(config: TokenskipConfig, distilled: Artifact | None) -> Identity:
    """Everything that determines the classifier: the files of a published one, or all that its training depends on.

    Raises:
        DataError: It is to be trained, and there are no distilled labels.
    """
    encoder = encoder_identity(config.path)
    if not config.train:
        return identified({"published": encoder}, load_classifier)
    if distilled is None:
        raise DataError(
            "scorer.train=true trains the classifier on the distilled labels, and there are none. "
            "Fix: run with the distill stage, or give a published classifier: scorer.train=false scorer.path=HUB_ID"
        )
    training = {name: value for name, value in config.identity().items() if name not in ("name", "path", "train")}
    return identified({"encoder": encoder, "distilled": distilled.key, **training}, _train)


def build_classifier(
    config: TokenskipConfig, distilled: Artifact | None, store: ArtifactStore, device: torch.device
) -> Classifier:
    """The classifier that `config` describes, trained first if need be.

    Raises:
        DataError: There is nothing to train on.
        ModelError: The encoder or classifier cannot be loaded.
        TrainingError: The loss is not finite.
    """
    if config.train:
        identity = classifier_identity(config, distilled)
        assert distilled is not None
        labels = distilled.file(VALUABLE_FILE)
        folder = store.build("classifier", identity, lambda workdir: _train(config, labels, workdir, device)).path
    else:
        folder = encoder_directory(config.path)
    return load_classifier(folder, config, new_head=False, device=device)


def _train(config: TokenskipConfig, labelled: Path, workdir: Path, device: torch.device) -> Summary:
    traces = read_records(labelled, ValuableTrace)
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        classifier = load_classifier(encoder_directory(config.path), config, new_head=True, device=device)
        freeze_lower_layers(classifier.model, config.trained_layers)
        examples, num_tokens, num_kept = [], 0, 0
        for trace in traces:
            tokens = classifier.encode(trace.thinking)
            keep = spans_to_mask(tokens.offsets, trace.valuable)
            num_tokens, num_kept = num_tokens + len(keep), num_kept + int(keep.sum())
            for part in windows(tokens.word_ids, classifier.window_tokens):
                labels = [IGNORE, *keep[part].astype(int).tolist(), IGNORE]
                examples.append({**classifier.example(tokens.token_ids[part]), "labels": labels})
        share = num_kept / max(num_tokens, 1)
        if not 0 < share < 1:
            raise DataError(
                f"the distilled labels keep {share:.0%} of {num_tokens} tokens in {len(traces)} traces: a classifier "
                "learns nothing from them. Fix: choose another distill.extractor, or a published classifier"
            )
        last_loss = _fit(classifier, examples, config, device)
    with quiet_transformers():
        classifier.model.save_pretrained(workdir)
    classifier.tokenizer.save_pretrained(workdir)
    facts = {"num_tokens": num_tokens, "keep_share": round(share, 4), "last_loss": round(last_loss, 4)}
    log.info("classifier: trained on %d tokens, %.0f %% of them kept by the labels", num_tokens, 100 * share)
    return Summary(num_rows=len(traces), facts=facts)


def freeze_lower_layers(model: "PreTrainedModel", trained_layers: int | None) -> None:
    """Leave only the head and the topmost `trained_layers` encoder layers trainable; None leaves everything so."""
    if trained_layers is None:
        return
    encoder: Any = model.base_model
    layers = getattr(getattr(encoder, "encoder", None), "layer", [])
    if not 0 <= trained_layers <= len(layers):
        raise ConfigError(
            f"scorer.trained_layers: got {trained_layers}, {type(model).__name__} has {len(layers)} layers that can "
            "be chosen. Fix: a smaller number, or null to tune all weights"
        )
    encoder.requires_grad_(False)
    for layer in layers[len(layers) - trained_layers :]:
        layer.requires_grad_(True)


class KeepDropModule(pl.LightningModule):
    """Mean cross-entropy of keep/drop over the tokens of a batch; AdamW with linear warmup and decay."""

    def __init__(self, model: "PreTrainedModel", learning_rate: float) -> None:
        super().__init__()
        self.model, self._learning_rate = model, learning_rate
        self.last_loss = math.nan

    def training_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
        """Loss of one batch (scalar); raises TrainingError if it is not finite."""
        logits = self.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        loss = cross_entropy(logits.flatten(0, 1), batch["labels"].flatten(), ignore_index=IGNORE)
        self.last_loss = loss.item()
        if not math.isfinite(self.last_loss):
            raise TrainingError(
                f"classifier training: the loss of batch {batch_idx + 1} is {self.last_loss}. "
                "Fix: lower scorer.learning_rate"
            )
        return loss

    def configure_optimizers(self) -> Any:
        """AdamW; the rate rises over the first tenth of the steps, then falls to zero."""
        trained = [p for p in self.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=self._learning_rate, weight_decay=0.01)
        steps = int(self.trainer.estimated_stepping_batches)
        warmup = max(round(WARMUP_FRACTION * steps), 1)

        def factor(step: int) -> float:
            return min((step + 1) / warmup, (steps - step) / max(steps - warmup, 1), 1.0)

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def _fit(classifier: Classifier, examples: Any, config: TokenskipConfig, device: torch.device) -> float:
    """Train the classifier; returns the loss of the last batch."""
    module = KeepDropModule(classifier.model, config.learning_rate)
    order = torch.Generator().manual_seed(config.seed)
    loader: DataLoader[Any] = DataLoader(
        examples, config.batch_size, shuffle=True, generator=order, collate_fn=classifier.collate
    )
    with Progress("train classifier", len(examples) * config.epochs, "windows") as progress, quiet_lightning():
        # Lightning's advice on data workers, logging and unused GPUs: none applies to a minute of training.
        warnings.simplefilter("ignore")
        show = pl.callbacks.LambdaCallback(
            on_train_batch_end=lambda trainer, module, outputs, batch, batch_idx: progress.advance(
                len(batch["labels"]), note=f"loss {module.last_loss:.3f}"
            )
        )
        trainer = lightning_trainer(device, callbacks=[show], max_epochs=config.epochs, gradient_clip_val=1.0)
        classifier.model.train()
        with ctrl_c_stops(trainer):
            trainer.fit(module, loader)
    classifier.model.to(device).eval()
    return module.last_loss
