"""What was published, and what the original's own code gives when it is run again."""

from fractalkern.experiments.fractalformer.config import SubModel

# Final validation losses, nats a token of 128 byte pairs: 600 steps of 8 windows of 64, rate 1e-3.
PUBLISHED_LOOP: dict[SubModel, float] = {
    (0, 0): 3.01, (1, 0): 14.49, (1, 1): 3.22,
    (2, 0): 25.14, (2, 1): 26.29, (2, 2): 3.74, (2, 3): 11.23,
}  # fmt: skip
CORRECTED_LOOP: dict[SubModel, float] = {
    (0, 0): 3.14, (1, 0): 3.28, (1, 1): 3.33,
    (2, 0): 3.65, (2, 1): 3.72, (2, 2): 3.73, (2, 3): 3.73,
}  # fmt: skip

# The published log after 15,000 steps, over the terms that it sums.
LOGGED_TRAIN, LOGGED_VALIDATION = 2.08, 2.46
CHARACTERS_PER_TOKEN = 1.375
