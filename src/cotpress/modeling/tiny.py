"""A random two-layer Llama with a byte-level BPE tokenizer, for fast tests of the real code.

Nothing is downloaded: the weights follow from a fixed seed, the tokenizer from the word list below.
"""

from pathlib import Path
from typing import Any

from cotpress.store.artifacts import Artifact, ArtifactStore, Summary
from cotpress.store.source import Identity, identified

SEED = 1234
BOS, EOS = "<|im_start|>", "<|im_end|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] "
    "+ '<|im_end|>' + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
WORDS = """
the a an of to in is are was and or but so for with from that this it he she they we you has have had there
how many much what total left each every more less than first then next now wait again let me check okay hmm
number numbers apple apples box boxes book books bag bags coin coins pencil marble marbles day days hour hours
minute minutes week weeks price cost costs dollar dollars buys buy sells sell gives give takes take eats adds add
subtract multiply divide times plus minus equals equal sum product difference half twice double third answer final
result therefore because means need needs find know start starts end ends shop train car bus road mile miles
think thinking assistant user system question step steps so the answer is we get that gives let me see
"""

SHAPE: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": True,
}
VOCAB_SIZE = 640


def tiny_identity() -> Identity:
    """Everything that determines the weights and the tokenizer."""
    return identified({"model": "tiny"}, _produce)


def tiny_model(store: ArtifactStore) -> Artifact:
    """Return the tiny model as an artifact: safetensors, config and tokenizer."""
    return store.build("model", tiny_identity(), _produce)


def _produce(workdir: Path) -> Summary:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=_train_tokenizer(),
        bos_token=BOS,
        eos_token=EOS,
        pad_token=EOS,
        chat_template=CHAT_TEMPLATE,
        model_max_length=SHAPE["max_position_embeddings"],
        clean_up_tokenization_spaces=False,
    )
    config = LlamaConfig(
        vocab_size=len(wrapped),
        bos_token_id=wrapped.bos_token_id,
        eos_token_id=wrapped.eos_token_id,
        pad_token_id=wrapped.pad_token_id,
        **SHAPE,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        model = LlamaForCausalLM(config)
    model.save_pretrained(workdir)
    wrapped.save_pretrained(workdir)
    return Summary(num_rows=0, facts={"source": "tiny", "parameters": model.num_parameters()})


def _train_tokenizer() -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    # Single digits stay single tokens, as in SmolLM2, Qwen2.5 and Llama: numbers are compressed digit by digit.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=["<|endoftext|>", BOS, EOS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    text = " ".join(WORDS.split())
    tokenizer.train_from_iterator([text, text.title()], trainer)
    return tokenizer
