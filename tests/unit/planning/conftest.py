import pytest

from cotpress.planning.shape import ModelShape

LLAMA = ModelShape(
    num_layers=3,
    hidden_size=128,
    intermediate_size=352,
    num_heads=4,
    num_kv_heads=2,
    head_dim=32,
    vocab_size=600,
)


@pytest.fixture
def llama() -> ModelShape:
    """A Llama small enough to be trained in a test."""
    return LLAMA
