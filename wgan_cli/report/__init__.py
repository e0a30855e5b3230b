"""report.html: what the folder of a run holds, as one page that needs neither a network nor a server; and several runs
on one page.

The page follows from the files of the run: it holds no time and no absolute path. What a run does not hold is said in
its place.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from .. import UsageError, WganError, checkpoint
from ..config import TrainConfig
from ..console import printable
from ..curve import read
from ..data.dataset import Dataset
from ..data.seen import Seen
from ..files import newest_checkpoint
from ..verdict import ADVICE, FIGURES, judge
from .curves import panels
from .page import lacking, part, table, text, write_page
from .pictures import frames, rank, walk
from .settings import command, differing_rows, setting_rows

MEANING = {
    "improving": "The run is still getting better.",
    "worsening": "The samples were nearer to data before.",
    "converged": "The run has settled, which does not say that its samples are good: look at them.",
    "too-early": "The run is too short to be judged: it needs more steps.",
    "critic-overfits": "The critic knows its training images by heart.",
    "critic-too-weak": "The critic cannot tell samples from images.",
    "collapsed": "The samples are too much alike.",
    "diverged": "The training broke down.",
}
NEXT = {  # to be typed, after the advice
    "improving": "the wgan train command of the run, with a larger --steps",
    "converged": "wgan sample RUN -n 64 -o grid.png",
    "too-early": "the wgan train command of the run, again or with a larger --steps",
}
GOOD = ("improving", "converged")
BAD = ("worsening", "critic-overfits", "critic-too-weak", "collapsed", "diverged")


class Found(NamedTuple):
    """What the folder of a run holds, as far as that can be read."""

    name: str
    folder: Path
    records: list[dict[str, Any]]  # of metrics.jsonl, their finite numbers
    config: TrainConfig | None
    path: Path  # of the checkpoint
    content: Mapping[str, Any] | None  # of the checkpoint
    missing: str  # why there is no checkpoint, if there is none
    until: float = math.inf  # of a numbered checkpoint its step: nothing later is shown

    @property
    def step(self) -> int:
        logged = self.records[-1]["step"] if self.records else 0
        return max(logged, self.content["step"] if self.content else 0)


def find(path: Path) -> Found:
    """Of a run folder, or of one of its checkpoints. What `checkpoint.load` raises where there is nothing else."""
    folder = path if path.is_dir() else path.parent
    config, content, missing = None, None, ""
    try:
        content, config = checkpoint.load(path := newest_checkpoint(path))
    except WganError as error:
        if not any((folder / name).exists() for name in ("config.json", "metrics.jsonl")):
            raise
        why = str(error).rpartition(f"{path}: ")[2]
        missing = f"The checkpoint cannot be read: {why}." if path.is_file() else "There is no checkpoint."
    try:
        config = config or TrainConfig.from_dict(json.loads((folder / "config.json").read_bytes()))
    except (OSError, ValueError, TypeError, AttributeError, UsageError):
        pass
    try:
        lines: list[Any] = read(folder / "metrics.jsonl")
    except (OSError, ValueError):
        lines = []
    records = [{key: value for key, value in line.items() if _is_number(value)} for line in lines if type(line) is dict]
    name, until = folder.resolve().name, math.inf
    if content and path.name != "ckpt.pt":
        name, until = f"{name}/{path.name}", content["step"]
    records = [record for record in records if record.get("step", math.inf) <= until and "step" in record]
    return Found(printable(name), folder, records, config, path, content, missing, until)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def write(path: Path, out: Path | None = None, data: Dataset | None = None) -> None:
    """Write the report of a run folder, or of one of its checkpoints; by default as report.html into the folder.

    data: images, from `prepare`, to be ranked by the critic.
    """
    found = find(path)
    config, moving = found.config, {"panels": panels([(found.name, found.records)], _things(found))}
    parts = [_verdict(found), _samples(found, moving), _walk(found, moving), _curves(moving)]
    parts += [_ranking(found, data), _settings(found), _origin(found)]
    title, told = "A training run of unknown settings", f"Step {found.step:,}."
    if config:
        title = f"A training run on {_of_what(config)}"
        system = f"Variant {config.variant} ({config.record.summary}; {config.record.paper}), networks {config.arch}."
        of_all = "" if config.by_time else f" of {config.steps:,}"  # by time, and not yet known
        told = f"Step {found.step:,}{of_all}. {system}"
    _write(out or found.folder / "report.html", title, told, parts, moving, _things(found))


def write_several(paths: Sequence[Path], out: Path) -> None:
    """Write one page that compares runs: their curves on one axis, their newest samples, the settings that differ."""
    runs = [find(path) for path in paths]
    if len({found.name for found in runs}) < len(runs):
        runs = [found._replace(name=f"{number} {found.name}") for number, found in enumerate(runs, 1)]
    moving = {"panels": panels([(found.name, found.records) for found in runs])}
    told = (
        "Do not compare the estimates: each is of its own run's critic. Look at the samples, or have them all compared "
        "with the same images: wgan evaluate RUN RUN --data IMAGES."
    )
    parts = [_verdicts(runs), _newest(runs), _curves(moving), _differences(runs)]
    _write(out, f"{len(runs)} runs", told, parts, moving)


def _write(
    out: Path, title: str, told: str, parts: Sequence[str], moving: Mapping[str, Any], things: str = "images"
) -> None:
    lead = (
        f"A <b>generator</b> learns to make {things} from random numbers, called latents. A <b>critic</b> learns to "
        f"tell what it makes, the <b>samples</b>, from the {things} of a data set, and so teaches the generator. A "
        "<b>step</b> is one update of the generator."
    )
    write_page(out, title, f'<p class="told">{text(told)}</p><p>{lead}</p>', parts, moving)


def _things(found: Found) -> str:
    return "points" if found.config and not found.config.size else "images"


def _of_what(config: TrainConfig) -> str:
    if not config.size:
        return "points"
    high, wide = config.sides
    kind = {1: "grey ", 3: "colour ", 4: "transparent "}.get(config.channels, "")
    classes = f" of {len(config.classes)} classes" if config.classes else ""
    return f"{kind}images of {wide}×{high} pixels{classes}"


# ---- What the records say


def _verdict(found: Found) -> str:
    if not found.records:
        return part("verdict", "Verdict", lacking("Nothing has been logged yet, so there is nothing to judge."))
    verdict = judge(found.records)
    tone = "good" if verdict.word in GOOD else "bad" if verdict.word in BAD else "open"
    told = [re.sub(r"^(?=\S+ on held-out data)", "the estimate is ", one) for one in verdict.reason.split("; ")]
    reasons = "".join(f"<li>{text(reason[0].upper() + reason[1:])}.</li>" for reason in told)
    rows = [(name.replace("_", " "), f"{value:.4g}", FIGURES[name]) for name, value in verdict.figures.items()]
    head = ("figure", "value", "meaning")
    figures = table("Figures behind the verdict: medians over the last quarter of the steps", head, rows)
    return part(
        "verdict",
        f'Verdict: <span class="word {tone}">{text(verdict.word)}</span>',
        f'<p class="meaning">{text(MEANING[verdict.word])} <b>What to do:</b> {text(ADVICE[verdict.word])}.'
        + (f" Type: <code>{text(NEXT[verdict.word])}</code>" if verdict.word in NEXT else "")
        + "</p>",
        f"<ul>{reasons}</ul>",
        f'<p class="aside">The estimate is how far samples are from {_things(found)}, as the critic sees them. '
        "It may rise, or be below 0, while the critic still learns. Numbers here are medians over the last quarter of "
        "the steps so far, or over the one before, so they are not the last points of the curves. Held-out data are "
        "kept from training. At 100%, samples differ from each other as much as data do.</p>",
        f"<details><summary>The figures behind the verdict</summary>{figures}</details>" if rows else "",
    )


def _verdicts(runs: Sequence[Found]) -> str:
    rows, told = [], ("estimate", "diversity")
    for found in runs:
        verdict = judge(found.records)
        figures = [f"{figure:.3g}" if figure is not None else "unknown" for figure in map(verdict.figures.get, told)]
        meaning = f"{MEANING[verdict.word]} What to do: {ADVICE[verdict.word]}."
        rows.append((found.name, verdict.word, f"{found.step:,}", *figures, meaning))
    head = ("run", "verdict", "step", *told, "meaning")
    return part("verdict", "Verdicts", table("The verdict on each run, and figures of its last quarter", head, rows))


def _curves(moving: Mapping[str, Any]) -> str:
    if not moving["panels"]:
        return part("curves", "Curves", lacking("There are no curves: metrics.jsonl holds no figures."))
    return part(
        "curves",
        "Curves",
        "<p>Steps run from left to right. Strong lines are running medians of noisy figures. Point at a curve to read "
        "values, or reach a curve by Tab and move with the arrow keys.</p>",
        '<div id="panels"></div>',
        f"<noscript>{lacking('The curves need JavaScript.')}</noscript>",
    )


# ---- What the generator draws and the critic ranks


def _samples(found: Found, moving: dict[str, Any]) -> str:
    shots = frames(found.folder, found.config, found.content["step"] if found.content else 0, found.until)
    if not shots:
        return part("samples", "Samples over the steps", lacking("There are no samples yet."))
    moving["frames"] = shots
    last = shots[-1]
    what = "the points of samples" if found.config and not found.config.size else "a grid of samples"
    told = "Each place has the same latent at every step." if found.config and found.config.size else ""
    return part(
        "samples",
        "Samples over the steps",
        f"<p>Move the slider to see what the generator drew at other steps. {told}</p>",
        '<div class="stage" tabindex="0" role="region" aria-label="Samples, scrollable">'
        f'<img id="frame" src="{last["src"]}" width="{last["width"]}" height="{last["height"]}" '
        f'alt="{what} at step {last["step"]}"></div>',
        f'<p class="control"><label for="step">Step <output id="told" for="step">{last["step"]:,}</output></label>'
        f'<input type="range" id="step" min="0" max="{len(shots) - 1}" value="{len(shots) - 1}"></p>',
        '<fieldset class="control"><legend>Zoom</legend>'
        + "".join(
            f'<label><input type="radio" name="zoom" value="{value}"{" checked" if value == 0 else ""}> {label}</label>'
            for value, label in ((0, "fit"), (1, "1×"), (2, "2×"), (4, "4×"))
        )
        + "</fieldset>",
        f"<noscript>{lacking('Slider and zoom need JavaScript.')}</noscript>",
    )


def _walk(found: Found, moving: dict[str, Any]) -> str:
    heading = "A walk between latents"
    if found.content is None or found.config is None:
        return part("walk", heading, lacking(f"{found.missing} The walk is drawn by its generator."))
    if not found.config.size:
        return part("walk", heading, lacking("The samples of this run are points, which do not make pictures."))
    try:
        moving["walk"] = walk(found.config, found.content, found.path)
    except WganError as error:
        return part("walk", heading, lacking(f"The generator cannot be used: {str(error).rpartition(': ')[2]}"))
    return part(
        "walk",
        heading,
        "<p>Each picture goes from one sample to the next and back to its first. Smooth changes show that the "
        "generator has learned more than single images.</p>",
        '<div id="tiles"></div><p class="control"><button type="button" id="play">Play</button></p>',
        f"<noscript>{lacking('The walk needs JavaScript.')}</noscript>",
    )


def _ranking(found: Found, data: Dataset | None) -> str:
    heading = "Images that the critic ranks highest and lowest"
    if found.config and not found.config.size:
        return part("ranking", heading, lacking("The samples of this run are points: there are no images to rank."))
    if found.content is None or found.config is None:
        return part("ranking", heading, lacking(f"{found.missing} The images are ranked by its critic."))
    if data is None:
        how = "To see them, name the images: wgan info run/ --html report.html --data IMAGES"
        return part("ranking", heading, lacking(how))
    try:
        ranked = rank(found.config, found.content, found.path, data)
    except WganError as error:
        return part("ranking", heading, lacking(f"The critic cannot be used: {str(error).rpartition(': ')[2]}"))
    some = ranked.scored < ranked.of
    drawn = f"{ranked.scored:,}, drawn by a fixed seed, of the" if some else "all"
    whose = "images that the run was trained on" if ranked.trained else "images named, none of which was trained on"
    rows = []
    ends = (("Highest: most like the images, says the critic", ranked.highest), ("Lowest", ranked.lowest))
    for title, entries in ends:
        tiles = "".join(
            f'<figure><img src="{src}" alt="{text(name)}"><figcaption>{score:.3g}</figcaption></figure>'
            for name, score, src in entries
        )
        rows.append(f'<h3>{title}</h3><div class="tiles">{tiles}</div>')
    told = "Below each is its score; only differences between scores mean something. Low ones may be unusual or broken."
    return part("ranking", heading, f"<p>The critic scored {drawn} {ranked.of:,} {whose}. {told}</p>", *rows)


# ---- Where it came from


def _settings(found: Found) -> str:
    if found.config is None:
        return part("settings", "Settings", lacking("Neither the checkpoint nor config.json tells the settings."))
    rows, given = setting_rows(found.config)
    words = " ".join(f"<span>{text(words)}</span>" for words in command(found.config))
    caption = "Every setting; first and marked, those that differ from the defaults"
    return part(
        "settings",
        "Settings",
        "<p>This command gives these settings. DATA stands for the data set. <code>wgan train -h</code> explains each "
        "setting.</p>",
        f'<pre tabindex="0"><code id="command">{words}</code></pre>'
        '<p class="control"><button type="button" id="copy">Copy the command</button> <span role="status"></span></p>',
        f"<details><summary>Every setting, and where its value comes from</summary>"
        f"{table(caption, ('setting', 'value', 'default', 'origin'), rows, given)}</details>",
    )


def _origin(found: Found) -> str:
    if found.content is None or found.config is None:
        return part("origin", "Versions and data", lacking(f"{found.missing} Versions and data stand there."))
    data, seen = found.content["data"], Seen.of(found.content["data"], found.config)
    rows = [(f"version of {name}", version) for name, version in found.content["versions"].items()]
    held = int(seen.held.sum())
    rows += [("samples in the data", f"{seen.count:,}"), ("of them held out", f"{held:,}")]
    rows += [("digest of the data", data["fingerprint"])]
    return part("origin", "Versions and data", table("What the run was made with", ("what", "value"), rows))


def _newest(runs: Sequence[Found]) -> str:
    tiles = []
    for found in runs:
        step = found.content["step"] if found.content else 0
        shots = frames(found.folder, found.config, step, found.until, 0)
        told = f"{text(found.name)}, step {shots[-1]['step']:,}" if shots else f"{text(found.name)}: no samples yet"
        image = f'<img src="{shots[-1]["src"]}" alt="samples of {text(found.name)}">' if shots else ""
        tiles.append(f"<figure>{image}<figcaption>{told}</figcaption></figure>")
    return part("newest", "Newest samples", f'<div class="beside">{"".join(tiles)}</div>')


def _differences(runs: Sequence[Found]) -> str:
    known = [found for found in runs if found.config]
    rows = differing_rows([found.config for found in known if found.config])
    head = ("setting", *(found.name for found in known))
    lack = [lacking(f"{found.name}: its settings are unknown.") for found in runs if not found.config]
    same = lacking("These runs have the same settings.")
    differing = table("Settings in which the runs differ", head, rows) if rows else same
    return part("settings", "Settings that differ", differing, *lack)
