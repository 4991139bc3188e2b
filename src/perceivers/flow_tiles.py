"""Optical flow of image pairs of any size, tile by tile, and the picture of it [official optical flow notebook]."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from perceivers.errors import DataError, ModelError, missing_extra
from perceivers.inputs.decode import read_image
from perceivers.models.model import Model
from perceivers.models.weights import load

OVERLAP = 20  # pixels that two tiles share at least; of smaller tiles half of a side
Advance = Callable[[str, int, int], None]


def optical_flow(
    model: "str | Path | Model", first: Any, second: Any, device: str = "cpu", advance: Advance | None = None
) -> np.ndarray:
    """(H, W, 2) float32: pixels to the right and down that each pixel of `first` moved until `second`.

    model: one whose only input is an `image_pair` and whose output is a `flow`, or its directory. first, second: paths,
    bytes or arrays (H, W, C) of one size, 0–255. Larger images than the model's are cut into tiles that overlap by 20
    pixels or more (those of less than 40 by half of their side); where tiles overlap, each counts by the distance to
    its own edge. A side shorter than the tile's is filled up with its last pixels, whose flow is cut off again. Raises
    `DataError` and `ModelError`.
    """
    model = model if isinstance(model, Model) else load(model, device)
    kind, output = _settings(model)
    images = [read_image(image, kind.channels) for image in (first, second)]
    if images[0].shape != images[1].shape:
        raise DataError(f"the two images have the shapes {images[0].shape} and {images[1].shape}; wanted one size.")
    height, width = images[0].shape[:2]
    filled = [_filled(image, kind.size) for image in images]
    corners = tiles(filled[0].shape[0], filled[0].shape[1], kind.size)
    (name,) = model.spec.inputs
    total, weights = np.zeros((*filled[0].shape[:2], 2)), np.zeros((*filled[0].shape[:2], 1))
    weight = edge_distance(kind.size)[..., None]
    for done, ((top, left), times) in enumerate(corners.items()):
        if advance is not None:
            advance("tiles", done, len(corners))
        place = slice(top, top + kind.size[0]), slice(left, left + kind.size[1])
        with torch.no_grad():
            flow = model({name: [image[place] for image in filled]})[output][0]
        total[place] += times * weight * flow.float().cpu().numpy()
        weights[place] += times * weight
    if advance is not None:
        advance("tiles", len(corners), len(corners))
    return (total / weights)[:height, :width].astype(np.float32)


def tiles(height: int, width: int, size: tuple[int, int]) -> Counter[tuple[int, int]]:
    """Top left corners of the tiles that cover an image no smaller than one, and how often each counts.

    Steps of the tile's side less the overlap, moved back to the edge where they would go beyond: where that is
    another's place, that tile counts twice. The notebook moves the last of an axis only, so it reads fewer sizes.
    """
    rows, columns = (
        [min(start, whole - tile) for start in range(0, whole, tile - min(OVERLAP, tile // 2))]
        for whole, tile in ((height, size[0]), (width, size[1]))
    )
    return Counter((row, column) for row in rows for column in columns)


def edge_distance(size: tuple[int, int]) -> np.ndarray:
    """(H, W): of each pixel the smaller of its distances to the edges of both axes, 1 at an edge."""
    rows, columns = (np.minimum(np.arange(n) + 1, n - np.arange(n)) for n in size)
    return np.minimum(rows[:, None], columns[None, :]).astype(np.float64)


def flow_picture(flow: np.ndarray, most: float | None = None) -> np.ndarray:
    """(H, W, 3) uint8: the colour wheel. The hue is the direction, the saturation the length; white does not move.

    most: pixels of full saturation; None: the longest there is. Unknown flow (NaN) is black.
    """
    try:
        from matplotlib.colors import hsv_to_rgb
    except ModuleNotFoundError as error:
        raise missing_extra(error.name or "matplotlib", "train", "pictures") from None

    known = np.isfinite(flow).all(-1)
    right, down = np.where(known, flow[..., 0], 0.0), np.where(known, flow[..., 1], 0.0)
    length = np.hypot(right, down)
    full = most or max(float(length.max(initial=0.0)), 1e-9)
    hue = (np.arctan2(down, right) / (2 * np.pi)) % 1.0
    colours = hsv_to_rgb(np.stack([hue, np.minimum(length / full, 1.0), known.astype(float)], axis=-1))
    return np.rint(255 * colours).astype(np.uint8)


def _settings(model: Model) -> tuple[Any, str]:
    inputs, outputs = list(model.spec.inputs.values()), model.spec.outputs
    flows = [name for name, kind in outputs.items() if kind.kind == "flow"]
    if len(inputs) != 1 or inputs[0].kind != "image_pair" or len(flows) != 1 or len(outputs) != 1:
        raise ModelError(
            "optical flow wants a model whose only input is an image_pair and whose only output is a flow, such as the "
            "preset perceiver-io-flow."
        )
    return inputs[0], flows[0]


def _filled(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    missing = [max(wanted - given, 0) for wanted, given in zip(size, image.shape, strict=False)]
    return np.pad(image, [(0, missing[0]), (0, missing[1]), (0, 0)], mode="edge")
