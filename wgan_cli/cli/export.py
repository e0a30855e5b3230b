"""wgan export."""

from __future__ import annotations

import os
from pathlib import Path

import click

from .. import UsageError
from ..console import Console
from ..files import check_writable
from .options import any_path, check_stdout, checkpoint_argument, command, option


@command(short_help="A network as a file for other programs.")
@checkpoint_argument()
@option("-o", "--out", type=any_path, required=True, help="FILE.onnx, FILE.pt2 or FILE.safetensors.")
@option("--critic", is_flag=True, help="The critic, not the generator.")
@option("--raw", is_flag=True, help="Weights of the last step, not their average.")
@option("--uint8", is_flag=True, help="Images as RGB bytes [batch, 3, H, W], as torch-fidelity takes them.")
@click.pass_obj
def export(console: Console, /, checkpoint: Path, out: str, critic: bool, raw: bool, uint8: bool) -> None:
    """\b
    wgan export run/ -o generator.onnx             for ONNX Runtime, browsers and many others
    wgan export run/ -o generator.pt2              for torch.export.load, without this package
    wgan export run/ -o generator.safetensors      weights alone
    wgan export run/ --critic -o critic.onnx

    Write the generator to a file for other programs; prints the path written.

    Inputs are `latent` [batch, L], and of a run with --labels `class`, numbers [batch]. The output is `image`
    [batch, C, H, W] in [-1, 1]. A critic takes `image` and gives `score` [batch]. Points are `point` [batch, 2].
    The file is run on 64 latents, and not kept if it differs from the checkpoint.
    """
    check_stdout()
    if Path(out).suffix.lower() not in (".onnx", ".pt2", ".safetensors"):
        raise UsageError(f"-o {out}: must end in .onnx, .pt2 or .safetensors")
    check_writable(Path(out), "-o")
    if critic and raw:
        raise UsageError("--raw: a critic has no averaged weights; leave the flag out")
    if critic and uint8:
        raise UsageError("--uint8: a critic gives scores; leave --critic out")
    if uint8 and Path(out).suffix.lower() == ".safetensors":
        raise UsageError(f"--uint8: -o {out} holds weights alone; choose .onnx or .pt2")

    from ..export import export as write

    write(checkpoint, Path(out), console, critic=critic, raw=raw, uint8=uint8)
    click.echo(os.fsencode(out))
