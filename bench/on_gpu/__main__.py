"""`python -m bench.on_gpu MODULE ROWS`: races a module's cases; a line of JSON a contender."""

import argparse
import faulthandler
import json
import sys
import time
from importlib import import_module
from pathlib import Path

import torch

from bench.on_gpu import rows

_SECONDS_OF_A_CONTENDER = 180


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.on_gpu", description=__doc__)
    parser.add_argument("module")
    parser.add_argument("rows", type=Path)
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--peers-until", type=float, default=float("inf"), help="by time.time()")
    options = parser.parse_args()
    before = rows.read(options.rows) if options.rows.exists() else []
    peaks = {row.case: row.rate for row in before if row.kernel == "ceiling" and row.rate}
    failed = False
    with options.rows.open("a") as file:
        for case in import_module(f"bench.on_gpu.{options.module}").cases():
            if case.kernel != "ceiling" and options.only not in f"{case.kernel}: {case.case}":
                continue
            faulthandler.dump_traceback_later(_SECONDS_OF_A_CONTENDER, exit=True)
            for row in rows.run(case, peaks, lambda: time.time() < options.peers_until):
                print(f"{row.case}, {row.contender}: {row.rate or row.missing}", flush=True)
                print(json.dumps(rows.as_json(row)), file=file, flush=True)
                failed |= row.failed and row.role != "peer"
                faulthandler.dump_traceback_later(_SECONDS_OF_A_CONTENDER, exit=True)
            torch.cuda.empty_cache()
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
