"""Grids of runs: tiles, their store, progress."""
