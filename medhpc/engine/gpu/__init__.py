"""MS-D networks on GPUs in kernels of medhpc's own, written in Triton.

::

    schedule    which kernel runs when, and what it reads and writes: numbers only
    weights     the network's weights in the order that the kernels read them
    evaluate    the buffers of a block, and the kernels over it
    kernels     the kernels (the only module that imports Triton)

Written without a GPU: proven by Triton's interpreter on CPUs, compiled for GPUs ahead of time, never timed.
"""
