"""Tables of texts: names that are too long keep what tells them apart."""

from dataclasses import replace

import pytest

from cotpress.store.grid import DENSE, Grid, Narrower, shortened

STEP, WORD = "cts granularity=step data.num_traces=60", "cts granularity=word data.num_traces=60"


@pytest.mark.parametrize(
    ("width", "expected"),
    [
        (39, [STEP, WORD, "Original"]),
        (38, ["cts granularity=step num_traces=60", "cts granularity=word num_traces=60", "Original"]),
        (20, ["cts step 60", "cts word 60", "Original"]),
        (8, ["cts ste…", "cts wor…", "Original"]),
        (6, ["cts s…", "cts w…", "Origi…"]),
    ],
)
def test_long_names_lose_groups_then_keys_then_a_part_that_does_not_tell_them_apart(
    width: int, expected: list[str]
) -> None:
    assert list(shortened([STEP, WORD, "Original"], width).values()) == expected


def test_part_that_is_left_out_is_not_the_one_that_differs() -> None:
    names = [f"reference-of-{kind}-with-all-of-the-data" for kind in ("one", "two", "three")]
    shown = shortened([*names, "reference-of-one-with-all-of-the-date"], 20)
    assert len(set(shown.values())) == 4
    assert max(map(len, shown.values())) <= 20
    assert all(text.startswith("reference") and "…" in text for text in shown.values())


def test_keys_stay_where_values_alone_would_be_the_same_name() -> None:
    shown = shortened(["cts first_setting=5", "cts other_setting=5"], 12)
    assert list(shown.values()) == ["cts first_s…", "cts other_s…"]


def test_names_that_so_short_a_part_does_not_tell_apart_are_longer() -> None:
    middle = [f"{'a' * 20}{'b' * n}{'a' * 20}" for n in (1, 2)]
    assert list(shortened(middle, 10).values()) == [f"{'a' * 20}ba…", f"{'a' * 20}bb…"]


def test_line_has_the_width_that_is_asked_for_and_the_grid_its_whole_names() -> None:
    grid = Grid(("System", "n"), ((STEP, "1"), (WORD, "22"), ("Original", "333")))
    assert grid.plain().splitlines()[2] == f"{STEP}    1"
    assert [line.split("  ")[0] for line in grid.plain(24).splitlines()[2:]] == [
        "cts step 60",
        "cts word 60",
        "Original",
    ]
    assert max(map(len, grid.plain(24).splitlines())) <= 24
    assert STEP in grid.markdown()


WIDE = Grid(
    ("System", "accuracy\n[CI]", "tokens\n[CI]", "seconds"),
    (
        ("Original", "96.4 [90.0, 98.8]", "208 [207, 208]", "0.40"),
        ("cts", "59.5 [48.8, 69.4]", "166 [162, 169]", "0.35"),
    ),
    narrower=(Narrower("seconds"), DENSE, Narrower("absent"), Narrower("tokens\n[CI]", "tokens"), Narrower("tokens")),
)


@pytest.mark.parametrize(
    ("width", "lines"),
    [
        (
            52,
            [
                "Original  96.4 [90.0, 98.8]  208 [207, 208]     0.40",
                "cts       59.5 [48.8, 69.4]  166 [162, 169]     0.35",
            ],
        ),
        (51, ["Original  96.4 [90.0, 98.8]  208 [207, 208]", "cts       59.5 [48.8, 69.4]  166 [162, 169]"]),
        (41, ["Original 96.4 [90.0, 98.8] 208 [207, 208]", "cts      59.5 [48.8, 69.4] 166 [162, 169]"]),
        (40, ["Origin… 96.4 [90.0, 98.8] 208 [207, 208]", "cts     59.5 [48.8, 69.4] 166 [162, 169]"]),
        (38, ["Original  96.4 [90.0, 98.8]     208", "cts       59.5 [48.8, 69.4]     166"]),
        (28, ["Original  96.4 [90.0, 98.8]", "cts       59.5 [48.8, 69.4]"]),
        (24, ["Origi… 96.4 [90.0, 98.8]", "cts    59.5 [48.8, 69.4]"]),
    ],
)
def test_columns_give_way_in_their_order_and_then_the_names(width: int, lines: list[str]) -> None:
    assert WIDE.plain(width).splitlines()[-2:] == lines


def test_extras_are_the_columns_that_the_narrowest_form_leaves_out() -> None:
    assert WIDE.extras == [2, 3]
    assert replace(WIDE, narrower=WIDE.narrower[:4]).extras == [3], "without its intervals a column is still there"


def test_headings_that_gave_way_are_named() -> None:
    assert WIDE.given_way(WIDE.within(38)) == ["tokens [CI]", "seconds"]
    assert WIDE.given_way(WIDE.within(99)) == []
