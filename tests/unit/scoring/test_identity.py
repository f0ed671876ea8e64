"""The identity of a score artifact: everything that changes its scores, and nothing else."""

from collections.abc import Callable, Iterator
from contextlib import closing
from copy import copy
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir

from cotpress.config import CompressConfig, TrainConfig, register_schemas, to_objects
from cotpress.modeling.config import ModelConfig
from cotpress.scoring import job as stage
from cotpress.scoring import models
from cotpress.scoring.scorers import classifier
from cotpress.store import source
from cotpress.store.artifacts import Artifact, fingerprint
from cotpress.tasks.flow import Compression, Flow
from cotpress.tracking import Tracker
from support.commands import ROOT

KEYS = {
    "scorer=cts": "8d4af49a01524b6c",
    "scorer=self_information": "a9545f5519759337",
    "scorer=llmlingua": "53b28c2f37951a4c",
    "scorer=entropy": "4e825fc215877fc2",
    "scorer=step_entropy": "ec21f4f15986656b",
    "scorer=first_token_surprisal": "f307e7098f20810c",
    "scorer=rho1_excess": "f72d4c3bf81b03a4",
    "scorer=reference_gain": "ceccebacce44294a",
    "scorer=reference_likelihood": "863767b116489fc7",
    "scorer=reference_walk": "e542248e4f994f19",
    "scorer=gogi": "2737e6f9ce53e71c",
    "scorer=greedy_nll scorer.max_tokens=150 scorer.deletions_per_round=8": "d052b0dfd52cf1e0",
    "scorer=tokenskip": "4cd6a0fb44b07a70",
    "scorer=mix": "c5c08db5af6d95cc",
    "scorer=random": "5e6f9fcd148ee91a",
    "scorer=head": "aea780a7b6f6c11b",
    "scorer=tail": "2a615eb6a15ab198",
    "scorer=stride": "223a0a356cfedcf6",
    "scorer=cts scorer.condition=question": "0dc89b841f45c9ce",
    "scorer=cts scorer.condition=question_answer scorer.baseline=question": "47eae34e3eadfc82",
    "scorer=cts scorer.template=plain": "9c00b7e949783fe9",
    "scorer=cts reference=none": "3bf8a1eb690fb9e9",
    "scorer=cts scorer.pooling=word": "b838c5224e02ec4d",
    "scorer=llmlingua reference=none": "639a4bb9cce3f09f",
    "scorer=self_information scorer.read_by=base": "b2a86819248715be",
    "scorer=mix +scorer@scorer.parts.random=random +scorer.weights.random=0.5 +scorer@scorer.parts.gogi=gogi +scorer.weights.gogi=0.5": "a925a6a087e41beb",  # noqa: E501
}
"""Fingerprints of score artifacts of the tiny model without the hashes of code. Where the code is the same, a user with
other ones scores everything again."""
REFERENCE = "aa4e52ff8d7edd4a"
"""Fingerprint of the reference model of these settings."""
TINY = ("model=tiny", "model.dtype=float32", "data.num_traces=24", "tracker=none", "trainer=cpu")

Identity = Callable[..., dict[str, Any]]


def made_before(name: str, digest: str = 16 * "0") -> Artifact:
    return Artifact(stage=name, fingerprint=digest, path=Path("nowhere"), manifest={}, seconds=0.0)


@pytest.fixture
def flow_of(tmp_path: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Flow]]:
    """The wiring of a command, its data, labels and reference model made before, its models known by their names."""

    def named(config: ModelConfig, *_: object, key: str = "") -> dict[str, str]:
        return {"model": config.name, "dtype": config.dtype.value}

    monkeypatch.setattr(models, "model_identity", named)

    def tokens_of(config: ModelConfig, _: object, key: str = "") -> Any:
        renamed = copy(tokenizer)
        renamed.name_or_path = config.name
        return renamed

    monkeypatch.setattr(models, "load_tokenizer", tokens_of)
    monkeypatch.setattr(models, "tokenizer_fingerprint", lambda tokenizer: tokenizer.name_or_path)
    monkeypatch.setattr(classifier, "encoder_identity", lambda path, key="": {"hub": path, "commit": "abc"})
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


@pytest.mark.parametrize("overrides", KEYS)
def test_scores_of_earlier_settings_are_found_again(
    overrides: str, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "code_of", lambda *_: {})
    monkeypatch.setattr(models, "code_of", lambda *_: {})
    root = tmp_path_factory.getbasetemp() / "identities"  # data and labels are made once
    register_schemas()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = to_objects(compose("compress", overrides=[f"output_root={root}", *TINY, *overrides.split()]))
    assert isinstance(config, CompressConfig)
    with closing(Tracker(tmp_path_factory.mktemp("tracker"))) as tracker:
        flow = Compression(config, tracker)
        if config.reference.exists:
            vars(flow)["reference"] = made_before("reference", REFERENCE)
        assert fingerprint(flow.store._complete("score", flow._scoring.identity)) == KEYS[overrides]


def test_read_by_base_reads_with_what_the_reference_model_is_made_from(flow_of: Callable[..., Flow]) -> None:
    scorers = ["gogi", "answer_attention", "greedy_nll", "pir", "step_entropy", "first_token_surprisal"]
    for changes in [*([f"scorer={name}"] for name in scorers), ["scorer=self_information", "scorer.read_by=base"]]:
        scored = flow_of(*changes, "model=qwen14b", "model@reference.base=qwen7b")._scoring.identity
        assert (scored["model"]["model"], scored["reference"]) == ("qwen7b", None), changes
    mixed = ["scorer=mix", "scorer.parts.cts.read_by=base", "scorer.parts.reference_likelihood.read_by=base"]
    scored = flow_of(*mixed, "model=qwen14b", "model@reference.base=qwen7b")._scoring.identity
    assert {part["model"]["model"] for part in scored["parts"].values()} == {"qwen7b"}
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
    assert fingerprint(identity("scorer=mix", *more)) == fingerprint(identity("scorer=mix"))
    counted = fingerprint(identity("scorer=mix", *more, "scorer.weights.x=0.5"))
    assert counted != fingerprint(identity("scorer=mix"))
    assert fingerprint(identity("scorer=mix", *more, "scorer.weights.x=0.5", "seed=7")) == counted  # it is published
    assert fingerprint(identity("scorer=mix", *more, "scorer.weights.x=0.6")) != counted


@pytest.mark.parametrize("scorer", ["random", "head", "stride"])
def test_scorer_without_a_model_depends_on_the_tokenizer_alone(scorer: str, identity: Identity, tmp_path: Path) -> None:
    plain = identity(f"scorer={scorer}")
    same = ["model.dtype=bfloat16", "model.context_tokens=77", "model.chat.ratio_marker='x{ratio}'", "reference=none"]
    assert identity(f"scorer={scorer}", *same) == plain
    assert identity(f"scorer={scorer}", "model@reference.base=tiny") == plain  # counted in the student's tokens
    assert identity(f"scorer={scorer}", "model=tiny") != plain
