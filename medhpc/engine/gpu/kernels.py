"""The kernels. Triton is imported here, and nowhere else.

Names: a *tile* is what one program computes in one plane, M = ROWS x COLUMNS voxels; the *ring* holds the latest maps,
channels-last in blocks of 16, and the *sums* hold the parts of the maps that are still to come (see ``schedule``). All
planes are `pitch` voxels long in x, of which `length` are real. Offsets between planes have 64 bits.
"""

from __future__ import annotations

import triton
import triton.language as tl

TOO_LARGE = tl.constexpr(6e4)
"""float16 ends at 65504."""
CHANNELS = tl.constexpr(16)
"""Of a block of the ring."""
UNSPECIALIZED = ("depth", "height", "length", "dilation", "first_block", "blocks", "ring_blocks", "targets", "own")
"""Numbers of which one compiled kernel takes all."""


@triton.jit
def reflected(index, length):
    """Index of the voxel that reflection without repeating the edge shows at `index`."""
    index = tl.abs(index)
    return tl.where(index >= length, 2 * (length - 1) - index, index)


@triton.jit
def complete(found, done, target, made, inside, biases, lanes, flag, own, volume, CHECKED: tl.constexpr):
    """Make maps of the first `own` targets among the columns `done` of the sums `found`: bias, ReLU, into the ring.

    A column is cut out by a sum: of networks of width 1 there is one. Others run at the same time and may read the
    voxel's other channels: the slot that is written has weight 0 for them, and what it held is finite.
    """
    for k in range(own):
        value = tl.sum(tl.where((done & (target == k))[None, :], found, 0.0), 1) + tl.load(biases + k)
        value = tl.where(value < 0, 0.0, value)  # ReLU, which leaves NaN as it is
        lane = tl.load(lanes + k)
        slot = lane // CHANNELS * volume * CHANNELS + lane % CHANNELS
        tl.store(made + slot, value.to(made.dtype.element_ty), mask=inside)
        if CHECKED:
            too_large = inside & (value > TOO_LARGE)
            tl.store(flag + tl.zeros_like(value).to(tl.int32), 1, mask=too_large)


@triton.jit(do_not_specialize=UNSPECIALIZED)
def push(
    ring,  # (ring blocks, depth, height, pitch, 16): read, and the maps that are complete written
    sums,  # (places, depth, height, pitch) float32
    weights,  # (blocks, TAPS turns, 9 taps, 16 channels, N columns), as ring
    places,  # (targets) of the sums
    biases,  # (own) float32
    lanes,  # (own) slots of the ring that the complete maps get
    flag,  # (1) int32: becomes 1 where a map has a value above TOO_LARGE
    depth,
    height,
    length,
    pitch,
    dilation,
    first_block,
    blocks,
    ring_blocks,
    targets,
    own,
    chunk,
    TAPS: tl.constexpr,
    N: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    FRESH: tl.constexpr,
    REFLECT: tl.constexpr,
    CHECKED: tl.constexpr,
):
    """Add what some channels give to the sums of all maps of a dilation; complete the first of them.

    An implicit matrix product. A row is a voxel, M = ROWS x COLUMNS of them: COLUMNS neighbours in x, and ROWS rows
    that lie `dilation` apart in y, so that a tap above or below reads what another row of the tile reads too. A column
    is a target and a tap in z: a voxel is read once for all three taps (2D networks have one). K is a block of 16
    channels.

    Loop order: the tile stays, planes pass. Plane t of those `dilation` apart gives to the sums of planes t - 1, t and
    t + 1, which are three groups of columns of one accumulator::

        columns      0 .. | PER .. | 2 PER ..        plane whose sums they are:  t' with t' mod 3 = group
        weights      dz of (t - t'), so that there is one order of weights for each t mod 3 (`turn`)
        after t      group (t - 1) mod 3 has all it gets: added to the sums in memory, and set to zero

    The accumulator is never cut apart or moved: it is the weights that turn.

    Budget (ROWS 4, COLUMNS 32, N 32, float16, eight warps): 116 to 127 registers a thread, of which 16 accumulate,
    none spilled (compiled for compute capability 9.0). Nine products (128, 16) x (16, 32) a plane, three a turn of the
    loop, which read 3 x 4 KiB of maps (most from L1: the tile reads (4 + 2) rows of (32 + 2 dilation) voxels of a
    plane) and 3 x 1 KiB of weights; 61 KiB of shared memory for three turns: two programs share a multiprocessor.
    Memory traffic a voxel: 32 bytes of maps read, 8 bytes (4 read, 4 written) for each target, 2 bytes written for the
    map that is complete, into a sector of 32 that was read just before.
    """
    PER: tl.constexpr = N // TAPS
    REACH: tl.constexpr = TAPS // 2
    step = dilation if TAPS == 3 else 1  # planes of a 2D network do not see each other
    across = tl.cdiv(length, COLUMNS)
    tall = tl.cdiv(height, ROWS * dilation) * dilation
    program = tl.program_id(0)
    band = program // across % tall
    phase = program // across // tall % step
    start = program // across // tall // step * chunk

    m = tl.arange(0, ROWS * COLUMNS)
    y = band // dilation * (ROWS * dilation) + band % dilation + m // COLUMNS * dilation
    x = program % across * COLUMNS + m % COLUMNS
    inside = (y < height) & (x < length)
    plane = height.to(tl.int64) * pitch
    volume = depth * plane
    here = y.to(tl.int64) * pitch + x
    y, x = tl.minimum(y, height - 1), tl.minimum(x, length - 1)  # what lies beyond reads, and is not written
    left, right = x - dilation, x + dilation
    in_left, in_right = left >= 0, right < length
    if REFLECT:
        left, right = reflected(left, length), reflected(right, length)

    channel = tl.arange(0, CHANNELS)
    column = tl.arange(0, N)
    group, target = column // PER, column % PER
    used = (group < TAPS) & (target < targets)
    place = tl.load(places + target, mask=used, other=0).to(tl.int64) * volume
    within = channel[:, None] * N + column[None, :]  # a tap's weights

    planes = tl.minimum(chunk, tl.cdiv(depth - phase - start * step, step))  # that this program completes
    accumulator = tl.zeros((ROWS * COLUMNS, N), tl.float32)
    for turned in range((planes + 2 * REACH) * blocks * 3):
        dy, block, passed = turned % 3, turned // 3 % blocks, turned // 3 // blocks
        t = start + passed - REACH
        turn = (t + TAPS) % TAPS
        z, row = phase + t * step, y + (dy - 1) * dilation
        seen = tl.where((z >= 0) & (z < depth), (row >= 0) & (row < height), False)
        if REFLECT:
            z, row = reflected(z, depth), reflected(row, height)
        line = ((first_block + block) % ring_blocks * volume + z * plane + row.to(tl.int64) * pitch) * CHANNELS
        kernel = weights + ((block * TAPS + turn) * 3 + dy) * (3 * CHANNELS * N)
        for dx in tl.static_range(3):
            at = left if dx == 0 else (x if dx == 1 else right)
            # ".ca": through L1, where the other taps find what this one has fetched; by itself it would pass by it
            voxel = ring + (line + at * CHANNELS)[:, None] + channel[None, :]
            if REFLECT:
                maps = tl.load(voxel, cache_modifier=".ca")
            else:
                there = (seen & in_left) if dx == 0 else (seen if dx == 1 else (seen & in_right))
                maps = tl.load(voxel, mask=there[:, None], other=0.0, cache_modifier=".ca")
            weight = tl.load(kernel + dx * CHANNELS * N + within)
            accumulator = tl.dot(maps, weight, accumulator, input_precision="ieee")
        if (dy == 2) & (block == blocks - 1):
            done = used & (group == (turn + TAPS - REACH) % TAPS)
            if passed >= 2 * REACH:
                now = here + (phase + (t - REACH) * step) * plane
                found = accumulator
                total = sums + (now[:, None] + place[None, :])
                written = inside[:, None] & done[None, :]
                if not FRESH:
                    found += tl.load(total, mask=written, other=0.0)
                tl.store(total, found, mask=written & (target >= own)[None, :])
                made = ring + now * CHANNELS
                complete(found, done, target, made, inside, biases, lanes, flag, own, volume, CHECKED)
            accumulator = tl.where(done[None, :], 0.0, accumulator)


@triton.jit(do_not_specialize=["first_block", "blocks", "ring_blocks", "outputs"])
def head(
    ring,  # (ring blocks, voxels, 16)
    scores,  # (outputs, voxels) float32
    weights,  # (outputs, blocks, 16) float32
    biases,  # (outputs) float32
    voxels,  # of a volume, with those that only fill its rows
    first_block,
    blocks,
    ring_blocks,
    outputs,
    M: tl.constexpr,
    FRESH: tl.constexpr,
):
    """Add what some channels give to the scores: a 1x1 convolution, in float32.

    Loop order: the tile of M neighbouring voxels stays, outputs pass, and inside them the blocks (mostly one: it comes
    from L1 for all outputs but the first). Bound by memory: 32 bytes of maps a voxel and 8 bytes an output, once in 16
    channels.
    """
    at = tl.program_id(0).to(tl.int64) * M + tl.arange(0, M)
    inside = at < voxels
    channel = tl.arange(0, CHANNELS)
    for output in range(outputs):
        total = scores + output * voxels.to(tl.int64) + at
        if FRESH:
            found = tl.zeros((M,), tl.float32) + tl.load(biases + output)
        else:
            found = tl.load(total, mask=inside, other=0.0)
        for block in range(blocks):
            source = ring + ((first_block + block) % ring_blocks) * voxels.to(tl.int64) * CHANNELS
            maps = tl.load(source + at[:, None] * CHANNELS + channel[None, :], mask=inside[:, None], other=0.0)
            weight = tl.load(weights + (output * blocks + block) * CHANNELS + channel)
            found += tl.sum(maps.to(tl.float32) * weight[None, :], 1)
        tl.store(total, found, mask=inside)
