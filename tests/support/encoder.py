"""A bare encoder at test speed: a random BERT of one layer with a WordPiece tokenizer."""

from collections.abc import Iterable
from pathlib import Path

import torch


def save_encoder(folder: Path, texts: Iterable[str]) -> Path:
    """Save the encoder below `folder` with a vocabulary of `texts`; deterministic."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    backend = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    specials = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    trainer = trainers.WordPieceTrainer(vocab_size=120, special_tokens=list(specials.values()), show_progress=False)
    backend.train_from_iterator(texts, trainer)
    wrapped = PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=32, **specials)
    torch.manual_seed(0)
    encoder = BertModel(
        BertConfig(
            vocab_size=len(wrapped),
            hidden_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=64,
            max_position_embeddings=32,
        )
    )
    encoder.save_pretrained(folder)
    wrapped.save_pretrained(folder)
    return folder
