import copy
import time
import weakref

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from transformers import GenerationConfig

from cotpress.devices import memory
from cotpress.errors import MemoryLimitError, ModelError
from cotpress.generation.backends import Sampling
from cotpress.generation.hf import random_stream, sampled_tokens
from cotpress.modeling.config import ModelConfig, ModelSource
from cotpress.modeling.loading import load_model, load_tokenizer
from cotpress.store.artifacts import ArtifactStore
from support.generation import generate
from support.hybrid import STATEFUL, build, plain_logits

PROMPTS = [list(range(20 + i, 24 + 3 * i + i)) for i in range(7)]


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    torch.set_num_threads(1)
    store = ArtifactStore(tmp_path_factory.mktemp("outputs"))
    config = ModelConfig(name="tiny", source=ModelSource.tiny, path="tiny")
    model = load_model(config, store)
    with torch.no_grad():  # as initialised, attention hardly matters, and a wrong mask or position would go unseen
        for weight in model.model.layers.parameters():
            weight.mul_(12 if weight.dim() == 2 else 1)
    return model, load_tokenizer(config, store)


@pytest.fixture
def ending(parts, monkeypatch):
    """The tiny model with an end token that its greedy texts reach at different lengths."""
    model, tokenizer = parts
    texts = [g.token_ids for g in generate(model, tokenizer, PROMPTS, max_new_tokens=24, batch_size=1)]
    common = {t for text in texts for t in text[1:]}
    first = {t: {text.index(t) for text in texts if t in text} for t in common}
    end = max(sorted(common), key=lambda t: len(first[t]))
    monkeypatch.setattr(model, "generation_config", GenerationConfig(eos_token_id=[end, tokenizer.eos_token_id]))
    return model, tokenizer


def _reference(model, tokenizer, prompt, budget):
    ids = model.generate(
        torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.long), do_sample=False,
        max_new_tokens=budget, pad_token_id=tokenizer.pad_token_id,
    )[0, len(prompt) :].tolist()  # fmt: skip
    return ids[:-1] if ids[-1] in model.generation_config.eos_token_id else ids


@pytest.mark.parametrize("batch_size", [1, 3, 7])
def test_greedy_equals_transformers_row_by_row(ending, batch_size):
    model, tokenizer = ending
    made = generate(model, tokenizer, PROMPTS, max_new_tokens=24, batch_size=batch_size)
    assert [list(g.token_ids) for g in made] == [_reference(model, tokenizer, p, 24) for p in PROMPTS]
    assert len({g.num_tokens for g in made}) > 1, "rows must leave at different times for this test to mean anything"
    assert all((g.finish_reason == "length") == (g.num_tokens == 24) for g in made)


def test_budget_includes_the_end_token(ending):
    whole = generate(*ending, PROMPTS, max_new_tokens=24, batch_size=7)
    for budget in sorted({g.num_tokens + more for g in whole for more in (0, 1)} - {0, 25}):
        cut = generate(*ending, PROMPTS, max_new_tokens=budget, batch_size=7)
        ended = [g.finish_reason == "stop" and g.num_tokens < budget for g in whole]
        assert [g.finish_reason == "stop" for g in cut] == ended


def test_text_that_reaches_the_budget_has_reason_length(parts):
    model, tokenizer = parts
    (made,) = generate(model, tokenizer, PROMPTS[:1], max_new_tokens=3, batch_size=4)
    assert (made.num_tokens, made.finish_reason) == (3, "length")


def test_sampling_follows_its_seed(parts):
    model, tokenizer = parts

    def texts(seed):
        sampling = Sampling(temperature=1.0, top_p=0.95, seed=seed)
        return [
            g.token_ids for g in generate(model, tokenizer, PROMPTS, max_new_tokens=12, batch_size=4, sampling=sampling)
        ]

    assert texts(1) == texts(1)
    assert texts(1) != texts(2)


@pytest.mark.parametrize("batch_size", [2, 5, 7])
def test_sampled_text_does_not_depend_on_its_batch(ending, batch_size):
    model, tokenizer = ending
    sampling, names = Sampling(temperature=0.8, top_p=0.95, seed=3), [f"p{i}/0" for i in range(7)]
    order = [4, 0, 6, 2, 1, 5, 3]

    def texts(indices, size):
        made = generate(
            model, tokenizer, [PROMPTS[i] for i in indices], max_new_tokens=20, batch_size=size, sampling=sampling,
            streams=[names[i] for i in indices],
        )  # fmt: skip
        return {i: g.token_ids for i, g in zip(indices, made, strict=True)}

    alone = texts(range(7), 1)
    assert texts(order, batch_size) == alone
    assert texts([5, 2], 2) == {i: alone[i] for i in (5, 2)}


def test_samples_of_one_prompt_differ(parts):
    model, tokenizer = parts
    made = generate(
        model, tokenizer, [PROMPTS[0]] * 4, max_new_tokens=12, batch_size=4, sampling=Sampling(temperature=1.0),
        streams=[f"p/{i}" for i in range(4)],
    )  # fmt: skip
    assert len({g.token_ids for g in made}) == 4


def test_tiny_top_p_is_greedy(parts):
    model, tokenizer = parts
    narrow = Sampling(temperature=1.0, top_p=1e-6)
    sampled = generate(model, tokenizer, PROMPTS, max_new_tokens=8, batch_size=4, sampling=narrow)
    greedy = generate(model, tokenizer, PROMPTS, max_new_tokens=8, batch_size=4)
    assert [g.token_ids for g in sampled] == [g.token_ids for g in greedy]


def test_every_prompt_is_reported_once_with_its_own_index(parts):
    model, tokenizer = parts
    seen = {}
    made = generate(
        model, tokenizer, PROMPTS[::-1], max_new_tokens=4, batch_size=2, on_done=lambda i, g: seen.setdefault(i, g)
    )
    assert [seen[i] for i in range(len(PROMPTS))] == made


def test_no_prompt_gives_no_text(parts):
    assert generate(*parts, [], max_new_tokens=4, batch_size=2) == []


def test_rows_that_join_and_leave_equal_rows_generated_alone(ending):
    model, tokenizer = ending
    prompts, limits = PROMPTS * 3, [5, 24, 150, 9, 24, 3, 160] * 3
    made = generate(model, tokenizer, prompts, max_new_tokens=limits, batch_size=4)
    alone = [_reference(model, tokenizer, p, 160) for p in PROMPTS] * 3
    assert [list(g.token_ids) for g in made] == [text[:limit] for text, limit in zip(alone, limits, strict=True)]


def test_next_prompt_joins_an_active_batch(parts):
    model, tokenizer = parts
    ended = []
    generate(
        model, tokenizer, [[20, 21], [30, 31], [40, 41]], max_new_tokens=[2, 40, 2], batch_size=2,
        on_done=lambda index, _: ended.append(index),
    )  # fmt: skip
    assert ended.index(1) == 2, "the long row ends last although it began in the first batch"


def _counting(forward, read):
    def counted(*, input_ids, **more):
        read.append(tuple(input_ids.shape))
        return forward(input_ids=input_ids, **more)

    return counted


def test_samples_of_one_prompt_share_its_prefill(parts, monkeypatch):
    model, tokenizer = parts
    read = []
    monkeypatch.setattr(model, "forward", _counting(model.forward, read))
    generate(
        model, tokenizer, [PROMPTS[3]] * 6, max_new_tokens=5, batch_size=2, sampling=Sampling(temperature=1.0),
        streams=[f"p/{i}" for i in range(6)],
    )  # fmt: skip
    assert [shape for shape in read if shape[1] > 1] == [(1, len(PROMPTS[3]))]


def test_seconds_of_the_texts_add_up_to_the_time_of_the_call(parts):
    model, tokenizer = parts
    began = time.monotonic()
    made = generate(model, tokenizer, PROMPTS, max_new_tokens=24, batch_size=3)
    elapsed = time.monotonic() - began
    assert 0.5 * elapsed < sum(g.latency_s for g in made) <= elapsed


@pytest.mark.parametrize(
    "sampling", [Sampling(), Sampling(temperature=0.8, top_p=0.95, seed=3)], ids=["greedy", "sampled"]
)
def test_batch_that_does_not_fit_the_memory_is_halved_with_the_same_texts(ending, monkeypatch, caplog, sampling):
    model, tokenizer = ending

    def texts(batch_size):
        made = generate(model, tokenizer, PROMPTS, max_new_tokens=24, batch_size=batch_size, sampling=sampling)
        return [g.token_ids for g in made]

    alone, forward, steps = texts(1), model.forward, []

    def limited(*, input_ids, **more):
        steps.append(len(input_ids))
        if len(input_ids) > 2 and len(steps) > 4:  # not at the first step, so that some rows are partly generated
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(input_ids=input_ids, **more)

    monkeypatch.setattr(model, "forward", limited)
    monkeypatch.setattr(memory, "_of_owners", weakref.WeakKeyDictionary())  # other tests have the same model
    with caplog.at_level("WARNING"):
        assert texts(7) == alone
        num_before = len(steps)
        assert texts(7) == alone
    assert max(steps[:num_before]) == 7
    assert max(steps[num_before:]) <= 2, "a size that did not fit is not tried again"
    (message,) = [r.getMessage() for r in caplog.records]
    assert "generation: out of memory with" in message
    assert "trainer.generation_tokens=" in message


def test_single_row_that_does_not_fit_the_memory_is_an_error(parts, monkeypatch):
    model, tokenizer = parts
    monkeypatch.setattr(memory, "_of_owners", weakref.WeakKeyDictionary())

    def full(**_):
        raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(model, "forward", full)
    with pytest.raises(MemoryLimitError, match=r"generation: .*single text of \d+ tokens.*trainer\.generation_tokens"):
        generate(model, tokenizer, PROMPTS, max_new_tokens=24, batch_size=4)


def _nucleus(probabilities: list[float], top_p: float) -> list[int]:
    mass, least = 0.0, 1.0
    for probability in sorted(probabilities, reverse=True):
        if mass >= top_p:
            break
        least = probability
        mass += probability
    return [t for t, p in enumerate(probabilities) if p >= least]


@given(
    st.lists(st.integers(-16, 16).map(lambda x: x / 4), min_size=2, max_size=8),
    st.floats(0, 1, exclude_max=True),
    st.sampled_from([0.3, 1.0, 2.0]),
    st.sampled_from([0.2, 0.9, 1.0]),
)
@settings(max_examples=60, deadline=None)
def test_token_is_the_naive_inverse_of_the_cumulative_distribution(logits, uniform, temperature, top_p):
    weights = np.exp(np.array(logits) / temperature)
    probabilities = (weights / weights.sum()).tolist()
    kept = _nucleus(probabilities, top_p)
    total = sum(probabilities[t] for t in kept)
    running, expected = 0.0, kept[-1]
    for token in kept:
        running += probabilities[token] / total
        if uniform < running:
            expected = token
            break
    got = sampled_tokens(
        torch.tensor([logits], dtype=torch.float64), torch.tensor([uniform], dtype=torch.float64), temperature, top_p
    )
    near_a_border = any(abs(uniform - sum(probabilities[t] for t in kept[: i + 1]) / total) < 1e-9 for i in range(8))
    assert int(got) == expected or near_a_border


def test_draws_follow_the_distribution():
    logits = torch.log(torch.tensor([0.5, 0.3, 0.15, 0.05]))
    uniforms = torch.tensor([random_stream(0, str(i)).random() for i in range(4000)], dtype=torch.float64)
    tokens = sampled_tokens(logits.expand(4000, 4), uniforms, 1.0, 1.0)
    counts = np.bincount(tokens.numpy(), minlength=4)
    assert chisquare(counts, [2000, 1200, 600, 200]).pvalue > 0.001


def test_token_of_no_probability_is_never_drawn():
    logits = torch.tensor([[-torch.inf, 0.0, -torch.inf, 0.0, -torch.inf]])
    for uniform in (0.0, 0.5, 1 - 2**-53, 1.0):
        assert int(sampled_tokens(logits, torch.tensor([uniform], dtype=torch.float64), 1.0, 1.0)) in (1, 3)


def test_stream_depends_on_seed_and_name_only():
    first, again = random_stream(1, "b/0"), random_stream(1, "b/0")
    assert [first.random() for _ in range(3)] == [again.random() for _ in range(3)]
    assert random_stream(2, "b/0").random() != random_stream(1, "b/0").random()
    assert len({random_stream(1, name).random() for name in ("a/0", "a/1", "b/0")}) == 3


def test_streams_of_samples_are_not_correlated():
    streams = [random_stream(0, name) for name in ("q/0", "q/1")]
    drawn = np.array([[stream.random() for stream in streams] for _ in range(2000)])
    assert abs(np.corrcoef(drawn.T)[0, 1]) < 0.08
    assert drawn.mean() == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize(
    "sampling", [Sampling(), Sampling(temperature=0.8, top_p=0.95, seed=4)], ids=["greedy", "drawn"]
)
@pytest.mark.parametrize("name", [*STATEFUL, "Gemma3Text", "GptOss", "Mistral"])
def test_model_with_states_or_windows_writes_what_plain_forward_passes_say(name, sampling, parts):
    model, (_, tokenizer) = build(name), parts
    prompts = [list(range(20 + i, 40 + 7 * i)) for i in range(3)]
    made = generate(model, tokenizer, prompts, max_new_tokens=12, batch_size=3, sampling=sampling)
    for row, (prompt, got) in enumerate(zip(prompts, made, strict=True)):
        draws, ids = random_stream(sampling.seed, str(row)), list(prompt)
        while len(ids) < len(prompt) + 12:
            logits = plain_logits(model, ids)[-1:]
            uniform = torch.tensor([draws.random()], dtype=torch.float64)
            drawn = sampling.temperature > 0
            token = (
                sampled_tokens(logits, uniform, sampling.temperature, sampling.top_p) if drawn else logits.argmax(-1)
            )
            ids.append(int(token))
            if ids[-1] == 2:
                break
        written = ids[len(prompt) :]
        assert list(got.token_ids) == (written[:-1] if written[-1] == 2 else written)
        assert got.finish_reason == ("stop" if written[-1] == 2 else "length")
        assert got.latency_s > 0


@pytest.mark.parametrize("name", ["Lfm2", "Mamba2", "Qwen3Next"])
def test_text_of_a_model_with_states_depends_on_neither_its_batch_nor_the_models_own_settings(name, parts, caplog):
    model, (_, tokenizer) = build(name), parts
    prompts, sampling = PROMPTS[:4], Sampling(temperature=1.0, seed=2)
    settings = {"max_new_tokens": 10, "sampling": sampling}
    together = generate(model, tokenizer, prompts, batch_size=4, streams=["a", "b", "c", "d"], **settings)
    assert "one after the other" in caplog.text
    model.generation_config = GenerationConfig(
        eos_token_id=2, repetition_penalty=3.0, do_sample=True, temperature=9.0, max_length=4, no_repeat_ngram_size=1
    )
    own = model.generation_config
    for prompt, stream, expected in zip(prompts, "abcd", together, strict=True):
        [alone] = generate(model, tokenizer, [prompt], batch_size=1, streams=[stream], **settings)
        assert alone.token_ids == expected.token_ids
    assert model.generation_config is own


def test_model_without_an_end_token_is_an_error_before_anything_is_written(parts, monkeypatch):
    model, tokenizer = parts
    monkeypatch.setattr(model, "generation_config", GenerationConfig())
    without = copy.deepcopy(tokenizer)
    without.eos_token = None
    with pytest.raises(
        ModelError, match=r"LlamaForCausalLM has no token that ends an answer: .*Fix: name it as eos_tok"
    ):
        generate(model, without, [[5, 6]], max_new_tokens=4, batch_size=1)


def test_prompt_with_a_token_beyond_the_embedding_is_an_error(parts):
    with pytest.raises(ModelError, match=r"generation: a prompt: the token id 9999 has no embedding; .*Fix"):
        generate(*parts, [[5, 9999]], max_new_tokens=4, batch_size=1)
