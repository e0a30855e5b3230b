"""The page of examples/web/ in headless Chromium: what it draws is what `wgan sample` draws."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from browser import CHROMIUM, Page, browser
from numpy.typing import NDArray
from tiny import call, new_run, save

from wgan_cli.sample import latents

WEB = Path(__file__).parent.parent / "examples/web"
RUNTIME = "node_modules/onnxruntime-web/dist"
FILES = (f"{RUNTIME}/ort.wasm.bundle.min.mjs", f"{RUNTIME}/ort-wasm-simd-threaded.wasm")  # docs/export.md names them

for package in ("onnx", "onnxscript", "onnxruntime"):
    pytest.importorskip(package, reason=f"no {package}: pip install '.[export]'")
pytestmark = [
    pytest.mark.skipif(not CHROMIUM, reason="no Chromium"),
    pytest.mark.skipif(not (WEB / RUNTIME).exists(), reason="no onnxruntime-web: npm install --prefix examples/web"),
]

# What the canvas holds when it is drawn.
PIXELS = """new Promise((answer) => {
  const output = document.querySelector("output"), canvas = document.querySelector("canvas");
  function look() {
    if (/Error/.test(output.textContent)) return answer({error: output.textContent});
    if (!/samples? in/.test(output.textContent)) return requestAnimationFrame(look);
    const {width, height} = canvas, copy = Object.assign(document.createElement("canvas"), {width, height});
    const context = copy.getContext("2d", {willReadFrequently: true});  // or Chromium warns of it
    context.drawImage(canvas, 0, 0);
    answer({width, height, data: [...context.getImageData(0, 0, width, height).data]});
  }
  look();
})"""


def pixels(page: Page) -> NDArray[np.int64]:
    """[H, W, RGBA] of the canvas."""
    found = page.ask(PIXELS)
    assert "error" not in found, found
    return np.array(found["data"]).reshape(found["height"], found["width"], 4)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with browser(tmp_path_factory.mktemp("profile"), offline=False) as page:
        yield page


@pytest.fixture
def site(tmp_path: Path) -> Iterator[tuple[str, Path, list[str]]]:
    """Where it is served from, its folder, and the paths that have been asked for."""
    folder, asked = tmp_path / "site", list[str]()
    (folder / RUNTIME).mkdir(parents=True)
    for name in ("index.html", *FILES):
        shutil.copy(WEB / name, folder / name)

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *words: object) -> None:
            asked.append(self.path.partition("?")[0].lstrip("/"))

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder)) as server:
        threading.Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_port}/", folder, asked
        server.shutdown()


@pytest.mark.parametrize(
    "settings",
    [{"width": 16}, {"arch": "r3", "size": (28, 16), "channels": 1, "labels": "folders", "classes": ("cat", "dog")}],
    ids=["colour", "grey of a class"],
)
def test_the_page_draws_what_sample_draws(
    settings: dict[str, Any], page: Page, site: tuple[str, Path, list[str]], tmp_path: Path
) -> None:
    url, folder, asked = site
    state = new_run(**{"latent": 6, **settings})
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in state.generator.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 1.2 * (len(parameter) / parameter.numel()) ** 0.5)
    made = save(state, tmp_path / "ckpt.pt")
    classes = bool(state.config.classes)
    assert call("export", made, "-o", folder / "generator.onnx").code == 0
    words = ("--class", "dog") if classes else ()
    assert call("sample", made, "-n", "2", *words, "-o", tmp_path / "s.npy").code == 0
    wanted = np.load(tmp_path / "s.npy").astype(int)
    assert np.ptp(wanted) > 50 and (wanted[0] != wanted[1]).any()

    given = ",".join(str(float(value)) for value in latents(0, range(2), 6).ravel())
    page.open(f"{url}?latent={given}" + "&class=1" * classes)
    drawn = pixels(page)
    height, width = wanted.shape[1:3]
    assert drawn.shape == (height, 2 * width + 2, 4)
    left, right = drawn[:, :width], drawn[:, -width:]
    assert np.abs(np.stack([left, right])[..., :3] - wanted).max() <= 1  # grey is the same in all three
    assert (left[..., 3] == 255).all()

    assert page.errors == []
    page.open(url)
    before = pixels(page)
    assert before.shape == (4 * (height + 2) - 2, 4 * (width + 2) - 2, 4)
    page.ask("document.querySelector('output').textContent = ''")
    page.ask("document.querySelector('button').focus()")
    page.press("Enter")
    assert (pixels(page) != before).any()
    assert page.errors == []  # nor a warning
    assert set(asked) == {"", "generator.onnx", *FILES}


def test_the_page_says_what_is_wrong(page: Page, site: tuple[str, Path, list[str]]) -> None:
    url, folder, _ = site
    (folder / "generator.onnx").write_bytes(b"no network")
    page.open(url)
    with pytest.raises(AssertionError, match="protobuf"):
        pixels(page)
    (folder / RUNTIME).rename(folder / "elsewhere")
    page.open(url)
    with pytest.raises(AssertionError, match="ort.wasm.bundle"):
        pixels(page)
