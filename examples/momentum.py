"""A clipped critic under RMSProp, Adam with momentum, and SGD: distance to held-out digits over the run.

python momentum.py OUT reads the runs OUT/digits-clip, clip-adam and clip-sgd with what `wgan evaluate` says of each
numbered checkpoint. Arjovsky et al. 2017, end of section 4.2: training is unstable at times under Adam with β1 > 0 on
the critic, which is why they used RMSProp. Here the generator has the same optimizer.
"""

from __future__ import annotations

import sys
from pathlib import Path

from claims import DISTANCE, finish, quality
from matplotlib.figure import Figure

from wgan_cli.curve import read

LIMIT = 1.5  # stable: at no checkpoint is the distance more than this times the least that was reached before
# rmsprop is stable, adam is not; sgd is shown, as the paper says nothing of it


def main(out: Path) -> None:
    figure = Figure(figsize=(8, 2.9), layout="constrained")
    distance_axes, estimate_axes = figure.subplots(1, 2)
    setback, last = {}, {}
    for optimizer, label in (("rmsprop", "RMSProp"), ("adam", "Adam, β1 = 0.9"), ("sgd", "SGD")):
        run = out / ("digits-clip" if optimizer == "rmsprop" else f"clip-{optimizer}")
        steps, distances, floor = quality(run)
        setback[optimizer] = max(d / min(distances[: i + 1]) for i, d in enumerate(distances))
        last[optimizer] = distances[-1]
        distance_axes.plot(steps, distances, ".-", label=label)
        log = [r for r in read(run / "metrics.jsonl") if "wasserstein" in r]
        estimate_axes.plot([r["step"] for r in log], [r["wasserstein"] for r in log], linewidth=0.7, label=label)
    distance_axes.axhline(floor, color="0.6", linestyle=":", label="data")
    distance_axes.set(xlabel="generator steps", ylabel=DISTANCE, ylim=(0, None))
    estimate_axes.set(xlabel="generator steps", ylabel="Wasserstein estimate")
    distance_axes.legend(fontsize="small")
    finish(
        out,
        figure,
        "momentum",
        setback["rmsprop"] <= LIMIT < setback["adam"],
        f"worst setback of the distance: rmsprop {setback['rmsprop']:.2f}x (limit {LIMIT} or less), "
        f"adam {setback['adam']:.2f}x (limit: more), sgd {setback['sgd']:.2f}x; at the end "
        f"{last['rmsprop']:.0f}, {last['adam']:.0f}, {last['sgd']:.0f}",
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
