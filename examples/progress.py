"""The critic's estimate against the quality of samples over a run, for clip and gp, and the JS estimate of ns.

python progress.py OUT reads the runs OUT/digits-clip, -gp and -ns with what `wgan evaluate` says of each numbered
checkpoint. Arjovsky et al. 2017, section 4.2, figures 3 and 4; Gulrajani et al. 2017, figure 5.
"""

from __future__ import annotations

import statistics
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
from claims import DISTANCE, finish, quality
from matplotlib.figure import Figure

from wgan_cli.curve import read

LIMIT = 0.8  # Spearman's rank correlation of estimate and distance, at least for clip and gp, and less for ns


def rank_correlation(a: list[float], b: list[float]) -> float:
    ranks_a, ranks_b = (np.argsort(np.argsort(values)) for values in (a, b))
    return float(np.corrcoef(ranks_a, ranks_b)[0, 1])


def main(out: Path) -> None:
    figure = Figure(figsize=(10, 2.9), layout="constrained")
    found = {}
    for axes, (variant, column) in zip(
        figure.subplots(1, 3), {"clip": "wasserstein", "gp": "wasserstein", "ns": "js"}.items(), strict=True
    ):
        run = out / f"digits-{variant}"
        steps, distances, floor = quality(run)
        log = [r for r in read(run / "metrics.jsonl") if column in r]
        # As the paper smooths its curves: the median of what was logged since the checkpoint before.
        spans = pairwise([0, *steps])
        estimates = [statistics.median(r[column] for r in log if a < r["step"] <= b) for a, b in spans]
        found[variant] = rank_correlation(estimates, distances)
        axes.plot([r["step"] for r in log], [r[column] for r in log], "C0", linewidth=0.5, alpha=0.4)
        axes.plot(steps, estimates, "C0.-")
        axes.set(title=f"{variant}: rank correlation {found[variant]:.2f}", xlabel="generator steps")
        axes.set_ylabel(f"{column} estimate" + (" (nats)" if column == "js" else ""), color="C0")
        axes.set_ylim(min(0, *estimates), 1.2 * max(estimates))
        other = axes.twinx()
        other.plot(steps, distances, "C3.--")
        other.axhline(floor, color="C3", linestyle=":", linewidth=0.8)
        other.set_ylabel(DISTANCE, color="C3")
        other.set_ylim(0, 1.2 * max(distances))
    finish(
        out,
        figure,
        "progress",
        min(found["clip"], found["gp"]) >= LIMIT > found["ns"],
        f"rank correlation of estimate and distance: clip {found['clip']:.2f}, gp {found['gp']:.2f} "
        f"(limit {LIMIT} or more), ns {found['ns']:.2f} (limit: less)",
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
