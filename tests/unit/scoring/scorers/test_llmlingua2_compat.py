"""The selection of LLMLingua-2 against texts that the release itself made (`tests/tool/llmlingua2_release.py`)."""

import json
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cotpress.errors import ConfigError, ModelError
from cotpress.records import Trace
from cotpress.scoring.scorers.classifier import Classifier, load_classifier
from cotpress.scoring.scorers.llmlingua2_compat import (
    Llmlingua2Compat,
    Llmlingua2Options,
    chunks,
    kept_words,
    llmlingua2_settings,
)
from cotpress.scoring.scorers.random import RandomConfig
from cotpress.scoring.scorers.tokenskip import TokenskipConfig
from support.llmlingua2 import FOLDERS, GOLDEN, save_classifier, texts

RELEASE = json.loads(GOLDEN.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("classifiers")
    for kind in FOLDERS:
        save_classifier(kind, made)
    return made


def compat(folder, kind, count=None, **options):
    path = folder / FOLDERS[kind]
    config = TokenskipConfig(name="tokenskip", path=str(path), train=False, seed=1)
    classifier = load_classifier(path, config, new_head=False, device=torch.device("cpu"))
    return Llmlingua2Compat(config, classifier, Llmlingua2Options(**options), count or (lambda _: 1), 4096)


def trace(text, number=0):
    return Trace(id=f"t{number}", question="", thinking=text, response="", answer="")


@pytest.mark.parametrize("call", range(3))
@pytest.mark.parametrize("kind", FOLDERS)
def test_texts_are_those_of_the_release(folder, kind, call):
    traces = [trace(text, i) for i, text in enumerate(texts())]
    rows = [row for row in RELEASE["outputs"] if row["kind"] == kind and row["call"] == call]
    arguments = RELEASE["calls"][call]
    if "force_tokens" in arguments:
        arguments = {**arguments, "force_tokens": tuple(arguments["force_tokens"])}
    num_compared = 0
    for rate in sorted({row["rate"] for row in rows}):
        expected = {row["text"]: row["output"] for row in rows if row["rate"] == rate}
        ours = compat(folder, kind, RELEASE["word_tokens"].__getitem__, ratios=(rate,), **arguments)
        for number, row in zip(expected, ours.score([traces[n] for n in expected]), strict=True):
            if expected[number] is None:  # the release stops with an error
                assert row.text == ""
            else:
                assert row.text == expected[number], (rate, number)
                num_compared += bool(row.text)
    assert num_compared > 40
