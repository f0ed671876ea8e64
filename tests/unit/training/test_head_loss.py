import pytest
import torch
from torch.nn.functional import cross_entropy, linear

from cotpress.training.head_loss import ROWS_PER_CHUNK, head_loss


@pytest.mark.parametrize("num_rows", [1, ROWS_PER_CHUNK, 2 * ROWS_PER_CHUNK + 3])
@pytest.mark.parametrize("trained", ["states", "all"])
@pytest.mark.parametrize("with_bias", [True, False])
def test_chunks_give_the_loss_and_gradients_of_plain_cross_entropy(num_rows, trained, with_bias):
    draw = torch.Generator().manual_seed(num_rows)
    shapes = [(num_rows, 8), (30, 8), (30,)][: 2 + with_bias]
    targets = torch.randint(0, 30, (num_rows,), generator=draw)
    values = [torch.randn(shape, generator=draw, dtype=torch.float64) for shape in shapes]
    outcomes = []
    for loss_of in (head_loss, lambda s, w, b, t: cross_entropy(linear(s, w, b), t, reduction="sum")):
        inputs = [v.clone().requires_grad_(trained == "all" or i == 0) for i, v in enumerate(values)]
        loss = loss_of(inputs[0], inputs[1], inputs[2] if with_bias else None, targets) / 7
        loss.backward()
        outcomes.append([loss.detach().double(), *(x.grad for x in inputs)])
    for got, expected in zip(*outcomes, strict=True):
        assert (got is None) == (expected is None)
        if got is not None:
            torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
