from dataclasses import replace

import pytest

from cotpress.errors import ArtifactError, ModelError
from cotpress.modeling.config import Dtype
from cotpress.scoring.config import ReadBy, Template
from cotpress.scoring.scorers.self_information import SelfInformationConfig
from cotpress.store.artifacts import Summary
from support.scoring import built, identity_of, models_of

CONFIG = SelfInformationConfig(name="s")


def test_planning_loads_nothing_that_is_not_needed_for_the_identity(base, trainer, store, monkeypatch):
    from cotpress.scoring import models as module

    def forbidden(*_, **__):
        raise AssertionError("loaded before it was asked for")

    monkeypatch.setattr(module, "load_model", forbidden)
    assert identity_of(CONFIG, models_of(base, trainer, store))["reference"] is None
    monkeypatch.setattr(module, "load_tokenizer", forbidden)  # whose chat template may be part of it
    plain = replace(CONFIG, template=Template.plain)
    assert identity_of(plain, models_of(base, trainer, store))["reference"] is None


@pytest.mark.parametrize(("template", "more"), [(Template.chat, {"opening": ""}), (Template.plain, {})])
def test_identity_names_the_opening_only_where_the_chat_template_writes_it(
    template, more, base, trainer, store, monkeypatch
):
    from cotpress.scoring import models as module

    def opens(*arguments, **options):
        tokenizer = load(*arguments, **options)
        tokenizer.chat_template = tokenizer.chat_template.replace("assistant\n", "assistant\n<think>\n")
        return tokenizer

    load, config = module.load_tokenizer, replace(CONFIG, template=template)
    before = identity_of(config, models_of(base, trainer, store))
    assert before.keys() == {"model", "reference", "chat", "context_tokens", "models"}
    monkeypatch.setattr(module, "load_tokenizer", opens)
    assert identity_of(config, models_of(base, trainer, store)) == before | more


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"dtype": Dtype.bfloat16}, False),
        ({"context_tokens": 77}, False),
        ({"name": "another"}, True),
        ({"attention": "eager"}, True),
    ],
)
def test_identity_follows_what_changes_the_scores(change, same, base, trainer, store):
    first = identity_of(CONFIG, models_of(base, trainer, store))
    assert (identity_of(CONFIG, models_of(replace(base, **change), trainer, store)) == first) is same


def test_reference_is_part_of_the_identity_only_where_it_reads(base, trainer, store, reference):
    by_base = replace(CONFIG, read_by=ReadBy.base)
    assert identity_of(CONFIG, models_of(base, trainer, store, reference))["reference"] == reference.key
    assert identity_of(by_base, models_of(base, trainer, store, reference))["reference"] is None


def test_read_by_chooses_the_model(base, trainer, store, reference, traces):
    loaded = models_of(base, trainer, store, reference)
    scores = {r: next(built(replace(CONFIG, read_by=r), loaded).score(traces[:1])).scores for r in ReadBy}
    assert abs(scores[ReadBy.reference] - scores[ReadBy.base]).max() > 0.01


def test_loaded_models_require_no_gradients(base, trainer, store, reference):
    loaded = models_of(base, trainer, store, reference)
    assert not any(p.requires_grad for by in ReadBy for p in loaded.model(by).parameters())


def test_reference_without_weights_is_an_error_that_says_what_it_holds(base, trainer, store):
    def produce(workdir):
        (workdir / "notes.txt").write_text("nothing else")
        return Summary(num_rows=0)

    empty = store.build("reference", {"test": "no weights"}, produce)
    with pytest.raises(ArtifactError, match=r"no weights in adapter/ or model/ but \['notes.txt'\]"):
        built(CONFIG, models_of(base, trainer, store, empty))


def test_plain_template_without_bos_is_an_error_when_the_scorer_is_made(base, trainer, store, monkeypatch):
    from cotpress.scoring import models as module

    def without_bos(*arguments, **options):
        tokenizer = load(*arguments, **options)
        tokenizer.bos_token = None
        return tokenizer

    load = module.load_tokenizer
    monkeypatch.setattr(module, "load_tokenizer", without_bos)
    config = replace(CONFIG, template=Template.plain)
    with pytest.raises(ModelError, match=r"Fix: scorer\.template=chat"):
        built(config, models_of(base, trainer, store))


@pytest.mark.parametrize("read_by", ReadBy)
@pytest.mark.usefixtures("rescaled_logits")
def test_model_that_rescales_its_logits_does_not_score(read_by, base, trainer, store, reference):
    with pytest.raises(ModelError, match="more than a linear map"):
        built(replace(CONFIG, read_by=read_by), models_of(base, trainer, store, reference))
