"""A transformer whose slices are smaller transformers, all of them trained together.

The base experiment of FractalFormer (evintunador/FractalFormer, 2024): a model of width d holds
two of width d / 2 in the diagonal blocks of its weights, these hold two of width d / 4 each. Its
training loop gave a loss to three of the seven, three times each.
"""
