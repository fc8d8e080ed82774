"""What a picture must not do."""

import io

import numpy as np
from PIL import Image


def assert_no_text_runs_off(png: bytes, edge: int) -> None:
    """`edge` pixels along every side are white."""
    with Image.open(io.BytesIO(png)) as picture:
        pixels = np.asarray(picture.convert("L"))
    for side in (pixels[:edge], pixels[-edge:], pixels[:, :edge], pixels[:, -edge:]):
        assert (side == 255).all()
