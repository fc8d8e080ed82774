"""`python -m bench`: every kernel beside its peers in one run, into bench/results/."""

import argparse
import os

from bench import (
    bench_box_count,
    bench_box_mass,
    bench_criticality,
    bench_dimension,
    bench_ensemble,
    bench_finetune,
    bench_fractal_noise,
    bench_genesis,
    bench_power_iteration,
    bench_train_sweep,
    harness,
    report,
)

MODULES = (
    bench_train_sweep,
    bench_box_count,
    bench_box_mass,
    bench_dimension,
    bench_fractal_noise,
    bench_genesis,
    bench_power_iteration,
    bench_criticality,
    bench_ensemble,
    bench_finetune,
)
BENCHES = {module.KERNEL: module for module in MODULES}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("kernels", nargs="*", default=list(BENCHES), help=", ".join(BENCHES))
    parser.add_argument(
        "--threads",
        type=int,
        default=len(os.sched_getaffinity(0)),
        help="of every contender (default: one a core)",
    )
    parser.add_argument("--rounds", type=int, default=9, help="turns of each contender")
    parser.add_argument(
        "--max-load",
        type=float,
        default=0.15,
        help="repeat a round in which other processes used more cores than this",
    )
    parser.add_argument("--only", default="", help="races whose case contains this; saves nothing")
    options = parser.parse_args()
    for kernel in options.kernels:
        if kernel not in BENCHES:
            parser.error(f"kernels must be some of {', '.join(BENCHES)}, got {kernel!r}")
    for kernel in options.kernels:
        rows = []
        for race in BENCHES[kernel].races(options.threads):
            if options.only not in f"{race.case}, {race.dtype}":
                continue
            entrants, loads = harness.run(
                race, threads=options.threads, rounds=options.rounds, max_load=options.max_load
            )
            rows += report.rows(race, options.threads, entrants, loads)
            report.print_rows(rows[-len(entrants) :])
        if not options.only:
            print(f"\nsaved {report.save(kernel, rows)}")


if __name__ == "__main__":
    main()
