"""The picture of what each scorer deletes."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from cotpress.report.deletions import Deletions
from cotpress.report.figure import SOFT, Picture, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def deletion_picture(groups: Sequence[tuple[str, Sequence[Deletions]]], percent: int) -> Picture | None:
    """A dot per scorer and kind of token.

    Args:
        groups: Heading and deletions of each panel; empty panels are left out.
        percent: Kept percentage of all tokens.
    """
    panels = [(heading, found) for heading, found in groups if found]
    if not panels:
        return None
    texts = [
        f"{d.ranker}: " + ", ".join(f"{n} {100 * s:.0f} %" for n, s in zip(d.names, d.share(percent), strict=True))
        for _, found in panels
        for d in found
    ]
    most = max(len(d.names) for _, found in panels for d in found)
    return Picture(
        name="deletions",
        title=f"What is deleted at ratio {percent / 100:g}",
        description=f"Share of the tokens of each kind that is deleted. {'; '.join(texts)}.",
        size=(5.0 + 3.2 * len(panels), 1.3 + 0.36 * most),
        draw=lambda figure: _draw(figure, panels, percent),
    )


def _draw(figure: "Figure", panels: Sequence[tuple[str, Sequence[Deletions]]], percent: int) -> None:
    handles = None
    for axes, (heading, found) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        names = list(dict.fromkeys(name for d in found for name in d.names))
        axes.axvline(100 - percent, color=SOFT, linestyle=":", linewidth=1.5, label="of all tokens")
        for i, d in enumerate(found):
            colour, marker = style(i)
            share = dict(zip(d.names, 100 * d.share(percent), strict=True))
            axes.plot([share.get(n) for n in names], range(len(names)), color=colour, marker=marker, markersize=8,
                      linestyle="none", label=d.ranker, alpha=0.9)  # fmt: skip
        axes.set_yticks(range(len(names)), names)
        axes.invert_yaxis()
        axes.set_title(heading)
        axes.set_xlabel("% deleted")
        axes.set_xlim(-4, 104)
        handles = handles or axes.get_legend_handles_labels()
    if handles is not None:
        figure.legend(*handles, loc="outside lower center", ncols=5)
