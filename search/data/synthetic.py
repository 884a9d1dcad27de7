"""Surfaces with defects, generated: textures with cracks, spots and scratches, and their exact masks."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from search.errors import InputError

DEFECTS = ("crack", "spot", "scratch")
"""The classes; value k + 1 of a mask is DEFECTS[k]."""

SHOTS_PER_PART = 2
"""Images of one part: same texture and defects, other light and noise."""

_OVERSAMPLING = 4
_TEST_SHARE = 0.3


class NotEmptyError(InputError):
    """The folder to write to holds something already."""


def write_dataset(folder: Path, images: int = 48, size: int = 96, seed: int = 0) -> Path:
    """Write a data set of generated surfaces and return its folder.

    It has images/, masks/ (value = class, see `DEFECTS`), splits/ (random train/test and, by part,
    train_grouped/test_grouped) and meta.csv. Each part is photographed `SHOTS_PER_PART` times, so a random
    split leaks and the grouped one does not, as in real sets. Texture and kind of defect go round in turn.

    Args:
        folder: to write to; made if it is not there, else empty.
        images: number of images, 8 or more.
        size: side of the images, px, 32 or more.
        seed: of everything random; the same seed gives the same files.

    Raises:
        NotEmptyError: the folder holds something.
        ValueError: images or size is too small.
    """
    if images < 8 or size < 32:
        raise ValueError(f"images is {images} and size {size}; allowed are 8 and 32 px or more")
    if folder.exists() and any(folder.iterdir()):
        raise NotEmptyError(f"{folder}: holds something already; give an empty or a new folder")
    for name in ("images", "masks", "splits"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    rows = ["name,class_index,class,group"]
    names, parts = [], []
    for index in range(images):
        part, shot = divmod(index, SHOTS_PER_PART)
        defect, texture = part % len(DEFECTS), list(TEXTURES)[(part // len(DEFECTS)) % len(TEXTURES)]
        image, mask = surface(texture, DEFECTS[defect], size, (seed, part), shot)
        name = f"{DEFECTS[defect]}_{part:03d}_{shot}"
        Image.fromarray(image).save(folder / "images" / f"{name}.png")
        Image.fromarray(mask * np.uint8(defect + 1)).save(folder / "masks" / f"{name}.png")
        rows.append(f"{name},{defect + 1},{DEFECTS[defect]},part{part:03d}")
        names.append(name)
        parts.append(part)
    (folder / "meta.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    _write_splits(folder / "splits", names, parts, seed)
    return folder


def surface(texture: str, defect: str, size: int, key: tuple[int, ...], shot: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return one image and its mask, uint8 (size, size) each; the mask is 0 or 1.

    Args:
        texture: a name in `TEXTURES`.
        defect: a name in `DEFECTS`.
        size: px.
        key: what texture and defect are drawn from.
        shot: what light and camera noise are drawn from; the rest is the same in every shot.
    """
    rng = np.random.default_rng([*key, 1])
    base = TEXTURES[texture](rng, size)
    shape = _SHAPES[defect](rng, size)
    while shape.max() < 0.5:  # Drawn wholly outside the picture, or too thin to be seen.
        shape = _SHAPES[defect](rng, size)
    depth = rng.uniform(0.14, 0.28) * (1 if defect == "scratch" and rng.random() < 0.6 else -1)
    # The floor of a defect is rough too: a constant step would be told by its level alone.
    rough = 1 + 0.25 * _blurred(rng.standard_normal((size, size)), 1.0)
    light_rng = np.random.default_rng([*key, 2, shot])
    image = (base + depth * shape * rough) * _light(light_rng, size)
    image = image + light_rng.normal(0, 0.012, (size, size))
    return np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8), (shape >= 0.5).astype(np.uint8)


def _write_splits(folder: Path, names: list[str], parts: list[int], seed: int) -> None:
    rng = np.random.default_rng([seed, 3])
    count = max(1, round(len(names) * _TEST_SHARE))
    test = {names[i] for i in rng.permutation(len(names))[:count]}
    # Every third part in a row of all classes: each class and texture is on both sides.
    kinds = len(DEFECTS)
    turns = max(parts) // kinds + 1
    chosen = {(kinds * turn + kind) for kind in range(kinds) for turn in _some(rng, turns)}
    test_grouped = {name for name, part in zip(names, parts, strict=True) if part in chosen}
    for suffix, tested in (("", test), ("_grouped", test_grouped)):
        for part_name, wanted in (("train", False), ("test", True)):
            listed = [name for name in names if (name in tested) is wanted]
            (folder / f"{part_name}{suffix}.txt").write_text("\n".join(listed) + "\n", encoding="utf-8")


def _some(rng: np.random.Generator, turns: int) -> list[int]:
    return [int(t) for t in rng.permutation(turns)[: max(1, round(turns * _TEST_SHARE))]]


def _blurred(field: np.ndarray, radius_y: float, radius_x: float | None = None) -> np.ndarray:
    """Return a field smoothed over radii in px (circularly), with mean 0 and deviation 1."""
    height, width = field.shape
    fy, fx = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :]
    radius_x = radius_y if radius_x is None else radius_x
    gain = np.exp(-2 * np.pi**2 * ((fy * radius_y) ** 2 + (fx * radius_x) ** 2))
    smooth = np.fft.irfft2(np.fft.rfft2(field) * gain, s=field.shape)
    smooth -= smooth.mean()
    return smooth / (smooth.std() + 1e-12)


def _noise(rng: np.random.Generator, size: int, radius_y: float, radius_x: float | None = None) -> np.ndarray:
    return _blurred(rng.standard_normal((size, size)), radius_y, radius_x)


def _brushed(rng: np.random.Generator, size: int) -> np.ndarray:
    """Rolled or brushed metal: streaks along one direction."""
    lines = 0.045 * _noise(rng, size, 0.5, size / 3) + 0.02 * _noise(rng, size, 0.5, size / 12)
    return rng.uniform(0.45, 0.65) + (lines if rng.random() < 0.5 else lines.T) + 0.015 * _noise(rng, size, 0.7)


def _grainy(rng: np.random.Generator, size: int) -> np.ndarray:
    """Cast or sand-blasted surface: grains of a few pixels."""
    return rng.uniform(0.4, 0.6) + 0.035 * _noise(rng, size, 0.8) + 0.03 * _noise(rng, size, 2.0)


def _mottled(rng: np.random.Generator, size: int) -> np.ndarray:
    """Ceramic or ferrite: soft clouds over fine grain."""
    clouds = 0.045 * _noise(rng, size, size / 10) + 0.025 * _noise(rng, size, size / 25)
    return rng.uniform(0.4, 0.6) + clouds + 0.02 * _noise(rng, size, 0.6)


def _woven(rng: np.random.Generator, size: int) -> np.ndarray:
    """A regular weave or milling pattern, slightly bent."""
    y, x = np.mgrid[0:size, 0:size].astype(float)
    bend = 0.7 * _noise(rng, size, size / 6)
    period, angle = rng.uniform(6, 9), rng.uniform(0, np.pi)
    along = np.cos(angle) * x + np.sin(angle) * y
    across = np.cos(angle) * y - np.sin(angle) * x
    waves = np.sin(2 * np.pi * along / period + bend) + 0.6 * np.sin(2 * np.pi * across / period + bend)
    return rng.uniform(0.45, 0.6) + 0.03 * waves + 0.02 * _noise(rng, size, 0.8)


TEXTURES: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "brushed": _brushed,
    "grainy": _grainy,
    "mottled": _mottled,
    "woven": _woven,
}
"""The textures, by name: (generator, size) to a field (size, size) around 0.5."""


def _light(rng: np.random.Generator, size: int) -> np.ndarray:
    """Uneven light: a gradient over the picture, and its level."""
    y, x = np.mgrid[0:size, 0:size] / size - 0.5
    angle = rng.uniform(0, 2 * np.pi)
    return rng.uniform(0.85, 1.15) + rng.uniform(0.1, 0.35) * (np.cos(angle) * x + np.sin(angle) * y)


def _crack(rng: np.random.Generator, size: int) -> np.ndarray:
    """A random walk of slowly turning direction with thinner branches; sometimes two."""
    canvas = _Canvas(size)
    for _ in range(rng.integers(1, 3)):
        _walk(
            rng,
            canvas,
            rng.uniform(0.2, 0.8, 2) * size,
            rng.uniform(0, 2 * np.pi),
            size * rng.uniform(0.5, 0.9),
            1,
        )
    return canvas.coverage(0.35)


def _walk(
    rng: np.random.Generator, canvas: "_Canvas", start: np.ndarray, angle: float, length: float, depth: int
) -> None:
    width, step = rng.uniform(2.0, 4.0) * (1.0 if depth else 0.6), 2.0
    points = [start]
    for count in range(int(length / step)):
        angle += rng.normal(0, 0.35)
        points.append(points[-1] + step * np.array([np.cos(angle), np.sin(angle)]))
        if depth and count > 5 and rng.random() < 0.04:
            _walk(
                rng,
                canvas,
                points[-1],
                angle + rng.choice([-1, 1]) * rng.uniform(0.5, 1.1),
                length / 3,
                depth - 1,
            )
    thinning = np.linspace(1, 0.5, len(points))
    for before, after, share in zip(points, points[1:], thinning, strict=False):
        canvas.line(before, after, width * share)


def _spot(rng: np.random.Generator, size: int) -> np.ndarray:
    """One to four blots of uneven outline."""
    canvas = _Canvas(size)
    for _ in range(rng.integers(1, 5)):
        centre, radius = rng.uniform(0.12, 0.88, 2) * size, size * rng.uniform(0.03, 0.085)
        turns = np.linspace(0, 2 * np.pi, 40, endpoint=False)
        waves = np.zeros_like(turns)
        for k in (2, 3, 4, 5):
            waves += rng.normal(0, 0.16 / k) * np.cos(k * turns + rng.uniform(0, 6.3))
        stretch = np.array([rng.uniform(0.7, 1.4), 1.0])
        outline = np.stack([np.cos(turns), np.sin(turns)], 1) * (radius * (1 + waves))[:, None] * stretch
        canvas.polygon(centre + outline)
    return canvas.coverage(0.8)


def _scratch(rng: np.random.Generator, size: int) -> np.ndarray:
    """One to three straight, slightly bowed strokes that run out at both ends."""
    canvas = _Canvas(size)
    angle = rng.uniform(0, np.pi)
    for _ in range(rng.integers(1, 4)):
        centre, reach = rng.uniform(0.2, 0.8, 2) * size, size * rng.uniform(0.15, 0.4)
        tilt, bow, width = angle + rng.normal(0, 0.15), rng.normal(0, 0.06) * size, rng.uniform(1.8, 3.4)
        t = np.linspace(-1, 1, 25)
        along, across = np.array([np.cos(tilt), np.sin(tilt)]), np.array([-np.sin(tilt), np.cos(tilt)])
        points = centre + reach * t[:, None] * along + (bow * t**2)[:, None] * across
        for before, after, at in zip(points, points[1:], t, strict=False):
            canvas.line(before, after, width * (1 - 0.5 * abs(at)))
    return canvas.coverage(0.4)


_SHAPES: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "crack": _crack,
    "spot": _spot,
    "scratch": _scratch,
}


class _Canvas:
    """Shapes drawn finer than the picture, so that their edges come out smooth."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._image = Image.new("L", (size * _OVERSAMPLING, size * _OVERSAMPLING))
        self._draw = ImageDraw.Draw(self._image)

    def line(self, start: np.ndarray, end: np.ndarray, width: float) -> None:
        """Draw a stroke of the given width with round ends, px."""
        (x0, y0), (x1, y1), radius = start * _OVERSAMPLING, end * _OVERSAMPLING, width * _OVERSAMPLING / 2
        self._draw.line((x0, y0, x1, y1), fill=255, width=max(1, round(2 * radius)))
        self._draw.ellipse((x1 - radius, y1 - radius, x1 + radius, y1 + radius), fill=255)

    def polygon(self, points: np.ndarray) -> None:
        """Fill an outline, px (N, 2)."""
        self._draw.polygon([tuple(p) for p in points * _OVERSAMPLING], fill=255)

    def coverage(self, softness: float) -> np.ndarray:
        """Return the covered share per pixel in [0, 1], the edges blurred by `softness` px."""
        soft = self._image.filter(ImageFilter.GaussianBlur(softness * _OVERSAMPLING))
        return np.asarray(soft.resize((self._size, self._size), Image.Resampling.BOX), float) / 255
