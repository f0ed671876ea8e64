"""Fine-tunes the keep/drop classifier on the distilled labels (Lightning), once per encoder, labels and settings."""

import logging
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from pytorch_lightning.plugins.environments import LightningEnvironment  # type: ignore[attr-defined]
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

from cotpress.devices.lightning import ctrl_c_stops, quiet_lightning
from cotpress.errors import ConfigError, DataError, TrainingError
from cotpress.modeling.alignment import spans_to_mask
from cotpress.modeling.loading import quiet_transformers
from cotpress.progress import Progress
from cotpress.records import VALUABLE_FILE, ValuableTrace
from cotpress.scoring.config import TokenskipConfig
from cotpress.scoring.scorers.classifier import (
    Classifier,
    encode,
    encoder_directory,
    encoder_identity,
    load_classifier,
    windows,
)
from cotpress.store.artifacts import Artifact, ArtifactStore, Summary
from cotpress.store.tables import read_records

if TYPE_CHECKING:
    from transformers import PreTrainedModel

log = logging.getLogger(__name__)

IGNORE = -100
WARMUP_FRACTION = 0.1


def classifier_identity(config: TokenskipConfig, distilled: Artifact | None) -> dict[str, Any]:
    """What determines the classifier: a published one's files, or everything its training depends on.

    Raises:
        DataError: Training is asked for and there are no distilled labels.
    """
    encoder = encoder_identity(config.path)
    if not config.train:
        return {"published": encoder}
    if distilled is None:
        raise DataError(
            "scorer.train=true trains the classifier on the distilled labels, and there are none. "
            "Fix: run with the distill stage, or give a published classifier: scorer.train=false scorer.path=HUB_ID"
        )
    return {
        "encoder": encoder,
        "distilled": distilled.key,
        "learning_rate": config.learning_rate,
        "epochs": config.epochs,
        "trained_layers": config.trained_layers,
        "batch_size": config.batch_size,
        "window_tokens": config.window_tokens,
        "seed": config.seed,
    }


def build_classifier(
    config: TokenskipConfig, distilled: Artifact | None, store: ArtifactStore, device: torch.device
) -> Classifier:
    """The classifier that `config` asks for, trained first if need be.

    Raises:
        DataError: There is nothing to train on.
        ModelError: The encoder or classifier cannot be loaded.
        TrainingError: The loss is not finite.
    """
    if not config.train:
        return load_classifier(encoder_directory(config.path), config, new_head=False, device=device)
    identity = classifier_identity(config, distilled)
    assert distilled is not None
    labels = distilled.file(VALUABLE_FILE)
    trained = store.build("classifier", identity, lambda workdir: _train(config, labels, workdir, device))
    return load_classifier(trained.path, config, new_head=False, device=device)


@dataclass(frozen=True, slots=True)
class _Window:
    token_ids: NDArray[np.int32]
    keep: NDArray[np.bool_]


def _train(config: TokenskipConfig, labels: Path, workdir: Path, device: torch.device) -> Summary:
    traces = read_records(labels, ValuableTrace)
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        classifier = load_classifier(encoder_directory(config.path), config, new_head=True, device=device)
        freeze_lower_layers(classifier.model, config.trained_layers)
        examples = _examples(classifier, traces)
        num_tokens = sum(len(e.token_ids) for e in examples)
        share = sum(int(e.keep.sum()) for e in examples) / max(num_tokens, 1)
        if not 0 < share < 1:
            raise DataError(
                f"the distilled labels keep {share:.0%} of {num_tokens} tokens in {len(traces)} traces: a classifier "
                "learns nothing from them. Fix: choose another distill.extractor, or a published classifier"
            )
        module = KeepDropModule(classifier.model, config.learning_rate)
        _fit(module, _loader(classifier, examples, config), config, device)
    with quiet_transformers():
        classifier.model.save_pretrained(workdir)
    classifier.tokenizer.save_pretrained(workdir)
    facts = {"num_tokens": num_tokens, "keep_share": round(share, 4), "last_loss": round(module.last_loss, 4)}
    log.info("classifier: trained on %d tokens, %.0f %% of them kept by the labels", num_tokens, 100 * share)
    return Summary(num_rows=len(traces), facts=facts)


def freeze_lower_layers(model: "PreTrainedModel", trained_layers: int | None) -> None:
    """Leave only the head and the topmost `trained_layers` encoder layers trainable; None leaves everything so.

    Raises:
        ConfigError: The encoder's layers are not where BERT-like models have them, or are fewer.
    """
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


def _examples(classifier: Classifier, traces: Sequence[ValuableTrace]) -> list[_Window]:
    found = []
    for trace in traces:
        tokens = encode(classifier.tokenizer, trace.thinking)
        keep = spans_to_mask(tokens.offsets, trace.valuable)
        parts = windows(tokens.word_ids, classifier.window_tokens)
        found += [_Window(tokens.token_ids[part], keep[part]) for part in parts]
    return found


def _loader(
    classifier: Classifier, examples: list[_Window], config: TokenskipConfig
) -> "DataLoader[dict[str, torch.Tensor]]":
    def collate(batch: list[_Window]) -> dict[str, torch.Tensor]:
        ids, mask = classifier.batch([w.token_ids for w in batch])
        labels = torch.full_like(ids, IGNORE)
        for row, window in enumerate(batch):
            labels[row, 1 : len(window.keep) + 1] = torch.from_numpy(window.keep.astype(np.int64))
        return {"input_ids": ids, "attention_mask": mask, "labels": labels}

    order = torch.Generator().manual_seed(config.seed)
    dataset: Any = examples
    return DataLoader(dataset, config.batch_size, shuffle=True, generator=order, collate_fn=collate)


class KeepDropModule(pl.LightningModule):
    """Mean cross-entropy of keep/drop over the tokens of a batch; AdamW with linear warmup and decay."""

    def __init__(self, model: "PreTrainedModel", learning_rate: float) -> None:
        super().__init__()
        self.model, self._learning_rate = model, learning_rate
        self.last_loss = math.nan

    def training_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
        """Loss of one batch (scalar).

        Raises:
            TrainingError: It is not finite.
        """
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


class _ShowProgress(pl.Callback):
    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, KeepDropModule)
        self._progress.advance(len(batch["labels"]), note=f"loss {pl_module.last_loss:.3f}")


def _fit(module: KeepDropModule, loader: "DataLoader[Any]", config: TokenskipConfig, device: torch.device) -> None:
    num_windows = len(loader.dataset) * config.epochs  # type: ignore[arg-type]
    with Progress("train classifier", num_windows, "windows") as progress, quiet_lightning():
        # Lightning's advice on data workers, logging and unused GPUs: none applies to a minute of training.
        warnings.simplefilter("ignore")
        trainer = pl.Trainer(
            accelerator="gpu" if device.type == "cuda" else "cpu",
            devices=[device.index or 0] if device.type == "cuda" else 1,
            plugins=[LightningEnvironment()],  # else Lightning looks for SLURM
            max_epochs=config.epochs,
            gradient_clip_val=1.0,
            callbacks=[_ShowProgress(progress)],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        module.model.train()
        with ctrl_c_stops(trainer):
            trainer.fit(module, loader)
    module.model.to(device).eval()
