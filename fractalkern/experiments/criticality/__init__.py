"""Spectral criticality: does it help to hold the top singular values of the weights at a target?

Source: the design conversation published as `docs/START.md` of github.com/ddisisto/ASISR (renamed
SPECTRA) and its first sample code, 2025. Its settings and definitions, none of its code.
"""
