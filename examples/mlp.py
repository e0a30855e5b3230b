"""Fully connected generator and critic without batch norm on the digits: distance to held-out digits over the run.

python mlp.py OUT reads the runs OUT/mlp-ns, -clip and -gp with what `wgan evaluate` says of each numbered checkpoint.
Arjovsky et al. 2017, section 4.3 and figure 7: with the simplest generator the standard GAN collapses, WGAN does not.
There the critic is that of DCGAN; here it is fully connected as well, as in the lower half of their figure 3.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from claims import DISTANCE, finish, quality, samples
from matplotlib.figure import Figure

from wgan_cli.curve import read
from wgan_cli.sample import grid, to_output

LIMIT = 0.5  # clip and gp still train: of the distance at the first checkpoint, half or less is left at the last
# and ns ends at a larger distance than either: it collapsed, or it is worse


def main(out: Path) -> None:
    figure = Figure(figsize=(10, 2.9), layout="constrained")
    curves, *pictures = figure.subplots(1, 4, width_ratios=[1.4, 1, 1, 1])
    last, left, apart = {}, {}, {}
    for axes, variant in zip(pictures, ("ns", "clip", "gp"), strict=True):
        run = out / f"mlp-{variant}"
        steps, distances, floor = quality(run)
        curves.plot(steps, distances, ".-", label=variant)
        apart[variant] = read(run / "metrics.jsonl")[-1].get("diversity", 0.0)
        last[variant], left[variant] = distances[-1], distances[-1] / distances[0]
        axes.imshow(np.asarray(grid(to_output(samples(run / "ckpt.pt", 36)))), cmap="gray")
        axes.set(title=f"{variant}: {distances[-1]:.0f}", xticks=(), yticks=())
    curves.axhline(floor, color="0.6", linestyle=":", label="data")
    curves.set(xlabel="generator steps", ylabel=DISTANCE, ylim=(0, None))
    curves.legend(fontsize="small")
    finish(
        out,
        figure,
        "mlp",
        max(left["clip"], left["gp"]) <= LIMIT and last["ns"] > max(last["clip"], last["gp"]),
        f"at the end ns {last['ns']:.0f}, clip {last['clip']:.0f}, gp {last['gp']:.0f} (limit: ns the largest); "
        f"of the first, clip has {left['clip']:.0%} and gp {left['gp']:.0%} left (limit {LIMIT:.0%}); samples "
        f"lie {', '.join(f'{share:.0%} ({variant})' for variant, share in apart.items())} as far apart as digits",
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
