"""Random keep/drop classifiers with the two kinds of tokenizers that LLMLingua-2 is published with.

Their words are those of an invented text, so the vocabularies are small and the same everywhere; sentences are built
from the same words and from signs outside of the vocabulary.
"""

import json
import random
from pathlib import Path
from typing import Any

import torch

GOLDEN = Path(__file__).parents[1] / "unit" / "scoring" / "scorers" / "llmlingua2.json"
"""Outputs of the release, written by `tests/tool/llmlingua2_release.py`."""
FOLDERS = {"xlm-roberta": "tiny-xlm-roberta-large", "bert": "tiny-bert-base-multilingual-cased"}
"""Folder by kind of encoder: the release takes its rules from parts of these names."""
WORDS = [
    "Step", "so", "we", "have", "the", "total", "number", "of", "apples", "and", "then", "wait", "let", "me", "check",
    "again", "first", "add", "both", "sides", "because", "each", "box", "holds", "twice", "as", "many", "which",
    "gives", "result", "therefore", "answer", "is", "not", "negative", "hmm", "frac", "boxed", "sqrt",
]  # fmt: skip
PIECES = [*("ing", "ed", "er", "un", "re", "s"), *"abcdefghijklmnopqrstuvwxyzS0123456789"]
PIECES += [*".,:;!?()=+-*/\\{}$", "()", "12"]
ODD = [
    "48/2=24", r"\frac{48}{2}", "☃", "∮", "…", "naïve", "(3+4)", "Step 2:", "Step:", "::", "x=-7.5", "#", "\n", "\n\n",
    "recheckings", "unsolved", "7", "12", "100", "...", "\t", "$12$",
]  # fmt: skip


def save_classifier(kind: str, folder: Path) -> Path:
    """Save the classifier of a kind with its tokenizer in `folder`, and return its own folder there."""
    from transformers import (
        BertConfig,
        BertForTokenClassification,
        PreTrainedTokenizerFast,
        XLMRobertaConfig,
        XLMRobertaForTokenClassification,
    )

    tokenizer: Any = PreTrainedTokenizerFast(
        model_max_length=512, **(_unigram() if kind == "xlm-roberta" else _pieces())
    )
    sizes = {"vocab_size": len(tokenizer), "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
             "intermediate_size": 32, "pad_token_id": tokenizer.pad_token_id, "initializer_range": 0.7}  # fmt: skip
    torch.manual_seed(3)
    model = (
        XLMRobertaForTokenClassification(XLMRobertaConfig(max_position_embeddings=514, **sizes))
        if kind == "xlm-roberta"
        else BertForTokenClassification(BertConfig(max_position_embeddings=512, **sizes))
    )
    path = folder / FOLDERS[kind]
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def texts() -> list[str]:
    """Odd texts, and random ones of a few to 1,500 words."""
    draw = random.Random(8)
    made = ["so", "☃", "☃ ☃", "\n\n", "Step 1: Step 1: so so", " ".join(["apples"] * 700), "::: Step : : Step:: 7"]
    for length in (5, 12, 30, 60, 120, 400, 700, 1500):
        parts = [
            draw.choice(ODD) if draw.random() < 0.25 else draw.choice(WORDS) + draw.choice(["", "", "", ",", ".", ":"])
            for _ in range(length)
        ]
        made.append(" ".join(parts))
    return made


def golden() -> list[dict[str, Any]]:
    """The outputs of the release: kind, number of the text, arguments of the call, text of the result."""
    rows: list[dict[str, Any]] = json.loads(GOLDEN.read_text(encoding="utf-8"))["outputs"]
    return rows


def _unigram() -> dict[str, Any]:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    specials = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    pieces = ["▁", *(f"▁{word}" for word in WORDS), *WORDS, *PIECES, "▁Step", "▁:", "▁("]
    vocabulary = [(token, 0.0) for token in specials.values()]
    vocabulary += [(piece, -10.0 / len(piece)) for piece in dict.fromkeys(pieces)]
    backend = Tokenizer(models.Unigram([*vocabulary, ("<mask>", 0.0)], unk_id=3))
    backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    backend.decoder = decoders.Metaspace()
    return {"tokenizer_object": backend, **specials, "cls_token": "<s>", "sep_token": "</s>", "mask_token": "<mask>"}


def _pieces() -> dict[str, Any]:
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

    specials = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]",
                "mask_token": "[MASK]"}  # fmt: skip
    tokens = dict.fromkeys(
        [*specials.values(), *WORDS, *PIECES, *(f"##{piece}" for piece in PIECES if piece.isalnum())]
    )
    backend = Tokenizer(models.WordPiece({token: i for i, token in enumerate(tokens)}, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=False)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    return {"tokenizer_object": backend, **specials}
