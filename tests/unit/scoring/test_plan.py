from dataclasses import replace

import pytest

from cotpress.errors import ArtifactError, ModelError
from cotpress.modeling.config import Dtype
from cotpress.scoring.config import ReadBy, SelfInformationConfig, Template
from cotpress.scoring.plan import plan_scorer
from cotpress.store.artifacts import Summary

CONFIG = SelfInformationConfig(name="s")


def test_planning_loads_nothing_that_is_not_needed_for_the_identity(base, trainer, store, monkeypatch):
    from cotpress.scoring import plan

    def forbidden(*_, **__):
        raise AssertionError("loaded before it was asked for")

    monkeypatch.setattr(plan, "load_model", forbidden)
    assert plan_scorer(CONFIG, None, None, base, trainer, store).identity["reference"] is None
    monkeypatch.setattr(plan, "load_tokenizer", forbidden)  # whose chat template may be part of it
    plain = replace(CONFIG, template=Template.plain)
    assert plan_scorer(plain, None, None, base, trainer, store).identity["reference"] is None


@pytest.mark.parametrize(("template", "more"), [(Template.chat, {"opening": ""}), (Template.plain, {})])
def test_identity_names_the_opening_only_where_the_chat_template_writes_it(
    template, more, base, trainer, store, monkeypatch
):
    from cotpress.scoring import plan

    def opens(*arguments):
        tokenizer = load(*arguments)
        tokenizer.chat_template = tokenizer.chat_template.replace("assistant\n", "assistant\n<think>\n")
        return tokenizer

    load, config = plan.load_tokenizer, replace(CONFIG, template=template)
    before = plan_scorer(config, None, None, base, trainer, store).identity
    assert before.keys() == {"model", "reference", "chat", "context_tokens"}
    monkeypatch.setattr(plan, "load_tokenizer", opens)
    assert plan_scorer(config, None, None, base, trainer, store).identity == before | more


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
    first = plan_scorer(CONFIG, None, None, base, trainer, store).identity
    assert (plan_scorer(CONFIG, None, None, replace(base, **change), trainer, store).identity == first) is same


def test_reference_is_part_of_the_identity_only_where_it_reads(base, trainer, store, reference):
    by_base = replace(CONFIG, read_by=ReadBy.base)
    assert plan_scorer(CONFIG, None, reference, base, trainer, store).identity["reference"] == reference.key
    assert plan_scorer(by_base, None, reference, base, trainer, store).identity["reference"] is None


def test_read_by_chooses_the_model(base, trainer, store, reference, traces):
    plans = {r: plan_scorer(replace(CONFIG, read_by=r), None, reference, base, trainer, store) for r in ReadBy}
    scores = {r: next(iter(p.make().score(traces[:1]))).scores for r, p in plans.items()}
    assert abs(scores[ReadBy.reference] - scores[ReadBy.base]).max() > 0.01


def test_reference_without_weights_is_an_error_that_says_what_it_holds(base, trainer, store):
    def produce(workdir):
        (workdir / "notes.txt").write_text("nothing else")
        return Summary(num_rows=0)

    empty = store.build("reference", {"test": "no weights"}, produce)
    with pytest.raises(ArtifactError, match=r"neither model/ nor adapter/; it holds \['notes.txt'\]"):
        plan_scorer(CONFIG, None, empty, base, trainer, store).make()


def test_plain_template_without_bos_is_an_error_when_the_scorer_is_made(base, trainer, store, monkeypatch):
    from cotpress.scoring import plan

    def without_bos(*arguments):
        tokenizer = load(*arguments)
        tokenizer.bos_token = None
        return tokenizer

    load = plan.load_tokenizer
    monkeypatch.setattr(plan, "load_tokenizer", without_bos)
    config = replace(CONFIG, template=Template.plain)
    with pytest.raises(ModelError, match=r"Fix: scorer\.template=chat"):
        plan_scorer(config, None, None, base, trainer, store).make()


@pytest.mark.parametrize("read_by", ReadBy)
@pytest.mark.usefixtures("rescaled_logits")
def test_model_that_rescales_its_logits_does_not_score(read_by, base, trainer, store, reference):
    with pytest.raises(ModelError, match="more than a linear map"):
        plan_scorer(replace(CONFIG, read_by=read_by), None, reference, base, trainer, store).make()
