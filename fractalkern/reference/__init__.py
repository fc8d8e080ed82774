"""Short pure-PyTorch implementations: the oracle of every test, bench and example."""
