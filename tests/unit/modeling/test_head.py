import pytest
import torch
from peft import LoraConfig, get_peft_model

from cotpress.modeling import head as modeling_head
from cotpress.modeling.head import target_logprobs, target_readings

N, D, V = 23, 8, 50


class Quantised(torch.nn.Linear):
    """A head whose forward pass is more than a product with `weight`, as in quantised layers."""

    def forward(self, hidden):
        return 2 * super().forward(hidden)


def heads():
    torch.manual_seed(0)
    wrapped = torch.nn.ModuleDict({"lm_head": torch.nn.Linear(D, V, bias=False)})
    adapted = get_peft_model(wrapped, LoraConfig(target_modules=["lm_head"], init_lora_weights=False))
    return {
        "plain": torch.nn.Linear(D, V, bias=False),
        "bias": torch.nn.Linear(D, V),
        "quantised": Quantised(D, V),
        "adapted": adapted.base_model.model["lm_head"],
    }


@pytest.fixture
def small_parts(monkeypatch):
    """Several blocks and chunks whose sizes do not divide the whole."""
    monkeypatch.setattr(modeling_head, "_CPU_BLOCK", (5, 7))
    monkeypatch.setattr(modeling_head, "_LOGITS_AT_ONCE", {"cpu": 4 * V})


@pytest.mark.parametrize("name", heads())
@torch.inference_mode()
def test_parts_equal_log_softmax_of_all_logits(name, small_parts):
    head = heads()[name]
    hidden, targets = 20 * torch.randn(N, D), torch.randint(0, V, (N,))
    logps = head(hidden).double().log_softmax(dim=1)
    torch.testing.assert_close(
        target_logprobs(head, hidden, targets).double(), logps[torch.arange(N), targets], atol=2e-5, rtol=1e-5
    )
    readings = target_readings(head, hidden, targets)
    torch.testing.assert_close(readings[:, 0], target_logprobs(head, hidden, targets), atol=1e-5, rtol=1e-6)
    torch.testing.assert_close(readings[:, 1].double(), -(logps.exp() * logps).sum(1), atol=2e-5, rtol=1e-5)
    assert readings[:, 2].tolist() == (logps > logps.gather(1, targets[:, None])).sum(1).tolist()


@torch.inference_mode()
def test_every_token_can_be_the_target(small_parts):
    head, targets = heads()["bias"], torch.arange(V)
    hidden = torch.randn(1, D).expand(V, D)
    expected = head(hidden[:1])[0].log_softmax(0)
    torch.testing.assert_close(target_logprobs(head, hidden, targets), expected)


@torch.inference_mode()
def test_half_precision_is_summed_in_float32(small_parts):
    head = heads()["plain"].bfloat16()
    hidden, targets = torch.randn(N, D).bfloat16(), torch.randint(0, V, (N,))
    actual = target_logprobs(head, hidden, targets)
    assert actual.dtype == torch.float32
    torch.testing.assert_close(actual, head(hidden).float().log_softmax(1)[torch.arange(N), targets])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA, which alone multiplies half precision into float32")
@pytest.mark.parametrize("name", ["plain", "bias"])
@torch.inference_mode()
def test_gpu_logits_are_not_rounded_to_half_precision(name):
    head = heads()[name].bfloat16().cuda()
    hidden, targets = 20 * torch.randn(N, D).bfloat16().cuda(), torch.randint(0, V, (N,)).cuda()
    bias = None if head.bias is None else head.bias.double()
    logps = torch.nn.functional.linear(hidden.double(), head.weight.double(), bias).log_softmax(1)
    actual = target_logprobs(head, hidden, targets).double()
    torch.testing.assert_close(actual, logps[torch.arange(N), targets], atol=1e-4, rtol=1e-4)


@torch.inference_mode()
def test_nothing_to_measure_and_not_a_number(small_parts):
    head = heads()["plain"]
    assert target_logprobs(head, torch.zeros(0, D), torch.zeros(0, dtype=torch.int64)).shape == (0,)
    assert target_readings(head, torch.zeros(0, D), torch.zeros(0, dtype=torch.int64)).shape == (0, 3)
    hidden = torch.randn(3, D)
    hidden[1, 2] = torch.nan
    assert target_logprobs(head, hidden, torch.tensor([1, 2, 3])).isnan().tolist() == [False, True, False]
    readings = target_readings(head, hidden, torch.tensor([1, 2, 3]))
    assert readings[:, :2].isnan().tolist() == [[False] * 2, [True] * 2, [False] * 2]
