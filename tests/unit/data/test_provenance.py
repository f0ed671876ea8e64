"""The source of traces on a card, and the licence that is passed on."""

import json
from pathlib import Path

import pytest

from cotpress.data.provenance import provenance
from cotpress.modeling.hub import licence_of


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        ("---\nlicense: mit\n---\n# x", {"license": "mit"}),
        ("---\ntags:\n- a\nlicense:\n- cc-by-4.0\n- mit\n---\n", {"license": "cc-by-4.0"}),
        ('---\nlicense: "other"  # own\nlicense_name: smol one\nlicense_link: https://x.org/l\n---\n',
         {"license": "other", "license_name": "smol one", "license_link": "https://x.org/l"}),
        ("---\ntags: [license]\n---\nlicense: mit\n", {}),
        ("license: mit\n", {}),
        ("", {}),
        ("---\nlicense: &a [*a]\n---\n", {}),
    ],
)  # fmt: skip
def test_licence_is_that_of_the_metadata_of_a_card(card: str, licence: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(card)
    assert licence_of(tmp_path / "README.md") == licence


def test_folder_passes_on_the_licence_of_its_card_or_description(tmp_path: Path) -> None:
    settings = {"name": "jsonl", "path": str(tmp_path)}
    assert provenance(settings).licence == {}
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "dataset_info.json").write_text(json.dumps({"license": "cc0-1.0"}))
    assert provenance(settings).licence == {"license": "cc0-1.0"}
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n")
    assert provenance(settings).licence == {"license": "mit"}


def test_card_beside_a_single_file_is_not_taken_for_its_own(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n")
    (tmp_path / "rows.jsonl").write_text("{}\n")
    source = provenance({"name": "jsonl", "path": str(tmp_path / "rows.jsonl")})
    assert (source.text, source.licence) == ("`rows.jsonl`", {})
