"""What a score artifact is found by: everything that changes its scores, and nothing else."""

from collections.abc import Callable, Iterator
from copy import copy
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir

from cotpress.config import TrainConfig, register_schemas, to_objects
from cotpress.modeling.config import ModelConfig
from cotpress.scoring import job as stage
from cotpress.scoring import plan
from cotpress.scoring.scorers import classifier_training, llmlingua_compat
from cotpress.store.artifacts import Artifact, fingerprint
from cotpress.tasks.flow import Flow
from cotpress.tracking import Tracker
from support.commands import ROOT

KEYS = {
    "cts, reference=lora": "b8768ff0fa571d56",
    "cts, reference=none": "3d89030b50e374fd",
    "tokenskip, reference=lora": "f733f2b1a9b31163",
    "llmlingua, reference=lora": "7dc5d05182a488ea",
    "llmlingua, reference=none": "9c674fa3c97c9a78",
    "self_information, reference=lora": "c57329268953de59",
    "entropy, reference=lora": "b507f61cd6920ab9",
    "step_entropy, reference=none": "9962122e7650c820",
    "first_token_surprisal, reference=none": "41a47a79b2424014",
    "rho1_excess, reference=lora": "e56f655274290a86",
    "reference_likelihood, reference=lora": "00107036f8d6db65",
    "reference_likelihood, reference=none": "573d23b94254b3b4",
    "reference_walk, reference=lora": "2391206b2e58d8fa",
    "reference_walk, reference=none": "8425c9bfa7622187",
    "gogi, reference=none": "3dff934f4081b9b1",
    "answer_attention, reference=none": "471c72d08ef3a2c8",
    "greedy_nll, reference=none": "b29279ed44b9a692",
    "mix, reference=lora": "5bcc1dcbb2b3ebc3",
}
"""Keys of what was scored before: whoever changes one has every user score, and train every student, again."""

Identity = Callable[..., dict[str, Any]]


def made_before(name: str) -> Artifact:
    return Artifact(stage=name, fingerprint=16 * "0", path=Path("nowhere"), manifest={}, seconds=0.0)


@pytest.fixture
def flow_of(tmp_path: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Flow]]:
    """The wiring of a command, its data, labels and reference model made before, its models known by their names."""

    def named(config: ModelConfig, *_: object) -> dict[str, str]:
        return {"model": config.name, "dtype": config.dtype.value}

    for module in (plan, llmlingua_compat):
        monkeypatch.setattr(module, "model_identity", named)

    def tokens_of(config: ModelConfig, _: object) -> Any:
        found = copy(tokenizer)
        found.name_or_path = config.name
        return found

    monkeypatch.setattr(plan, "load_tokenizer", tokens_of)
    monkeypatch.setattr(plan, "tokenizer_fingerprint", lambda found: found.name_or_path, raising=False)
    monkeypatch.setattr(classifier_training, "encoder_identity", lambda path: {"hub": path, "commit": "abc"})
    monkeypatch.setattr(stage, "_may_be_longer", lambda *_: False)
    tracker = Tracker(tmp_path)

    def make(*overrides: str) -> Flow:
        register_schemas()
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            config = to_objects(compose("train", overrides=[f"output_root={tmp_path}", *overrides]))
        assert isinstance(config, TrainConfig)
        flow = Flow(config, tracker)
        reference = made_before("reference") if config.reference.exists else None
        vars(flow).update(data=made_before("data"), distilled=made_before("distill"), reference=reference)
        return flow

    yield make
    tracker.close()


@pytest.fixture
def identity(flow_of: Callable[..., Flow]) -> Identity:
    return lambda *overrides: flow_of(*overrides)._scoring.identity


def test_what_was_scored_before_is_found_again(identity: Identity) -> None:
    found = {}
    for name in KEYS:
        scorer, reference = name.split(", ")
        found[name] = fingerprint(identity(f"scorer={scorer}", reference))
    assert found == KEYS


def test_read_by_base_reads_with_what_the_reference_model_is_made_from(flow_of: Callable[..., Flow]) -> None:
    scorers = ["gogi", "answer_attention", "greedy_nll", "step_entropy", "first_token_surprisal"]
    for changes in [*([f"scorer={name}"] for name in scorers), ["scorer=self_information", "scorer.read_by=base"]]:
        found = flow_of(*changes, "model=qwen14b", "model@reference.base=qwen7b")._scoring.identity
        assert (found["model"]["model"], found["reference"]) == ("qwen7b", None), changes
    mixed = ["scorer=mix", "scorer.parts.cts.read_by=base", "scorer.parts.reference_likelihood.read_by=base"]
    found = flow_of(*mixed, "model=qwen14b", "model@reference.base=qwen7b")._scoring.identity
    assert {part["model"]["model"] for part in found["parts"].values()} == {"qwen7b"}
    compat = ["scorer=llmlingua", "scorer.read_by=base", "compression=llmlingua_compat"]
    decided = flow_of(*compat, "model=qwen14b", "model@reference.base=qwen7b")._deciding.identity
    assert (decided["model"]["model"], decided["reference"]) == ("qwen7b", None)


def test_only_a_trained_classifier_depends_on_how_it_is_trained(identity: Identity) -> None:
    changes = [
        "seed=7",
        "scorer.learning_rate=0.1",
        "scorer.epochs=9",
        "scorer.trained_layers=1",
        "scorer.batch_size=3",
    ]
    published, trained = identity("scorer=tokenskip_xlmr"), identity("scorer=tokenskip")
    for change in changes:
        assert identity("scorer=tokenskip_xlmr", change) == published
        assert fingerprint(identity("scorer=tokenskip", change)) != fingerprint(trained)
    for change in ("scorer.window_tokens=100", "scorer.path=another", "scorer.name=mine"):
        assert identity("scorer=tokenskip_xlmr", change) != published


def test_only_the_parts_of_a_mix_that_count_are_part_of_its_key(identity: Identity) -> None:
    more = ["+scorer@scorer.parts.x=tokenskip_xlmr", "+scorer.weights.x=0"]
    assert fingerprint(identity("scorer=mix", *more)) == KEYS["mix, reference=lora"]
    counted = fingerprint(identity("scorer=mix", *more, "scorer.weights.x=0.5"))
    assert counted != KEYS["mix, reference=lora"]
    assert fingerprint(identity("scorer=mix", *more, "scorer.weights.x=0.5", "seed=7")) == counted  # it is published
    assert fingerprint(identity("scorer=mix", *more, "scorer.weights.x=0.6")) != counted


@pytest.mark.parametrize("scorer", ["random", "head", "stride"])
def test_what_reads_nothing_depends_on_the_tokenizer_alone(scorer: str, identity: Identity, tmp_path: Path) -> None:
    found = identity(f"scorer={scorer}")
    same = ["model.dtype=bfloat16", "model.context_tokens=77", "model.chat.ratio_marker='x{ratio}'", "reference=none"]
    assert identity(f"scorer={scorer}", *same) == found
    assert identity(f"scorer={scorer}", "model@reference.base=tiny") == found  # counted in the student's tokens
    assert identity(f"scorer={scorer}", "model=tiny") != found
