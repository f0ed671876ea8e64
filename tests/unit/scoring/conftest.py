from dataclasses import replace

import pytest
import torch

from cotpress.devices.config import TrainerConfig
from cotpress.modeling.config import ModelConfig, ModelSource
from cotpress.modeling.loading import load_model, load_tokenizer
from cotpress.records import Trace, ValuableTrace
from cotpress.scoring.config import Template
from cotpress.scoring.reader import Reader
from cotpress.scoring.scorers.tokenskip import TokenskipConfig
from cotpress.store.artifacts import ArtifactStore, Summary
from cotpress.store.tables import write_records
from support.encoder import save_encoder


def make_trace(number, thinking, response="so the answer is 7", **more):
    question = f"how many apples are in {number} boxes"
    return Trace(id=f"t{number}", question=question, thinking=thinking, response=response, answer="7", **more)


@pytest.fixture(scope="session")
def traces():
    texts = [
        "wait let me check : 3 apples plus 4 apples is 7 apples",
        "7",
        "\\frac{48}{2} = 24 , naïve 😀 hmm\n\nso 24",
        "the total is " + " plus ".join(str(n) for n in range(40)),
        "  spaces \t and\nlines  ",
    ]
    return [make_trace(i, text) for i, text in enumerate(texts)]


@pytest.fixture(scope="session")
def base():
    return ModelConfig(name="tiny", source=ModelSource.tiny, path="tiny", context_tokens=2000)


@pytest.fixture(scope="session")
def store(tmp_path_factory):
    return ArtifactStore(tmp_path_factory.mktemp("outputs"))


@pytest.fixture(scope="session")
def tokenizer(base, store):
    return load_tokenizer(base, store)


@pytest.fixture(scope="session")
def model(base, store):
    return load_model(base, store)


@pytest.fixture(scope="session")
def grouped(tokenizer):
    """Three layers, six heads on two key-value heads."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(5)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=48,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=6,
        num_key_value_heads=2,
        initializer_range=0.3,
        max_position_embeddings=2048,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config).eval()


@pytest.fixture(scope="session")
def reference(base, store):
    """A reference model's artifact: a random adapter that clearly changes the base model."""
    from peft import LoraConfig, get_peft_model

    def produce(workdir):
        torch.manual_seed(0)
        lora = LoraConfig(target_modules="all-linear", init_lora_weights=False)
        get_peft_model(load_model(base, store), lora).save_pretrained(workdir / "adapter")
        return Summary(num_rows=0)

    return store.build("reference", {"test": "random adapter"}, produce)


@pytest.fixture(scope="session")
def sure(base, store):
    """The tiny model with logits 6 times as large: random weights alone find every word about as likely."""
    model = load_model(base, store)
    with torch.no_grad():
        model.model.norm.weight.mul_(6)
    return model


@pytest.fixture(scope="session")
def sure_base(base, sure, tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sure")
    sure.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return replace(base, name="sure", source=ModelSource.hub, path=str(folder))


@pytest.fixture(scope="session")
def tuned(base, store, reference):
    return load_model(base, store, adapter=reference.path / "adapter", merge_adapter=True)


@pytest.fixture(scope="session")
def stepwise(traces):
    """A trace of several steps and words, with pieces of one character and tokens over a step's border."""
    thinking = "first 3 apples. then 4.5 apples!\n\nso 7.5 apples , naïve 😀?  wait\n1. add 3\n2. check ."
    return replace(traces[0], id="steps", thinking=thinking)


@pytest.fixture(scope="session")
def read(tokenizer, base):
    """A reader by template, with batches smaller than the traces together."""
    return lambda template=Template.chat, tokens_per_batch=300: Reader(tokenizer, base, template, tokens_per_batch)


@pytest.fixture(scope="session")
def trainer():
    return TrainerConfig(accelerator="cpu", tokens_per_batch=128)


@pytest.fixture(scope="session")
def encoder_dir(tmp_path_factory, traces):
    """A random BERT of one layer with a WordPiece tokenizer, saved as a bare encoder."""
    return save_encoder(tmp_path_factory.mktemp("encoder"), [t.thinking + " hmm wait apples" for t in traces])


@pytest.fixture(scope="session")
def tokenskip_config(encoder_dir):
    return TokenskipConfig(
        name="tokenskip",
        path=str(encoder_dir),
        train=True,
        seed=1,
        trained_layers=None,
        window_tokens=12,
        epochs=30,
        batch_size=8,
        learning_rate=5e-3,
    )


@pytest.fixture(scope="session")
def distilled(store):
    """Traces in which exactly the numbers and their words are worth keeping."""
    keep, drop = ("3 apples plus 4 is 7", "the total is 24"), ("wait let me check", "hmm")
    records = []
    for i in range(24):
        thinking, valuable = "", []
        for part in (keep[i % 2], drop[i % 2], keep[i // 2 % 2], drop[i // 4 % 2]):
            if part in keep:
                valuable.append((len(thinking), len(thinking) + len(part)))
            thinking += part + " "
        trace = make_trace(i, thinking)
        fields = {f: getattr(trace, f) for f in ("id", "question", "thinking", "response", "answer")}
        records.append(ValuableTrace(**fields, valuable=tuple(valuable)))

    def produce(workdir):
        write_records(workdir / "valuable.parquet", records, ValuableTrace)
        return Summary(num_rows=len(records))

    return store.build("distill", {"test": "numbers"}, produce)


@pytest.fixture(scope="session")
def as_artifact():
    def build(store, rows):
        def produce(workdir):
            write_records(workdir / "traces.parquet", rows, Trace)
            return Summary(num_rows=len(rows))

        return store.build("data", {"rows": [[t.id, t.thinking, t.split] for t in rows]}, produce)

    return build


@pytest.fixture
def with_split():
    return lambda trace, split: replace(trace, split=split)
