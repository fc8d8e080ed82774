"""Grids of runs: cells, a store that loses none of them, and what is shown meanwhile."""
