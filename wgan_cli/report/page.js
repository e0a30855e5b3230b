"use strict";
const moving = JSON.parse(document.getElementById("moving").textContent);
const at = (id) => document.getElementById(id);
const number = (value) => value.toLocaleString("en", { maximumSignificantDigits: 4 });

function make(name, attributes = {}, ...children) {
  const drawn = ["svg", "path", "line", "text", "circle", "rect"].includes(name);
  const made = drawn ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

// ---- Samples over the steps

if (moving.frames) {
  const slider = at("step"), image = at("frame");
  const what = image.alt.replace(/\d+$/, "");
  const show = () => {
    const frame = moving.frames[slider.value];
    const step = frame.step.toLocaleString("en");
    image.src = frame.src;
    image.alt = what + frame.step;
    at("told").textContent = step;
    slider.setAttribute("aria-valuetext", `step ${step}`);
  };
  slider.addEventListener("input", show);
  show();
  for (const radio of document.querySelectorAll("[name=zoom]")) {
    radio.addEventListener("change", () => {
      const times = Number(radio.value);
      image.style.width = times ? `${times * image.getAttribute("width")}px` : "";
    });
  }
}

// ---- The walk between latents

if (moving.walk) {
  const walk = moving.walk, sheet = new Image(), button = at("play");
  const tiles = Array.from({ length: walk.count }, (_, place) => {
    const name = walk.classes[place];
    const label = `walk ${place + 1}` + (name === undefined ? "" : `, class ${name}`);
    const canvas = make("canvas", { width: walk.width, height: walk.height, role: "img", "aria-label": label });
    at("tiles").append(make("figure", {}, canvas, ...(name === undefined ? [] : [make("figcaption", {}, name)])));
    return canvas.getContext("2d");
  });
  let frame = 0, timer = 0;
  const draw = () => {
    const left = (frame % walk.columns) * walk.count * walk.width, top = Math.floor(frame / walk.columns) * walk.height;
    tiles.forEach((tile, place) => {
      tile.clearRect(0, 0, walk.width, walk.height);
      const from = [left + place * walk.width, top, walk.width, walk.height];
      tile.drawImage(sheet, ...from, 0, 0, walk.width, walk.height);
    });
  };
  const turn = () => {
    frame = (frame + 1) % walk.frames;
    draw();
  };
  const play = (on) => {
    clearInterval(timer);
    timer = on ? setInterval(turn, 90) : 0;
    button.textContent = on ? "Pause" : "Play";
  };
  button.addEventListener("click", () => play(!timer));
  sheet.addEventListener("load", () => {
    draw();
    play(!matchMedia("(prefers-reduced-motion: reduce)").matches);
  });
  sheet.src = walk.src;
}

// ---- Curves: every panel has a cursor, and all cursors stand at one step

function ticks(low, high, count, log) {
  if (log) {
    const found = [];
    for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++) {
      for (const times of [1, 2, 5]) found.push(times * 10 ** power);
    }
    const inside = found.filter((value) => value >= low && value <= high);
    const powers = inside.filter((value) => /^1/.test(value.toExponential()));
    return inside.length <= 7 || powers.length < 2 ? inside : powers;
  }
  const rough = (high - low) / count, power = 10 ** Math.floor(Math.log10(rough));
  const gap = power * [1, 2, 5, 10].find((times) => times * power >= rough);
  const found = [];
  for (let i = Math.ceil(low / gap - 1e-9); i * gap <= high + 1e-9 * gap; i++) found.push(i * gap + 0);
  return found;
}

function nearest(steps, step) {
  let best = 0;
  steps.forEach((value, place) => {
    if (Math.abs(value - step) < Math.abs(steps[best] - step)) best = place;
  });
  return best;
}

const panels = moving.panels.map((panel) => {
  const all = panel.lines.flatMap((line) => line.values);
  const medians = panel.lines.filter((line) => line.kind !== "faint").flatMap((line) => line.values);
  const sorted = [...all].sort((a, b) => a - b), tenth = Math.floor(all.length / 10), last = all.length - 1;
  let low = sorted[0], high = sorted[last];
  const most = [Math.min(...medians, sorted[tenth]), Math.max(...medians, sorted[last - tenth])];
  if (high - low > 3 * (most[1] - most[0]) && !panel.log) [low, high] = most; // a few batches would flatten the rest
  if (panel.log) low = Math.max(0.7 * Math.min(...medians), 1e-12);
  else if (low > 0) low = 0;
  if (high <= low) high = low + 1;
  const steps = [...new Set(panel.lines.flatMap((line) => line.steps))].sort((a, b) => a - b);
  const plot = make("div", {
    class: "plot", tabindex: 0, role: "slider", "aria-label": `${panel.title}, values by step`,
    "aria-valuemin": steps[0], "aria-valuemax": steps[steps.length - 1],
  });
  const values = panel.lines.map(() => make("b"));
  const at_step = make("li", { class: "at" });
  const legend = make("ul", { class: "legend" }, at_step, ...panel.lines.map((line, place) => make(
    "li", { class: `c${line.color % 8}` },
    make("svg", { width: 24, height: 10, "aria-hidden": "true" }, make("path", { class: `stroke ${line.kind}`, d: "M0,5H24" })),
    line.label, values[place],
  )));
  const title = make("h3", {}, panel.title + (panel.log ? ", logarithmic scale" : ""));
  const cut = sorted[0] < low || sorted[last] > high ? " Some batches lie beyond the scale." : "";
  at("panels").append(make("div", { class: "panel" }, title, make("p", {}, panel.note + cut), legend, plot));
  return { ...panel, low, high, all: steps, plot, values, told: at_step };
});
const end = Math.max(...panels.map((panel) => panel.all[panel.all.length - 1]));
let cursor = end;

function draw(panel) {
  const width = panel.plot.clientWidth, height = panel.name === panels[0].name ? 280 : 170;
  const box = { left: 52, right: width - 14, top: 8, bottom: height - 24 };
  const scale = (value) => (panel.log ? Math.log(Math.max(value, panel.low)) : value);
  const span = scale(panel.high) - scale(panel.low);
  panel.x = (step) => box.left + (box.right - box.left) * (step / end);
  panel.step = (x) => ((x - box.left) / (box.right - box.left)) * end;
  const inside = { x: 0, y: box.top, width, height: box.bottom - box.top };
  const lines = make("svg", { ...inside, viewBox: `0 ${box.top} ${width} ${inside.height}` });
  const y = (value) => box.bottom - ((box.bottom - box.top) * (scale(value) - scale(panel.low))) / span;
  const svg = make("svg", { viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" });
  for (const value of ticks(panel.low, panel.high, height / 55, panel.log)) {
    svg.append(make("line", { class: "gridline", x1: box.left, x2: box.right, y1: y(value), y2: y(value) }));
    svg.append(make("text", { x: box.left - 6, y: y(value) + 4, "text-anchor": "end" }, number(value)));
  }
  for (const step of ticks(0, end, width / 90, false)) {
    const anchor = panel.x(step) > width - 40 ? "end" : "middle";
    const x = anchor === "end" ? box.right : panel.x(step);
    svg.append(make("text", { x, y: height - 6, "text-anchor": anchor }, step.toLocaleString("en")));
  }
  for (const line of panel.lines) {
    const points = line.values.map((value, place) => `${panel.x(line.steps[place]).toFixed(1)},${y(value).toFixed(1)}`);
    const one = points.length === 1 ? `h0.1` : "";
    lines.append(make("path", { class: `stroke ${line.kind} c${line.color % 8}`, "stroke-linecap": "round", d: `M${points.join("L")}${one}` }));
  }
  panel.mark = make("line", { class: "cursor", y1: box.top, y2: box.bottom });
  panel.dots = panel.lines.map((line) => make("circle", { class: `dot c${line.color % 8}`, r: 3.5 }));
  panel.y = (value) => Math.min(box.bottom, Math.max(box.top, y(value)));
  svg.append(lines, panel.mark, ...panel.dots);
  panel.plot.replaceChildren(svg);
}

function point(step) {
  cursor = Math.min(end, Math.max(0, step));
  for (const panel of panels) {
    const here = panel.all[nearest(panel.all, cursor)];
    panel.mark.setAttribute("x1", panel.x(here));
    panel.mark.setAttribute("x2", panel.x(here));
    const told = panel.lines.map((line, place) => {
      const found = nearest(line.steps, here), value = number(line.values[found]);
      panel.dots[place].setAttribute("cx", panel.x(line.steps[found]));
      panel.dots[place].setAttribute("cy", panel.y(line.values[found]));
      panel.values[place].textContent = value;
      return `${line.label} ${value}`;
    });
    panel.plot.setAttribute("aria-valuenow", here);
    panel.plot.setAttribute("aria-valuetext", `step ${here.toLocaleString("en")}: ${told.join(", ")}`);
    panel.told.textContent = `step ${here.toLocaleString("en")}`;
  }
}

for (const panel of panels) {
  for (const kind of ["pointermove", "pointerdown"]) {
    panel.plot.addEventListener(kind, (event) => {
      point(panel.step(event.clientX - panel.plot.getBoundingClientRect().left));
    });
  }
  panel.plot.addEventListener("keydown", (event) => {
    const here = nearest(panel.all, cursor), last = panel.all.length - 1;
    const moves = { ArrowLeft: here - 1, ArrowDown: here - 1, ArrowRight: here + 1, ArrowUp: here + 1 };
    const to = { ...moves, PageDown: here - 10, PageUp: here + 10, Home: 0, End: last }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    point(panel.all[Math.min(last, Math.max(0, to))]);
  });
}
const redraw = () => {
  panels.forEach(draw);
  point(cursor);
};
if (panels.length) {
  redraw();
  let width = innerWidth;
  addEventListener("resize", () => {
    if (innerWidth !== width) redraw();
    width = innerWidth;
  });
}

// ---- The command

if (at("copy")) {
  at("copy").addEventListener("click", async () => {
    const status = document.querySelector("[role=status]");
    getSelection().selectAllChildren(at("command"));
    try {
      await navigator.clipboard.writeText(at("command").textContent);
      status.textContent = "Copied.";
    } catch {
      status.textContent = document.execCommand("copy") ? "Copied." : "Marked: copy it with your keyboard.";
    }
  });
}
