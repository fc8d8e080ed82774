"""What the figures of all experiments share: their style, and how they become files."""

import io
from typing import Any

from matplotlib.figure import Figure

STYLE: Any = {
    "font.family": "DejaVu Sans",
    "mathtext.fontset": "dejavusans",
    "axes.linewidth": 0.8,
}


def png(figure: Figure) -> bytes:
    """The figure as a PNG that depends on what it shows alone, not on matplotlib's version."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
