"""Hooks of MkDocs: pages of the site that do not lie in docs/, and links to them.

On GitHub a page of docs/ links to the README, to experiments and to source files by relative paths. The site holds all
of them: Markdown and notebooks as pages, images as they are, any other file as a page with its text, a folder as a list
of its files. Links are rewritten to these pages, so the same Markdown works in both places.
"""

import json
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src/cotpress"
PAGES = {".md", ".ipynb"}
IMAGES = {".png", ".svg", ".jpg", ".gif"}
LANGUAGES = {".py": "python", ".yaml": "yaml", ".yml": "yaml", ".sh": "bash", ".toml": "toml", ".csv": "text"}
STARTING_PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "notebooks/tour.ipynb")
FENCED = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"""(\]\(|\b(?:src|srcset)=")([^)"\s#]+)((?:\#[^)"\s]*)?[)"])""")
ROW = re.compile(r"^\|.*\|$", re.MULTILINE)
CODE = re.compile(r"`[^`]*`")
FOLDERS = (
    "api",
    "data",
    "distill",
    "scoring",
    "compression",
    "training",
    "evaluation",
    "report",
    "fidelity",
    "generation",
)
"""Packages that come first in the reference: the calls from Python, then the flow."""


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Add experiments, project pages and reference to the navigation."""
    assert config.nav is not None
    config.nav += [
        {"Experiments": ["experiments/README.md", *(_place(path) for path in _experiments())]},
        {"Reference": ["reference/index.md", *(f"reference/{name}.md" for name in _packages())]},
        {"Project": [{"Contributing": "CONTRIBUTING.md"}, {"Changes": "CHANGELOG.md"}]},
    ]
    return config


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add all files that pages link to, and the reference."""
    for path in sorted(_reached()):
        place = _place(path)
        if files.get_file_from_path(place) is None:
            files.append(_file(path, place, config))
    for name, text in _reference().items():
        files.append(File.generated(config, f"reference/{name}.md", content=text))
    files.append(File.generated(config, "site.css", abs_src_path=str(Path(__file__).with_name("site.css"))))
    return files


def on_page_markdown(markdown: str, *, page: Page, **_: Any) -> str:
    """Point links of a page to places in the site; pipes in code of tables lose the backslash that GitHub wants."""
    source = _source(page.file.src_uri)
    if source is None:
        return markdown
    parts = FENCED.split(markdown)
    parts[::2] = [_outside_of_code(part, source, page.file.src_uri) for part in parts[::2]]
    return "".join(parts)


def _outside_of_code(text: str, source: Path, place: str) -> str:
    def rewritten(match: re.Match[str]) -> str:
        target = _target(match[2], source)
        if target is None:
            return match[0]
        return match[1] + posixpath.relpath(_place(target), posixpath.dirname(place) or ".") + match[3]

    text = LINK.sub(rewritten, text)
    return ROW.sub(lambda row: CODE.sub(lambda code: code[0].replace(r"\|", "|"), row[0]), text)


def _target(link: str, source: Path) -> Path | None:
    """The file or folder that a link of a page names; None for addresses and for what does not exist."""
    path = (source.parent / link).resolve()
    return path if "://" not in link and path.exists() and path.is_relative_to(ROOT) else None


def _links(source: Path) -> Iterator[Path]:
    for part in FENCED.split(_markdown(source))[::2]:
        for match in LINK.finditer(part):
            if (target := _target(match[2], source)) is not None:
                yield target


def _reached() -> set[Path]:
    """All files and folders outside of docs/ that can be reached by links from its pages."""
    waiting = [ROOT / name for name in STARTING_PAGES] + sorted((ROOT / "docs").glob("*.md")) + _experiments()
    reached: set[Path] = set()
    while waiting:
        path = waiting.pop()
        if path in reached:
            continue
        reached.add(path)
        if path.suffix in PAGES:
            waiting += _links(path)
    return reached


def _experiments() -> list[Path]:
    return sorted((ROOT / "experiments").glob("*/README.md"))


def _place(path: Path) -> str:
    """Path of a file of the repository in the site."""
    name = path.relative_to(ROOT).as_posix()
    if name == "README.md":
        return "index.md"
    if name.startswith("docs/") and path.is_file():
        return name.removeprefix("docs/")
    if path.suffix == ".ipynb":
        return name.removesuffix(".ipynb") + ".md"
    return name if path.suffix in {".md", *IMAGES} else f"files/{name}.md"


def _source(place: str) -> Path | None:
    """The Markdown file or notebook of a page; None for pages that are written here."""
    if place == "index.md":
        return ROOT / "README.md"
    candidates = (ROOT / "docs" / place, ROOT / place, (ROOT / place).with_suffix(".ipynb"))
    return next((path for path in candidates if path.is_file()), None)


def _markdown(path: Path) -> str:
    """Text of a page; of a notebook its texts, code and outputs."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".ipynb":
        return text
    parts = []
    for cell in json.loads(text)["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        parts += [_output(output) for output in cell.get("outputs", ())]
    return "\n\n".join(parts) + "\n"


def _output(output: dict[str, Any]) -> str:
    data = output.get("data", {})
    for kind in ("text/markdown", "text/html"):
        if kind in data:
            return "".join(data[kind])
    lines = "".join(output.get("text", data.get("text/plain", ())))
    return f"```text\n{lines.rstrip()}\n```"


def _file(path: Path, place: str, config: MkDocsConfig) -> File:
    if path.suffix in {".md", *IMAGES}:
        return File.generated(config, place, abs_src_path=str(path))
    if path.suffix == ".ipynb":
        return File.generated(config, place, content=_markdown(path))
    name = path.relative_to(ROOT).as_posix()
    if path.is_dir():
        names = sorted(inner.name for inner in path.iterdir() if not inner.name.startswith(("_", ".")))
        text = "\n".join(f"- `{inner}`" for inner in names)
    else:
        content = path.read_text(encoding="utf-8").rstrip()
        text = f"```` {{.{LANGUAGES.get(path.suffix, 'text')}}}\n{content}\n````"
    return File.generated(config, place, content=f"---\nsearch: {{exclude: true}}\n---\n# `{name}`\n\n{text}\n")


def _packages() -> list[str]:
    names = [path.parent.name for path in sorted(PACKAGE.glob("*/__init__.py"))]
    return [*FOLDERS, *(name for name in names if name not in FOLDERS)]


def _reference() -> dict[str, str]:
    """Text of the pages of the reference by their names: one page for every package."""
    single = sorted(path.stem for path in PACKAGE.glob("*.py") if not path.stem.startswith("_"))
    pages = {"index": _page("cotpress", ["cotpress", *(f"cotpress.{name}" for name in single)])}
    for name in _packages():
        modules = sorted((PACKAGE / name).rglob("*.py"))
        dotted = [".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts) for path in modules]
        pages[name] = _page(f"cotpress.{name}", [d.removesuffix(".__init__") for d in dotted if "__main__" not in d])
    return pages


def _page(title: str, modules: list[str]) -> str:
    """A page of the reference: the first module's text stands below the title, the others have headings."""
    own, *inner = modules
    options = "    options:\n      show_submodules: false\n"
    hidden = "      show_root_heading: false\n      show_root_toc_entry: false\n"
    parts = [f"# `{title}`", f"::: {own}\n{options}{hidden}", *(f"::: {module}\n{options}" for module in inner)]
    return "\n\n".join(parts)
