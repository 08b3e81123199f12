"""Deep Image Prior: an image is denoised by a network that has seen nothing else (:func:`medhpc.dip.denoise.denoise`).

=============== ================================================================================================
options         what is asked for; presets
noise           which noise an image has, and how much
image           the volume that is denoised, read plane by plane
facts           what must be known of the whole of it before any rank begins
problem         one image as tensors: scaled, with what counts and what is held out
share           which planes of the image this rank has
draws           random numbers that depend on seed, iteration and plane only
loss            what a step makes smaller
precision       in which numbers is computed
descent         the loop for one image
state           all that the loop remembers, on disk too
work            the runs of one volume, those that an earlier attempt finished included
output          what is made of the runs when all are done
denoise         volumes in, volumes out
plan            memory and operations, before anything runs
memory          whether that fits, or how it would
room            whether what is written fits on the disk
compare         filters that need no network
pictures        curves and slices
=============== ================================================================================================
"""
