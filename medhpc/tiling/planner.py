"""What a plan decides by measuring: the halo, the tile, and whether planes stream."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from medhpc import engine as engines
from medhpc.errors import BadOption
from medhpc.geometry import Box, Grid, Index
from medhpc.run.blocks import normalize as normalized
from medhpc.run.blocks import read_block
from medhpc.run.parts import SMALLEST, halve
from medhpc.run.plan import Blend, Cost, Halo, Stored, Sweep
from medhpc.tiling.choices import spatial
from medhpc.tiling.halo import HaloProbe, choose_halo, exact_halo
from medhpc.tiling.schemes import Sweeping, Way, boxes, choose_scheme, why_no_sweep
from medhpc.tiling.size import choose_tile
from medhpc.volume import Volume


@dataclass(frozen=True, kw_only=True)
class Planner:
    """What the measurements need: a network that runs, and a volume that can be read in boxes."""

    volume: Volume
    engine: engines.Engine
    region: Box
    nan: str
    normalization: Any

    def halo(
        self, halo: str | int, tolerance: float | None, size: Index | None, cost: Cost, blend: Blend, kind: str
    ) -> Halo:
        """The halo that was asked for, with what is known of its error."""
        if blend.mode != "none":
            return Halo(size=(0, 0, 0), how="none", tolerance=tolerance or 0.0, note="windows are blended")
        whole = Box.whole(self.volume.shape)
        alone = self.tile(exact_halo(self.engine.network, 0), cost, blend) if size is None else size
        radius = self.engine.network.receptive_radius
        if self.region == whole and alone == whole.shape and whole.size <= cost.block_voxels and radius is not None:
            # Clipped at the borders, the halo costs nothing here; it counts where memory runs out all the same.
            reach = -(-max(radius) // max(self.engine.network.stride)) * max(self.engine.network.stride)
            return exact_halo(self.engine.network, reach, note="one tile holds the whole volume: there is no seam")

        def probe(budget: float) -> HaloProbe:
            return HaloProbe(
                self.engine,
                self.read,
                self.volume.shape,
                self.region,
                kind="raw" if kind == "raw" else "classes",
                seconds_per_voxel=cost.seconds_per_voxel,
                budget=budget,
            )

        return choose_halo(halo, tolerance, self.engine.network, probe)

    def tile(self, halo: Halo, cost: Cost, blend: Blend) -> Index:
        """The tile that reads the fewest voxels twice."""
        margin = (
            halo.size if blend.mode == "none" else tuple(w - s for w, s in zip(blend.window, blend.step, strict=True))
        )
        return choose_tile(
            self.volume.shape,
            self.region,
            (margin[0], margin[1], margin[2]),
            block_voxels=cost.block_voxels,
            seconds_per_voxel=cost.seconds_per_voxel,
        )

    def way(
        self,
        scheme: str,
        exact: bool,
        ranks: int,
        halo: Halo,
        size: Index | None,
        cost: Cost,
        blend: Blend,
        stored: Stored,
    ) -> Way:
        """Boxes, or columns: what is computed at a time."""
        tile = size or self.tile(halo, cost, blend)
        if reason := why_no_sweep(self.engine, blend.mode):
            if scheme in ("columns", "sweep") or ranks > 1:
                asked = f"scheme '{scheme}'" if ranks == 1 else f"{ranks} ranks"
                raise BadOption(f"{asked}: {reason}; use --scheme boxes")
            return Way(halo=halo, tile=tile)
        sweeping = Sweeping(
            engine=self.engine,
            volume=self.volume,
            region=self.region,
            stored=stored,
            memory=cost.memory,
            seconds_per_voxel=cost.seconds_per_voxel,
            ranks=ranks,
            size=size,
        )
        halos = [halo] if halo.how == "exact" else [halo, exact_halo(self.engine.network, sweeping.radius)]
        grids = [Grid(self.volume.shape, size or self.tile(h, cost, blend), h.size, self.region) for h in halos]
        schemes = [boxes(grid, h, cost) for grid, h in zip(grids, halos, strict=True)]
        schemes += [sweeping.scheme("columns", h) for h in halos] + [sweeping.scheme("sweep", halos[-1])]
        able = [one for one in schemes if one.name != "boxes" or ranks == 1 or not exact]
        chosen = choose_scheme(scheme, able, cost.memory, exact=exact)
        if chosen.name == "boxes" and ranks > 1:
            raise BadOption(f"{ranks} ranks share the rows of columns, and these are boxes; add --exact or --scheme")
        if chosen.name == "boxes":
            return Way(halo=halo, tile=tile, schemes=tuple(schemes))
        how = "exact" if chosen.exact else halo.how
        return Way(
            halo=replace(halo, size=chosen.halo, how=how),
            tile=sweeping.tile(chosen.column),
            sweep=Sweep(step=sweeping.step, bytes=chosen.bytes, ranks=ranks),
            schemes=tuple(schemes),
        )

    def needed(self, halo: Halo, tile: Index, cost: Cost, blend: Blend) -> float:
        """Of the computing on a tile in the middle of the volume (or a part of it), what it writes depends on."""
        if blend.mode != "none":
            return 1.0
        least, stride = spatial(self.engine.network.minimum_shape), spatial(self.engine.network.stride)
        grid, whole = Grid(self.volume.shape, tile, halo.size, self.region), Box.whole(self.volume.shape)

        def read(core: Box) -> Box:
            return core.with_context(halo.size, least, stride, whole)

        core = grid[len(grid) // 2].write
        while read(core).size > cost.block_voxels and max(core.shape) >= 2 * SMALLEST:
            core, _ = halve(core, int(np.argmax(core.shape)))
        return self.engine.needed(read(core).shape, core.relative_to(read(core)))

    def read(self, box: Box) -> Any:
        """A normalised block (channels, z, y, x)."""
        return normalized(read_block(self.volume, box, self.nan), self.normalization)
