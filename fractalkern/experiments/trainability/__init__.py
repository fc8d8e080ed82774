"""Trainability fractals: which learning rates train a two-layer network, and where that turns.

Source: J. Sohl-Dickstein, "The boundary of neural network trainability is fractal",
arXiv:2402.06184, 2024. Its settings exactly, not its random numbers.
"""
