"""Zooms into the boundary of trainability, by a rule fixed in advance.

Source: J. Sohl-Dickstein, "The boundary of neural network trainability is fractal",
arXiv:2402.06184, 2024, where the final window of each zoom was chosen by hand.
"""
