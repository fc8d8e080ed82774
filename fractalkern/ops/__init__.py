"""Public op functions, one file a kernel: docstring, validation, fake kernel."""
