import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cotpress.modeling import head, logprobs
from cotpress.modeling.logprobs import ScoreInput, token_readings
from cotpress.records import Trace
from cotpress.scoring.config import Condition, Template
from support import naive as oracle


def naive(model, item):
    """Log-probability, entropy and rank from one sequence, full logits and plain softmax."""
    ids = torch.tensor([[*item.context_ids, *item.target_ids]])
    with torch.no_grad():
        logits = model(input_ids=ids).logits[0].double()
    logps = logits.log_softmax(-1)[:-1]
    chosen = logps.gather(1, ids[0, 1:, None])
    by_token = torch.cat([chosen, -(logps.exp() * logps).sum(-1, keepdim=True), (logps > chosen).sum(1, True)], dim=1)
    return by_token[len(item.context_ids) - 1 :].numpy()


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    sizes=st.lists(st.tuples(st.integers(1, 12), st.integers(0, 20)), max_size=9),
    tokens_per_batch=st.sampled_from([1, 40, 500]),
    seed=st.integers(0, 9),
)
def test_batched_equals_one_plain_forward_per_sequence(model, sizes, tokens_per_batch, seed):
    rng = np.random.default_rng(seed)
    inputs = [
        ScoreInput(context_ids=rng.integers(0, 640, c).tolist(), target_ids=rng.integers(0, 640, t)) for c, t in sizes
    ]
    got = list(token_readings(model, inputs, tokens_per_batch))
    assert len(got) == len(inputs)
    for values, item in zip(got, inputs, strict=True):
        assert values.dtype == np.float32
        assert values.shape == (len(item.target_ids), 3)
        if len(values):
            np.testing.assert_allclose(values, naive(model, item), atol=1e-5)


def test_entropy_is_log_v_for_uniform_and_0_for_certain_predictions(tiny_config, store):
    from cotpress.modeling.loading import load_model

    model = load_model(tiny_config, store)
    item = ScoreInput(context_ids=[1], target_ids=[30, 31, 32])
    for scale, expected in ((0.0, np.log(640)), (1e4, 0.0)):
        with torch.no_grad():
            model.model.norm.weight.fill_(scale)
        [values] = token_readings(model, [item], 10)
        np.testing.assert_allclose(values[:, 1], expected, rtol=1e-6)
        assert (values[:, 1] >= 0).all()


def test_logits_are_made_for_scored_positions_only(model, monkeypatch):
    seen = []
    logits = head._logits
    monkeypatch.setattr(head, "_logits", lambda layer, hidden: seen.append(len(hidden)) or logits(layer, hidden))
    inputs = [ScoreInput(context_ids=[1] * 50, target_ids=[4, 5, 6]), ScoreInput(context_ids=[2], target_ids=[])]
    list(token_readings(model, inputs, 500))
    assert sum(seen) == 3


def test_packs_respect_the_token_budget_and_have_no_padding(model):
    seen = []
    hook = model.model.embed_tokens.register_forward_hook(lambda module, args, out: seen.append(tuple(args[0].shape)))
    inputs = [ScoreInput(context_ids=[1], target_ids=[3] * n) for n in (1, 30, 2, 50, 7, 9, 120)]
    list(token_readings(model, inputs, 64))
    hook.remove()
    assert sorted(seen, reverse=True) == [(1, 121), (1, 31 + 10 + 8 + 3 + 2), (1, 51)]


def test_texts_are_read_alone_with_eager_attention(model, tiny_config, store):
    from dataclasses import replace

    from cotpress.modeling.config import Attention
    from cotpress.modeling.loading import load_model

    eager = load_model(replace(tiny_config, attention=Attention.eager), store)
    assert logprobs._pack_tokens(eager.model, 500) == 1
    assert logprobs._pack_tokens(model.model, 500) == 500


def naive_windows(model, item, overlap=logprobs.WINDOW_OVERLAP):
    """Token by token: the window that reaches it first, read by itself."""
    width, values = item.window_tokens, []
    for i in range(len(item.target_ids)):
        start, end = 0, width
        while i >= end:
            start, end = end - int(width * overlap), end - int(width * overlap) + width
        read = ScoreInput(context_ids=item.context_ids, target_ids=item.target_ids[start : i + 1])
        values.append(naive(model, read)[-1])
    return np.array(values).reshape(-1, 3)


@pytest.mark.parametrize("width", [1, 2, 7, 10, 29, 30])
def test_windows_score_each_token_once_after_the_text_of_its_window(width, model):
    rng = np.random.default_rng(width)
    sizes = [(3, 30), (5, 4), (1, 31), (2, 0)]
    inputs = [
        ScoreInput(
            context_ids=rng.integers(0, 640, c).tolist(), target_ids=rng.integers(0, 640, n), window_tokens=width
        )
        for c, n in sizes
    ]
    for values, item in zip(token_readings(model, inputs, 50), inputs, strict=True):
        np.testing.assert_allclose(values, naive_windows(model, item), atol=1e-5)


@given(num_targets=st.integers(1, 200), width=st.one_of(st.none(), st.integers(1, 60)))
def test_windows_cover_every_target_once_and_overlap_by_half(num_targets, width):
    ranges = logprobs.windows(num_targets, width)
    assert [i for _, first, end in ranges for i in range(first, end)] == list(range(num_targets))
    assert all(end - start <= (width or num_targets) for start, _, end in ranges)
    assert all(first - start == int((width or num_targets) * 0.5) for start, first, _ in ranges[1:])


# torch.jit, seen when inductor is imported
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.slow
def test_compiled_model_gives_the_same(model):
    from cotpress.modeling.loading import compiled

    rng = np.random.default_rng(1)
    inputs = [ScoreInput(context_ids=[1, 2], target_ids=rng.integers(0, 640, n)) for n in (40, 7, 55, 23)]
    twin = compiled(model)
    assert (logprobs._pack_tokens(twin.model, 500), logprobs._pack_tokens(model.model, 500)) == (1, 500)
    assert twin.model.layers is model.model.layers
    for got, expected in zip(token_readings(twin, inputs, 100), token_readings(model, inputs, 100), strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-5)


def test_input_is_read_ahead_by_a_fixed_number_of_batches(model):
    read = []

    def inputs():
        for i in range(1000):
            read.append(i)
            yield ScoreInput(context_ids=[1], target_ids=[2] * 9)

    next(token_readings(model, inputs(), 20))
    assert len(read) == logprobs.BATCHES_AHEAD * 2


def test_text_without_context_is_refused(model):
    with pytest.raises(ValueError, match="context token"):
        list(token_readings(model, [ScoreInput(context_ids=[], target_ids=[1])], 10))


def test_bfloat16_log_softmax_is_in_float32(tiny_config, store):
    from dataclasses import replace

    from cotpress.modeling.config import Dtype
    from cotpress.modeling.loading import load_model

    low = load_model(replace(tiny_config, dtype=Dtype.bfloat16), store)
    ids = torch.randint(0, 640, (1, 40), generator=torch.Generator().manual_seed(0))
    [got] = token_readings(low, [ScoreInput(context_ids=ids[0, :1].tolist(), target_ids=ids[0, 1:].tolist())], 100)
    with torch.no_grad():
        logits = low(input_ids=ids).logits[0]
    assert logits.dtype == torch.bfloat16
    expected = logits.double().log_softmax(-1)[:-1].gather(1, ids[0, 1:, None]).squeeze(1)
    np.testing.assert_allclose(got[:, 0], expected.numpy(), atol=2e-3)
    assert len(np.unique(got[:, 0])) > 30


TRACES = [
    Trace(
        id="seats",
        question="A hall has 5 rows of 14 seats, and 3 seats are broken. How many seats can be sold?",
        thinking="Okay, 5 rows with 14 seats each, that is 70. Hmm, 3 are broken. Wait, 3 per row? No.\n\n70 - 3 = 67",
        response="67 seats can be sold.",
        answer="67",
    ),
    Trace(
        id="root",
        question="Find the larger root of $x^2 - 3x + 1 = 0$.",
        thinking="By the formula $x = \\frac{3 \\pm \\sqrt{5}}{2}$, so the larger one has a plus: naïve, but fine. 😀",
        response="The answer is \\boxed{\\frac{3+\\sqrt{5}}{2}}.",
        answer="\\frac{3+\\sqrt{5}}{2}",
    ),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("condition", Condition)
def test_logprobs_of_a_real_model_equal_plain_forward_passes(condition, smollm2):
    """The golden files hold numbers of independent code for longer texts, for which they need the data folder."""
    tokenizer, model = smollm2.tokenizer, smollm2.model
    inputs = [
        ScoreInput(
            context_ids=oracle.context_ids(tokenizer, Template.plain, condition, trace),
            target_ids=oracle.token_ids(tokenizer, trace.thinking),
        )
        for trace in TRACES
    ]
    for values, trace in zip(token_readings(model, inputs, 2000), TRACES, strict=True):
        np.testing.assert_allclose(
            values[:, 0], oracle.logprobs(model, tokenizer, Template.plain, condition, trace), atol=1e-3
        )
