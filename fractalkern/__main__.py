"""`python -m fractalkern` is the command line."""

from fractalkern.cli import main

raise SystemExit(main())
