"""What tests ask of drawings."""

import itertools
from pathlib import Path
from typing import Any


def assert_texts_keep_apart(figure: Any) -> list[str]:
    """Assert that no two texts of a figure meet and none leaves it; return what they say."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.text import Text

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    places = []
    for axes in figure.axes:
        inside = axes.get_window_extent(renderer)
        for axis, low, high in ((axes.xaxis, inside.x0, inside.x1), (axes.yaxis, inside.y0, inside.y1)):
            for tick in axis.get_major_ticks():
                # Matplotlib keeps labels of ticks that lie outside of the axes, and does not draw them.
                spot = axes.transData.transform((tick.get_loc(),) * 2)[0 if axis is axes.xaxis else 1]
                for label in (tick.label1, tick.label2):
                    label.set_visible(label.get_visible() and low - 1 <= spot <= high + 1)
    for text in figure.findobj(Text):
        if text.get_text() and text.get_visible():
            # What encloses a slanted text is mostly empty.
            if not text.get_rotation() % 90:
                places.append((text.get_text(), text.get_window_extent(renderer)))
    whole = figure.bbox
    for said, box in places:
        assert whole.x0 <= box.x0 < box.x1 <= whole.x1, said
        assert whole.y0 <= box.y0 < box.y1 <= whole.y1, said
    for (said, one), (also, other) in itertools.combinations(places, 2):
        apart = one.x1 <= other.x0 or other.x1 <= one.x0 or one.y1 <= other.y0 or other.y1 <= one.y0
        assert apart, (said, also)
    return [said for said, _ in places]


def shown_in(path: Path) -> set[tuple[int, ...]]:
    """Return the colours of a PNG picture that is not an empty one."""
    from PIL import Image

    assert path.stat().st_size > 8_000
    with Image.open(path) as image:
        assert image.format == "PNG"
        return {colour for _, colour in image.convert("RGB").getcolors(1 << 24)}


def rgb(colour: str) -> tuple[int, ...]:
    return tuple(bytes.fromhex(colour[1:]))
