"""Rows of the GPU bench: the CUDA kernels beside their peers and the card's ceilings."""
