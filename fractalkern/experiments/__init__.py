"""The documented experiments, one package each."""
