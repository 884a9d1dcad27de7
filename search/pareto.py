"""Non-dominated sorting, crowding distance and hypervolume. All objectives are minimised.

Source: Deb et al., "A fast and elitist multiobjective genetic algorithm: NSGA-II", IEEE TEC 2002, Sec. III. Equal
points are no reason to leave the front: a point is dominated by one that is nowhere worse and somewhere better.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

Points = NDArray[np.float64]
"""Objectives, (points, objectives)."""


def first_front(points: ArrayLike) -> list[int]:
    """Return the rising indices of the points that none dominates; memory grows with the points, not their square."""
    values = np.asarray(points, dtype=np.float64)
    # In lexical order a point is dominated only by one before it: the first that is left is of the front.
    left = np.lexsort(values.T[::-1]) if values.size else np.arange(0)
    front: list[int] = []
    while left.size:
        best, others = values[left[0]], values[left]
        equal = (others == best).all(1)
        # Also where an objective is not a number, which nothing equals or dominates.
        equal[0] = True
        front += left[equal].tolist()
        left = left[~(equal | (others >= best).all(1))]
    return sorted(front)


def non_dominated_sort(points: ArrayLike) -> list[list[int]]:
    """Return the fronts, best first, as rising indices into the points."""
    values = np.asarray(points, dtype=np.float64)
    left = np.arange(len(values))
    fronts = []
    while left.size:
        chosen = first_front(values[left])
        fronts.append(left[chosen].tolist())
        left = np.delete(left, chosen)
    return fronts


def crowding_distance(points: ArrayLike) -> Points:
    """Return for each point of one front the sum over the objectives of its neighbours' distance.

    Distances are relative to the front's extent; the first and the last point of an objective get infinity.
    """
    values = np.asarray(points, dtype=np.float64)
    count, objectives = values.shape
    distance = np.zeros(count)
    for k in range(objectives):
        order = np.argsort(values[:, k], kind="stable")
        ranked = values[order, k]
        extent = ranked[-1] - ranked[0]
        distance[order[[0, -1]]] = np.inf
        if extent > 0:
            distance[order[1:-1]] += (ranked[2:] - ranked[:-2]) / extent
    return distance


def select(points: ArrayLike, count: int) -> list[int]:
    """Return the indices of the `count` best: whole fronts, then the least crowded of the one that does not fit.

    They come best first: by front, within a front by falling crowding distance, ties by index.
    """
    values = np.asarray(points, dtype=np.float64)
    chosen: list[int] = []
    for front in non_dominated_sort(values):
        distance = crowding_distance(values[front])
        ranked = sorted(range(len(front)), key=lambda i, d=distance: (-d[i], i))  # type: ignore[misc]
        chosen += [front[i] for i in ranked]
        if len(chosen) >= count:
            break
    return chosen[:count]


def hypervolume(points: ArrayLike, reference: ArrayLike) -> float:
    """Return the volume that the points dominate up to a reference point; exact, any number of objectives.

    The points are cut into slabs along the last objective, and each slab is a problem with one objective less.
    """
    values, limit = np.asarray(points, dtype=np.float64), np.asarray(reference, dtype=np.float64)
    if not values.size:
        return 0.0
    return _volume(values[(values < limit).all(1)], limit)


def _volume(values: Points, limit: Points) -> float:
    if not len(values):
        return 0.0
    if len(limit) == 1:
        return float(limit[0] - values.min())
    if len(limit) == 2:
        ordered = values[np.lexsort((values[:, 1], values[:, 0]))]
        lowest = np.minimum.accumulate(ordered[:, 1])
        ends = np.append(ordered[1:, 0], limit[0])
        return float(((ends - ordered[:, 0]) * (limit[1] - lowest)).sum())
    ordered = values[np.argsort(values[:, -1], kind="stable")]
    heights = np.diff(np.append(ordered[:, -1], limit[-1]))
    slabs = (_volume(ordered[: i + 1, :-1], limit[:-1]) * h for i, h in enumerate(heights) if h > 0)
    return float(sum(slabs))
