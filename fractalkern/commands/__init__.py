"""The verbs of the command line, one file each: its options and `run(arguments) -> exit code`."""
