"""Which pairs of learning rates fine-tune a small language model, and where that turns.

The grid of `fractal-llm` (M. McGuire, 2026) at a size for two cores: a transformer as nanochat's is
trained once on plain text, then fine-tuned from there by every pair of two learning rates, Muon's
for the matrices of its blocks and AdamW's for its head.
"""
