import numpy as np

from cotpress.fidelity.cases import DIRECTIONS, newness, step_rules, token_rules


def test_word_is_new_if_it_follows_its_predecessor_for_the_first_time() -> None:
    assert newness(["so", "it", "is", "so", "It", "is"]).tolist() == [1, 1, 1, 1, 0, 0]


def test_token_rules_by_hand() -> None:
    text = "is 12 is 12"
    offsets = np.array([[0, 2], [2, 4], [4, 5], [5, 8], [8, 11]], dtype=np.int32)  # is| 1|2| is| 12
    rules = token_rules(text, offsets)
    assert set(rules) == set(DIRECTIONS)
    assert rules["position"].tolist() == [0, 1, 2, 3, 4]
    assert rules["length"].tolist() == [2, 2, 2, 2, 2]
    assert rules["digit share"].tolist() == [0, 1, 1, 0, 1]
    assert rules["new bigrams"].tolist() == [1, 1, 1, 1, 0]


def test_step_rules_by_hand() -> None:
    text = "a 1 b.\na 1 c."
    rules = step_rules(text, [(0, 6), (6, 13)])
    assert rules["position"].tolist() == [0, 1]
    assert rules["length"].tolist() == [6, 6]
    assert rules["digit share"].tolist() == [1 / 4, 1 / 4]
    # second step: (., a), (1, c) and (c, .) are new, (a, 1) is not
    assert rules["new bigrams"].tolist() == [1, 3 / 4]
