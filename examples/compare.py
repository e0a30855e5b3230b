"""Several runs in one picture: python examples/compare.py RUN RUN ... -o compare.png

A line a run: running medians of the estimate on training data (full) and on held-out data (dashed), and the diversity.
Estimates can only be compared between runs with the same critic. Needs matplotlib: pip install 'wgan[plot]'.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from matplotlib.figure import Figure

from wgan_cli.curve import column, read, running_median, zoom
from wgan_cli.files import replacing
from wgan_cli.verdict import judge


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folders")
    parser.add_argument("-o", "--out", default="compare.png", help="the picture [default: compare.png]")
    words = parser.parse_args()
    figure = Figure(figsize=(9, 6), layout="constrained")
    upper, lower = figure.subplots(2, sharex=True, height_ratios=[2, 1])
    for number, run in enumerate(words.runs):
        try:
            records = read(run / "metrics.jsonl")
        except OSError as error:
            parser.error(f"{error.filename}: {error.strerror}; name run folders of wgan train")
        verdict = judge(records)
        look = {"color": f"C{number}", "linewidth": 1.4}
        for name, style in ((f"{verdict.estimate}_training", "-"), (f"{verdict.estimate}_heldout", "--")):
            steps, values = column(records, name)
            label = f"{run}: {verdict.word}" if style == "-" else None
            upper.plot(steps, running_median(values), style, label=label, **look)
        steps, values = column(records, "diversity")
        lower.plot(steps, running_median(values), **look)
    zoom(upper)
    upper.set_title("estimate (dashed: on held-out data)", loc="left", fontsize=10)
    upper.legend(frameon=False)
    lower.set_title("diversity of samples, of that of data", loc="left", fontsize=10)
    lower.set_xlabel("step")
    for axes in (upper, lower):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    with replacing(words.out) as file:
        figure.savefig(file, format="png", dpi=100, metadata={"Software": None})
    print(words.out)


if __name__ == "__main__":
    main()
