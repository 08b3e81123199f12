"""A light-sheet volume that never was: cells of known place and shape, and all that makes real ones hard to find.

The image is built as the microscope would: fluorophores (cells, and a tissue that glows by itself), lit by a sheet that
comes along x and throws shadows, blurred by the objective, counted as photons, read by a camera.
"""

from __future__ import annotations

import csv
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medhpc.geometry import Index

VOXEL_SIZE_UM = (2.0, 1.0, 1.0)
PSF_SIGMA_UM = (3.2, 1.0, 1.0)
CAMERA_OFFSET, READ_NOISE, COUNTS_PER_PHOTON = 100.0, 6.0, 4.0

Floats = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class DemoFiles:
    """What :func:`write_demo` wrote: the volume, its instance labels, and the centres of its cells."""

    volume: Path
    labels: Path
    centres: Path


def write_demo(folder: str | Path, shape: Index = (192, 384, 384), cells: int = 860, seed: int = 0) -> DemoFiles:
    """Make a light-sheet volume and write volume.tif, labels.tif and centres.csv into `folder`.

    The table has the columns z,y,x (voxels) and z_um,y_um,x_um. See :func:`make_light_sheet` for the parameters.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    files = DemoFiles(volume=folder / "volume.tif", labels=folder / "labels.tif", centres=folder / "centres.csv")
    volume, labels, centres = make_light_sheet(shape, cells, seed)
    _write_volume(files.volume, volume)
    _write_volume(files.labels, labels, labels=True)
    _write_centres(files.centres, centres)
    return files


def make_light_sheet(
    shape: Index = (192, 384, 384), cells: int = 860, seed: int = 0
) -> tuple[NDArray[np.uint16], NDArray[np.uint16], NDArray[np.float64]]:
    """Make a light-sheet volume of cells with voxels of 2 x 1 x 1 micrometres.

    Parameters
    ----------
    shape : (z, y, x)
        Voxels.
    cells : int
        Cells to place; a few less where the volume has no room for them. A quarter of them touch a neighbour.
    seed : int
        Of the random numbers; the same seed makes the same volume.

    Returns
    -------
    volume : ndarray of uint16 (z, y, x)
        The image, in camera counts.
    labels : ndarray of uint16 (z, y, x)
        1, 2, ... in the voxels of each cell, 0 elsewhere.
    centres : ndarray of float64, shape (cells, 3)
        Centroid of label 1, 2, ..., in voxels.
    """
    rng = np.random.default_rng(seed)
    centres, radii = _place_cells(rng, shape, cells)
    labels, glow = _draw_cells(rng, shape, centres, radii)
    photons = _blur(glow + _tissue(rng, shape), PSF_SIGMA_UM) * _light(rng, shape)
    return _camera(rng, photons), labels, _centroids(labels)


# --- cells ---------------------------------------------------------------------------------------


def _place_cells(rng: np.random.Generator, shape: Index, cells: int) -> tuple[NDArray, NDArray]:
    """Centres and radii in micrometres; three quarters anywhere, one quarter beside a cell that is there."""
    size = np.multiply(shape, VOXEL_SIZE_UM)
    centres, radii = np.empty((0, 3)), np.empty(0)
    for _ in range(20 * cells):
        if len(centres) == cells:
            break
        radius = np.clip(rng.normal(6.5, 1.3), 4, 10)
        centre = rng.uniform(0, size)
        if len(centres) and rng.random() < 0.25:
            neighbour = rng.integers(len(centres))
            centre = centres[neighbour] + 0.95 * (radius + radii[neighbour]) * _direction(rng)
        apart = np.linalg.norm(centres - centre, axis=1) > 0.9 * (radii + radius)
        if apart.all() and (centre >= 2).all() and (centre <= size - 2).all():
            centres, radii = np.vstack([centres, centre]), np.append(radii, radius)
    return centres, radii


def _draw_cells(rng: np.random.Generator, shape: Index, centres: NDArray, radii: NDArray) -> tuple[NDArray, Floats]:
    """Labels, and photons that the cells send; where two would overlap, a voxel is of the cell it lies deeper in."""
    labels, glow = np.zeros(shape, np.uint16), np.zeros(shape, np.float32)
    depth = np.ones(shape, np.float32)
    for label, (centre, radius) in enumerate(zip(centres, radii, strict=True), 1):
        low = np.maximum(0, np.floor((centre - 1.8 * radius) / VOXEL_SIZE_UM)).astype(int)
        high = np.minimum(shape, np.ceil((centre + 1.8 * radius) / VOXEL_SIZE_UM).astype(int) + 1)
        box = tuple(map(slice, low, high))
        axes = [np.arange(a, b) * size - c for a, b, size, c in zip(low, high, VOXEL_SIZE_UM, centre, strict=True)]
        offset = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
        distance = _deformed_distance(rng, offset, radius)
        inside = distance < depth[box]
        depth[box][inside], labels[box][inside] = distance[inside], label
        brightness = np.clip(rng.lognormal(np.log(150), 0.5), 60, 500)
        glow[box][inside] = (brightness * _texture(rng, offset, radius))[inside]
    return labels, glow


def _deformed_distance(rng: np.random.Generator, offset: NDArray, radius: float) -> Floats:
    """Distance from the centre of a dented ellipsoid in any position, in units of its surface (1)."""
    rotation, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    axes = radius * rng.uniform(0.75, 1.3, 3)
    scaled = offset @ rotation / axes
    distance = np.linalg.norm(scaled, axis=-1)
    direction = scaled / np.maximum(distance, 1e-6)[..., np.newaxis]
    waves = [np.sin(direction @ rng.normal(0, 2.2, 3) + rng.uniform(0, 2 * np.pi)) for _ in range(3)]
    return (distance / (1 + 0.09 * np.sum(waves, axis=0))).astype(np.float32)


def _texture(rng: np.random.Generator, offset: NDArray, radius: float) -> NDArray:
    """Chromatin: brighter and darker parts of a cell, around 1."""
    waves = [np.sin(offset @ (_direction(rng) * 4 / radius) + rng.uniform(0, 2 * np.pi)) for _ in range(3)]
    return 1 + 0.18 * np.sum(waves, axis=0)


def _direction(rng: np.random.Generator) -> NDArray:
    vector = rng.normal(size=3)
    return vector / np.linalg.norm(vector)


def _centroids(labels: NDArray) -> NDArray[np.float64]:
    places = np.nonzero(labels)
    label = labels[places]
    counts = np.bincount(label)[1:]
    return np.stack([np.bincount(label, weights=along)[1:] / counts for along in places], axis=1)


# --- tissue, light and camera --------------------------------------------------------------------


def _tissue(rng: np.random.Generator, shape: Index) -> Floats:
    """Photons of the tissue itself: glowing regions, a bright rim, fine grain, and dark vessels."""
    regions = 38 * np.exp(0.6 * _smooth_noise(rng, shape, 70))
    rim = 90 * np.exp(-np.arange(shape[1], dtype=np.float32) / 22)[:, np.newaxis]
    grain = 1 + 0.12 * _smooth_noise(rng, shape, 5)
    vessels = 1 / (1 + np.exp(12 * (1.9 - np.abs(_smooth_noise(rng, shape, 26)))))
    return ((regions + rim) * np.maximum(grain, 0) * (1 - 0.6 * vessels)).astype(np.float32)


def _light(rng: np.random.Generator, shape: Index) -> Floats:
    """The sheet comes along x: it fades, its stripes run through whole rows, and what absorbs it throws a shadow."""
    nz, ny, nx = shape
    fading = np.exp(-np.arange(nx, dtype=np.float32) / (2.2 * nx))
    stripes = 1 + 0.07 * _smooth_noise(rng, (nz, ny, 1), 2.5)
    light = stripes * fading
    z, y = np.ogrid[:nz, :ny]
    for _ in range(nz * ny // 400):
        z0, y0, x0 = (rng.uniform(0, n) for n in shape)
        profile = np.exp(-(((z - z0) / rng.uniform(0.6, 1.5)) ** 2) - ((y - y0) / rng.uniform(1, 4)) ** 2)
        rows = profile > 0.01
        light[rows, int(x0) :] *= (1 - rng.uniform(0.1, 0.45) * profile[rows])[:, np.newaxis]
    return light.astype(np.float32)


def _camera(rng: np.random.Generator, photons: Floats) -> NDArray[np.uint16]:
    """Count photons with shot noise; add the offset and the read noise of the camera."""
    counts = rng.poisson(photons).astype(np.float32)
    counts *= COUNTS_PER_PHOTON
    counts += CAMERA_OFFSET + READ_NOISE * rng.standard_normal(photons.shape, np.float32)
    return np.clip(np.rint(counts), 0, 65535).astype(np.uint16)


def _blur(image: Floats, sigma_um: tuple[float, float, float]) -> Floats:
    from scipy.ndimage import gaussian_filter

    return gaussian_filter(image, np.divide(sigma_um, VOXEL_SIZE_UM), mode="nearest")


def _smooth_noise(rng: np.random.Generator, shape: Index, length_um: float) -> Floats:
    """Gaussian noise of mean 0 and deviation 1 that changes over about `length_um`; drawn coarse, then interpolated."""
    from scipy.ndimage import gaussian_filter

    step = [min(float(n), max(1.0, length_um / 3 / size)) for n, size in zip(shape, VOXEL_SIZE_UM, strict=True)]
    coarse = rng.standard_normal([int(n / s) + 2 for n, s in zip(shape, step, strict=True)], np.float32)
    sigma = [length_um / 2 / size / s for size, s in zip(VOXEL_SIZE_UM, step, strict=True)]
    coarse = gaussian_filter(coarse, sigma, mode="wrap")
    coarse = (coarse - coarse.mean()) / coarse.std()
    for axis, (n, s) in enumerate(zip(shape, step, strict=True)):
        coarse = _stretch(coarse, axis, np.arange(n) / s)
    return coarse


def _stretch(image: Floats, axis: int, places: NDArray) -> Floats:
    """Interpolate linearly along one axis, at places between 0 and the last voxel but one."""
    low = places.astype(int)
    weight = (places - low).astype(np.float32).reshape([-1 if a == axis else 1 for a in range(image.ndim)])
    return np.take(image, low, axis) * (1 - weight) + np.take(image, low + 1, axis) * weight


# --- files ---------------------------------------------------------------------------------------


def _write_volume(path: Path, array: NDArray, labels: bool = False) -> None:
    from medhpc.volume import create_volume

    z, y, x = array.shape
    with create_volume(path, (z, y, x), array.dtype, voxel_size=VOXEL_SIZE_UM, unit="um", labels=labels) as writer:
        writer.write(0, array)


def _write_centres(path: Path, centres: NDArray[np.float64]) -> None:
    rows = np.hstack([centres, centres * VOXEL_SIZE_UM])
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    with aside.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["z", "y", "x", "z_um", "y_um", "x_um"])
        table.writerows([f"{value:.3f}" for value in row] for row in rows)
    aside.replace(path)
