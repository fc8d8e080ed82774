"""What ran, where, and the rows of a run as a table and as JSON."""

import datetime
import json
import os
import platform
import statistics
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import fractalkern as fk
from bench.harness import Entrant, Race

Row = dict[str, Any]
RESULTS = Path(__file__).parent / "results"
PACKAGES = (
    "torch",
    "numpy",
    "jax",
    "jaxlib",
    "porespy",
    "boxcounting",
    "numba",
    "scipy",
    "colorednoise",
    "powerbox",
    "transformers",
)


def machine() -> dict[str, Any]:
    """The facts that a timing depends on."""
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        models = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
    git = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=RESULTS.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "commit": git.stdout.strip() or None,
        "cpu": models[0] if models else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1),
        "python": platform.python_version(),
        "build": fk.build_info(),
        "versions": {name: _version(name) for name in PACKAGES},
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def rows(race: Race, threads: int, entrants: list[Entrant], loads: list[float]) -> list[Row]:
    """One row a contender; `ratio` is how many times longer it takes than ours for the same work.

    `share` is its rate beside that of the floor; both are medians over the rounds they ran in.
    """
    ours = entrants[0]
    floor = next((entrant for entrant in entrants if entrant.contender.role == "floor"), None)
    result = []
    for entrant in entrants:
        contender = entrant.contender
        row: Row = {
            "kernel": race.kernel,
            "case": race.case,
            "dtype": race.dtype,
            "threads": threads,
            "contender": contender.name,
            "role": contender.role,
            "package": contender.package,
            "version": _version(contender.package),
        }
        result.append(row)
        if entrant.missing is not None:
            row["missing"] = entrant.missing
            continue
        seconds = list(entrant.turns.values())
        low, median, high = (
            statistics.quantiles(seconds, n=4, method="inclusive") if seconds[1:] else seconds * 3
        )
        row |= {
            "rounds": len(seconds),
            "median": median,
            "quartiles": [low, high],
            "min": min(seconds),
            "work": contender.work,
            "rates": {unit: amount / median for unit, amount in contender.work.items()},
            "load": round(statistics.median(loads), 3),
        }
        if entrant is not ours and race.per in contender.work:
            row["ratio"] = _median_ratio(entrant, ours, race.per)
        if floor is not None and entrant is not floor and race.share in contender.work:
            row["share"] = _median_ratio(floor, entrant, race.share)
    if race.derive is not None:
        result[0]["derived"] = race.derive(result)
    return result


def _median_ratio(slow: Entrant, fast: Entrant, unit: str) -> float:
    scale = fast.contender.work[unit] / slow.contender.work[unit]
    common = slow.turns.keys() & fast.turns.keys()
    return statistics.median(scale * slow.turns[i] / fast.turns[i] for i in common)


def save(kernel: str, rows: list[Row]) -> Path:
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{kernel}.json"
    path.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=1) + "\n")
    return path


def print_rows(rows: list[Row]) -> None:
    """One race: time, rate, share of the floor, and how many times ours is faster."""
    first = rows[0]
    print(f"\n{first['kernel']}: {first['case']}, {first['dtype']}, {first['threads']} threads")
    print(f"  {'':52} {'median':>10} {'quartiles':>21} {'rate':>16} {'of floor':>9} {'ours is':>9}")
    for row in rows:
        if "missing" in row:
            print(f"  {row['contender']:52} not measured: {row['missing']}")
            continue
        low, high = (_seconds(value) for value in row["quartiles"])
        share = f"{row['share']:.1%}" if "share" in row else ""
        ratio = f"{row['ratio']:.3g} x" if "ratio" in row else ""
        name = row["contender"]
        if row["role"] == "peer":
            name += f" [{row['package']} {row['version']}]"
        print(
            f"  {name:52} {_seconds(row['median']):>10} {low + ' - ' + high:>21} "
            f"{_rate(row['rates']):>16} {share:>9} {ratio:>9}"
        )
    for name, value in first.get("derived", {}).items():
        print(f"  {name.replace('_', ' ')}: {value:.3g}")
    print(f"  other processes used {first['load']:.2f} cores")


def _seconds(value: float) -> str:
    for unit, scale in (("s", 1), ("ms", 1e3), ("us", 1e6)):
        if value * scale >= 1:
            return f"{value * scale:.3g} {unit}"
    return f"{value * 1e9:.3g} ns"


def _rate(rates: dict[str, float]) -> str:
    if "network_steps" in rates:
        return f"{rates['network_steps']:,.0f} steps/s"
    if "evaluations" in rates:
        return f"{rates['evaluations']:,.2f} evals/s"
    if "points" in rates:
        return f"{rates['points'] / 1e6:,.0f} Mpoints/s"
    if "flops" in rates:
        return f"{rates['flops'] / 1e9:.1f} GFLOP/s"
    return f"{rates['bytes'] / 1e9:.2f} GB/s" if "bytes" in rates else ""
