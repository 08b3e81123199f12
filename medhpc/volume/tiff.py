"""TIFF: one page or many, BigTIFF, ImageJ, OME, tiled, compressed, pyramids."""

from __future__ import annotations

import itertools
import logging
import math
import os
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from medhpc.errors import BadOption, BrokenFile, NotAVolume
from medhpc.volume.arrays import ArraySource
from medhpc.volume.base import Header
from medhpc.volume.layout import Layout, check_not_empty
from medhpc.volume.raw import RawPlanes, contiguous
from medhpc.volume.tiff_directories import check_directories
from medhpc.volume.tiff_metadata import voxel_size_of

# It logs what it stumbles over in a damaged file; our error says so in one line.
logging.getLogger("tifffile").setLevel(logging.CRITICAL)

_IN_COLOUR = (tifffile.PHOTOMETRIC.RGB, tifffile.PHOTOMETRIC.YCBCR)
_JPEG = {6, 7, 33007, 34892}


def open_tiff(path: Path, *, level: int = 0, one_plane: bool = False) -> ArraySource:
    """Open the first image of a TIFF file.

    Parameters
    ----------
    level : int
        Level of its pyramid.
    one_plane : bool
        The file is one plane of a folder, even if its OME metadata speak of the other files.
    """
    check_directories(path)
    with ExitStack() as files:
        tif = files.enter_context(tifffile.TiffFile(path, is_ome=False if one_plane else None))
        series = _image_of(tif)
        if not 0 <= level < len(series.levels):
            raise BadOption(f"level {level}, expected 0 to {len(series.levels) - 1}")
        image = series.levels[level]
        layout = _layout_of(image)
        array, chunks, why_expensive = _array_of(path, tif, image, layout)
        files.callback(array.close)
        voxel_size, unit = voxel_size_of(tif, series, layout.shape)
        header = Header(
            format=_format_of(tif, series),
            shape=layout.shape,
            channels=layout.channels,
            are_colours=_are_colours(image, layout),
            dtype=np.dtype(image.keyframe.dtype),
            voxel_size=_at_level(voxel_size, series, image),
            unit=unit,
            chunks=chunks,
            why_expensive=why_expensive,
            levels=len(series.levels),
        )
        return ArraySource(header, layout, array, [path], files.pop_all().close)


def _image_of(tif: tifffile.TiffFile) -> tifffile.TiffPageSeries:
    if not tif.series:
        raise BrokenFile("a TIFF without an image")
    series = tif.series[0]
    check_not_empty(series.shape)
    if series.is_multifile:
        raise NotAVolume("an OME-TIFF spread over several files; give the folder that holds them")
    if series.keyframe.dtype is None:
        raise NotAVolume(f"{series.keyframe.bitspersample} bit samples, expected 8, 16, 32 or 64")
    return series


def _format_of(tif: tifffile.TiffFile, series: tifffile.TiffPageSeries) -> str:
    names = {"imagej": "ImageJ TIFF", "ome": "OME-TIFF", "svs": "Aperio SVS"}
    name = names.get(series.kind, "TIFF")
    kind = f"{name} (BigTIFF)" if tif.is_bigtiff else name
    return f"{kind}, image 1 of {len(tif.series)}" if len(tif.series) > 1 else kind


def _layout_of(image: tifffile.TiffPageSeries) -> Layout:
    """Axes of the array of pages: those that count the pages, then sample plane, depth, row, column, sample.

    Within a page, tifffile speaks of five axes always: samples lie in planes of their own, or beside each other.
    """
    separate, depth, height, width, samples = image.keyframe.shaped
    pages = math.prod(image.shape) // math.prod(image.keyframe.shape)
    counting = next(n for n in range(len(image.shape) + 1) if math.prod(image.shape[:n]) == pages)
    names = list(image.axes[:counting])
    unnamed = [n for n, name in enumerate(names) if name in "QI" and image.shape[n] > 1]
    if len(unnamed) == 2:
        shorter = min(unnamed, key=lambda n: image.shape[n])
        names = ["C" if n == shorter else "Z" if n in unnamed else name for n, name in enumerate(names)]
    in_page = "".join(["S" if separate > 1 else "_", "Z" if depth > 1 else "_", "YX", "S" if samples > 1 else "_"])
    stored = (*image.shape[:counting], separate, depth, height, width, samples)
    return Layout.named("".join(names) + in_page, stored)


def _array_of(
    path: Path, tif: tifffile.TiffFile, image: tifffile.TiffPageSeries, layout: Layout
) -> tuple[RawPlanes | Segments, tuple[int, int, int] | None, str]:
    """Give the array, its chunks, and why boxes of it are expensive."""
    page = image.keyframe
    dtype = np.dtype(page.dtype).newbyteorder(tif.byteorder)
    if image.dataoffset is not None or page.is_contiguous:
        offset = _page_offsets(image, layout, dtype)
        _check_length(path, offset(math.prod(layout.stored[:-3]) - 1), layout, dtype)
        return RawPlanes(path, layout.stored, dtype, offset), None, ""
    if not page.is_tiled and page.imagedepth > 1:
        raise NotAVolume("compressed strips of volumetric pages; save it as ordinary pages")
    segments = Segments(path, image, layout.stored)
    chunks = (
        (page.tiledepth, page.tilelength, page.tilewidth) if page.is_tiled else (1, page.rowsperstrip, page.imagewidth)
    )
    cz, cy, cx = (min(c, n) for c, n in zip(chunks, layout.shape, strict=True))
    why = "" if page.is_tiled else "compressed strips, each decoded whole"
    return segments, (cz, cy, cx), why


def _are_colours(image: tifffile.TiffPageSeries, layout: Layout) -> bool:
    """Whether the channels are the samples of pixels in colour; YCbCr is decoded to that."""
    page = image.keyframe
    return page.photometric in _IN_COLOUR and page.samplesperpixel == layout.channels and layout.channels in (3, 4)


def _page_offsets(image: tifffile.TiffPageSeries, layout: Layout, dtype: np.dtype[Any]) -> Callable[[int], int]:
    """Offset of plane n, where planes follow each other within a page but pages may lie anywhere."""
    if image.dataoffset is not None:
        return contiguous(image.dataoffset, layout.stored, dtype)
    per_page = math.prod(image.keyframe.shaped[:2])
    size = math.prod(layout.stored[-3:]) * dtype.itemsize
    pages = [_page(image, n).dataoffsets[0] for n in range(math.prod(layout.stored[:-5]))]
    return lambda number: pages[number // per_page] + number % per_page * size


def _check_length(path: Path, last: int, layout: Layout, dtype: np.dtype[Any]) -> None:
    needed = last + math.prod(layout.stored[-3:]) * dtype.itemsize
    if (got := path.stat().st_size) < needed:
        raise BrokenFile(f"cut short: {got} bytes, expected at least {needed}; copy it again")


def _page(image: tifffile.TiffPageSeries, number: int) -> tifffile.TiffPage | tifffile.TiffFrame:
    page = image.pages[number]
    if page is None:
        raise BrokenFile(f"page {number} is missing")
    return page


def _at_level(
    voxel_size: tuple[float, float, float] | None, series: tifffile.TiffPageSeries, image: tifffile.TiffPageSeries
) -> tuple[float, float, float] | None:
    """Voxel size of a level of the pyramid: as much larger as its planes have fewer voxels."""
    if voxel_size is None:
        return None
    full, here = series.keyframe, image.keyframe
    z, y, x = voxel_size
    return z, y * full.imagelength / here.imagelength, x * full.imagewidth / here.imagewidth


class Segments:
    """Pages in tiles or strips, compressed or of odd bit depth; a box decodes those that it meets.

    Pages have five axes: sample plane, depth, row, column, sample.
    """

    def __init__(self, path: Path, image: tifffile.TiffPageSeries, shape: tuple[int, ...]) -> None:
        page = image.keyframe
        self._image, self._page = image, page
        self._shape = shape
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115 (open as long as the volume is)
        self._lock = threading.Lock()
        strip = (1, page.rowsperstrip, page.imagewidth)
        self._chunk = (page.tiledepth, page.tilelength, page.tilewidth) if page.is_tiled else strip
        self._counts = tuple(-(-n // c) for n, c in zip(page.shaped[1:4], self._chunk, strict=True))

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __getitem__(self, index: tuple[slice, ...]) -> np.ndarray[Any, Any]:
        out = np.zeros([part.stop - part.start for part in index], self._page.dtype)
        leading = self._shape[:-5]
        places = itertools.product(*(range(part.start, part.stop) for part in index[:-5]))
        for target, place in zip(out.reshape(-1, *out.shape[-5:]), places, strict=True):
            number = int(np.ravel_multi_index(place, leading)) if leading else 0
            self._read_page(number, index[-5:], target)
        return out

    def _read_page(self, number: int, index: tuple[slice, ...], target: np.ndarray[Any, Any]) -> None:
        with self._lock:  # tifffile reads the page's directory by seeking in the one file that it has
            page = _page(self._image, number)
            offsets, sizes = page.dataoffsets, page.databytecounts
            tables = {"jpegtables": page.jpegtables, "jpegheader": self._page.jpegheader}
        options = tables if self._page.compression in _JPEG else {}
        for segment in self._meeting(index):
            data = self._encoded(offsets[segment], sizes[segment])
            decoded, place, shape = self._page.decode(data, segment, _fullsize=self._page.is_tiled, **options)
            if decoded is not None:
                _copy_common(decoded, place, shape, index, target)

    def _encoded(self, offset: int, size: int) -> bytes | None:
        """Bytes of a segment; None where it was left out because it is empty."""
        data = os.pread(self._file.fileno(), size, offset)
        if len(data) < size:  # some decoders would fill the rest with zeros
            raise BrokenFile(f"cut short: ends at byte {offset + len(data)}, expected {size - len(data)} bytes more")
        return data or None

    def _meeting(self, index: tuple[slice, ...]) -> list[int]:
        """Numbers of the segments that hold voxels of the box."""
        ranges = [range(index[0].start, index[0].stop)]
        for part, chunk in zip(index[1:4], self._chunk, strict=True):
            ranges.append(range(part.start // chunk, -(-part.stop // chunk)))
        grid = (self._page.shaped[0], *self._counts)
        return [int(np.ravel_multi_index(place, grid)) for place in itertools.product(*ranges)]


def _copy_common(
    decoded: np.ndarray[Any, Any],
    place: tuple[int, ...],
    shape: tuple[int, ...],
    index: tuple[slice, ...],
    target: np.ndarray[Any, Any],
) -> None:
    """Copy what a decoded segment and the box have in common.

    `place` is the corner of the segment (sample plane, depth, row, column, sample), `shape` its valid part without the
    sample plane; tiles at the border are padded beyond it.
    """
    segment = decoded.reshape(1, *decoded.shape)
    start, stop = [], []
    for low, length, part in zip(place, (1, *shape), index, strict=True):
        start.append(max(low, part.start))
        stop.append(min(low + length, part.stop))
    from_segment = tuple(slice(a - low, b - low) for a, b, low in zip(start, stop, place, strict=True))
    to_target = tuple(slice(a - part.start, b - part.start) for a, b, part in zip(start, stop, index, strict=True))
    target[to_target] = segment[from_segment]
