"""Compile the kernels for GPUs that are not here, and print what each takes: (architecture, numbers, shared memory).

A program, which :mod:`test_triton` runs in a process of its own.
"""

from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from medhpc.engine.gpu import evaluate, kernels

TILE = evaluate.Tile()
VARIANTS = ((90, "fp16", 3, "wgmma"), (80, "fp16", 1, "mma.sync"), (90, "fp32", 3, "fma"))


def compiled(function: Any, architecture: int, arrays: dict[str, str], **constants: Any) -> Any:
    names = function.arg_names
    types = {name: f"*{arrays[name]}" if name in arrays else "i32" for name in names}
    types |= dict.fromkeys(constants, "constexpr")
    values = {(names.index(name),): value for name, value in constants.items()}
    aligned = {
        (names.index(name),): [["tt.divisibility", 16]]
        for name in (*arrays, "pitch", "chunk", "voxels")
        if name in names
    }
    options = {"num_warps": TILE.warps, "num_stages": TILE.stages, "maxnreg": evaluate.REGISTERS}
    source = ASTSource(function, types, values, aligned)
    return triton.compile(source, target=GPUTarget("cuda", architecture, 32), options=options | evaluate.FUSED)


for architecture, numbers, taps, product in VARIANTS:
    push = {"ring": numbers, "sums": "fp32", "weights": numbers, "biases": "fp32"}
    push |= dict.fromkeys(("places", "lanes", "flag"), "i32")
    kernel = compiled(
        kernels.push,
        architecture,
        push,
        TAPS=taps,
        N=32,
        ROWS=TILE.rows,
        COLUMNS=TILE.columns,
        FRESH=False,
        REFLECT=taps == 3,
        CHECKED=numbers == "fp16",
    )
    assert product in kernel.asm["ptx"], (architecture, numbers)
    head = {"ring": numbers, "scores": "fp32", "weights": "fp32", "biases": "fp32"}
    compiled(kernels.head, architecture, head, M=128, FRESH=False)
    print(architecture, numbers, kernel.metadata.shared)
