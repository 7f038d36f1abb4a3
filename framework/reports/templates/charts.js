"use strict";
// Draws the curves in the page's data as SVG. Texts go in as text, never as markup.
const data = JSON.parse(document.getElementById("data").textContent);
const view = { x: "step", y: "auto", hidden: new Set(), marked: null };
const WIDTH = 420, HEIGHT = 230, LEFT = 52, RIGHT = 20, TOP = 8, BOTTOM = 36;
const PALETTE = 7;

function make(name, attributes = {}, text = "") {
  const isSvg = ["svg", "g", "path", "line", "circle", "text"].includes(name);
  const made = isSvg ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== "") made.textContent = text;
  return made;
}

function colorOf(number) {
  if (data.runs.length <= PALETTE) return `var(--c${number % PALETTE})`;
  return `hsl(${(number * 137.508) % 360} 65% ${number % 2 ? 42 : 56}%)`;
}

function seriesColor(series, place) {
  if (!series.kind) return colorOf(series.run);
  const known = { "train-step": 0, train: 0, val: 1, test: 2 };
  return `var(--c${known[series.kind] ?? 3 + (place % 4)})`;
}

function short(value) {
  const size = Math.abs(value);
  if (size >= 1e5 && size < 1e15 && Number.isInteger(value)) return value.toLocaleString("en");
  return size !== 0 && (size < 1e-3 || size >= 1e6) ? value.toExponential(2) : String(Number(value.toPrecision(4)));
}

// the text of a mark on an axis, with as many digits as tell it from the next
function label(tick) {
  const size = Math.abs(tick);
  if (size >= 1e4 && Number.isInteger(tick)) return size < 1e6 ? tick.toLocaleString("en") : `${Number((tick / 1e6).toPrecision(6))}M`;
  return size !== 0 && size < 1e-4 ? tick.toExponential() : String(Number(tick.toPrecision(7)));
}

// the last place in a sorted list that is not above a value
function placeOf(list, value) {
  let low = 0, high = list.length - 1;
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (list[middle] <= value) low = middle; else high = middle - 1;
  }
  return low;
}

function epochAt(run, step) {
  const { steps, epochs } = data.runs[run];
  const k = placeOf(steps, step);
  if (k + 1 >= steps.length) return epochs[k];
  const share = (step - steps[k]) / (steps[k + 1] - steps[k]);
  return epochs[k] + Math.min(Math.max(share, 0), 1) * (epochs[k + 1] - epochs[k]);
}

function places(series) {
  return view.x === "step" ? series.steps : series.steps.map((step) => epochAt(series.run, step));
}

function niceTicks(low, high, count) {
  const rough = (high - low) / count, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((k) => k * power).find((one) => one >= rough * 0.75);
  const ticks = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + step * 1e-9; k++) ticks.push(Number((k * step).toPrecision(12)));
  return ticks;
}

function logTicks(low, high) {
  const ticks = [], decades = Math.log10(high / low);
  const steps = decades > 1.5 ? [1] : [1, 2, 5];
  const stride = Math.max(1, Math.ceil(decades / 6));
  for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power += stride)
    for (const k of steps) {
      const tick = Number((k * 10 ** power).toPrecision(3));
      if (tick >= low * 0.999 && tick <= high * 1.001) ticks.push(tick);
    }
  return ticks.length > 1 ? ticks : niceTicks(low, high, 4);
}

// what is drawn of a chart, with a function from each value to its place
function scales(chart) {
  const shown = chart.series.filter((one) => !view.hidden.has(one.run)).map((one) => ({ ...one, xs: places(one) }));
  let [low, high, end] = [Infinity, -Infinity, 0];
  for (const one of shown) {
    for (const value of one.values) { low = Math.min(low, value); high = Math.max(high, value); }
    for (const x of one.xs) end = Math.max(end, x);
  }
  if (!shown.length) return null;
  // what falls over decades, as a loss does
  const falls = shown.some((one) => one.values[0] > one.values.at(-1));
  const isLog = low > 0 && (view.y === "log" || (view.y === "auto" && chart.auto && falls && high / low > 100));
  if (isLog) {
    if (high / low < 1.001) { low /= 1.5; high *= 1.5; }
    const pad = (high / low) ** 0.04;
    low /= pad; high *= pad;
  } else {
    if (high === low) [low, high] = high > 0 ? [0, 2 * high] : [low - 1, high + 1];
    const pad = 0.05 * (high - low), fromZero = low >= 0 && low < 0.5 * high;
    high += pad;
    low = fromZero ? 0 : low - pad;
  }
  const scaled = isLog ? Math.log : (value) => value;
  const [bottom, top] = [scaled(low), scaled(high)];
  return {
    shown, isLog, low, high, end: end || 1,
    x: (value) => LEFT + (value / (end || 1)) * (WIDTH - LEFT - RIGHT),
    y: (value) => HEIGHT - BOTTOM - ((scaled(value) - bottom) / (top - bottom)) * (HEIGHT - TOP - BOTTOM),
  };
}

function axes(svg, scale) {
  const down = HEIGHT - BOTTOM;
  for (const tick of scale.isLog ? logTicks(scale.low, scale.high) : niceTicks(scale.low, scale.high, 5)) {
    const y = scale.y(tick);
    svg.append(make("line", { class: "grid", x1: LEFT, x2: WIDTH - RIGHT, y1: y, y2: y }));
    svg.append(make("text", { x: LEFT - 6, y: y + 4, "text-anchor": "end" }, label(tick)));
  }
  for (const tick of niceTicks(0, scale.end, 5)) {
    const x = scale.x(tick);
    svg.append(make("line", { class: "grid", x1: x, x2: x, y1: down, y2: down + 4 }));
    svg.append(make("text", { x, y: down + 16, "text-anchor": "middle" }, label(tick)));
  }
  const name = view.x === "step" ? "optimizer step" : "epoch";
  svg.append(make("text", { x: (LEFT + WIDTH - RIGHT) / 2, y: HEIGHT - 4, "text-anchor": "middle" }, name));
}

function curve(series, scale, place) {
  const group = make("g");
  group.style.setProperty("--c", seriesColor(series, place));
  if (view.marked !== null) group.classList.add(series.run === view.marked ? "marked" : "faded");
  const points = series.xs.map((x, k) => [scale.x(x), scale.y(series.values[k])]);
  const way = points.map(([x, y], k) => `${k ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`).join("");
  group.append(make("path", { class: `curve ${series.kind ?? ""}`, d: way }));
  const few = data.runs.length > PALETTE ? 1 : 30;
  if (series.kind !== "train-step" && points.length <= few)
    for (const [x, y] of points) group.append(make("circle", { class: "dot", cx: x, cy: y, r: 2.6 }));
  return group;
}

function legend(shown) {
  const list = make("ul", { class: "legend" });
  shown.forEach((series, place) => {
    const item = make("li"), swatch = make("span", { class: `swatch ${series.kind ?? ""}` });
    swatch.style.setProperty("--c", seriesColor(series, place));
    item.append(swatch, `${series.label} `, make("b", {}, short(series.values.at(-1))));
    list.append(item);
  });
  return list;
}

function nearest(series, x) {
  const k = placeOf(series.xs, x);
  return k + 1 < series.xs.length && series.xs[k + 1] - x < x - series.xs[k] ? k + 1 : k;
}

// a line at the pointer, and the values there
function follow(svg, tip, scale) {
  const cursor = make("line", { class: "cursor", y1: TOP, y2: HEIGHT - BOTTOM });
  const dots = make("g");
  const leave = () => { cursor.remove(); dots.remove(); tip.hidden = true; };
  svg.addEventListener("pointerleave", leave);
  const move = (event) => {
    const box = svg.getBoundingClientRect();
    const px = ((event.clientX - box.left) / box.width) * WIDTH, py = ((event.clientY - box.top) / box.height) * HEIGHT;
    const x = ((px - LEFT) / (WIDTH - LEFT - RIGHT)) * scale.end;
    if (x < -0.02 * scale.end || x > 1.02 * scale.end) return leave();
    const found = scale.shown.map((series, place) => {
      const k = nearest(series, x);
      return { series, place, k, far: Math.abs(scale.y(series.values[k]) - py) };
    });
    if (found.length > 10) found.sort((a, b) => a.far - b.far).splice(10);
    const first = found.reduce((a, b) => Math.abs(a.series.xs[a.k] - x) <= Math.abs(b.series.xs[b.k] - x) ? a : b);
    const at = first.series.xs[first.k], sx = scale.x(at);
    cursor.setAttribute("x1", sx);
    cursor.setAttribute("x2", sx);
    dots.replaceChildren();
    tip.replaceChildren(make("div", {}, `${view.x} ${short(at)}`));
    for (const { series, place, k } of found) {
      const color = seriesColor(series, place), value = series.values[k], swatch = make("span", { class: "swatch" });
      const dot = make("circle", { class: "dot", cx: scale.x(series.xs[k]), cy: scale.y(value), r: 3.2 });
      dot.style.setProperty("--c", color);
      swatch.style.setProperty("--c", color);
      dots.append(dot);
      const line = make("div");
      const apart = Math.abs(series.xs[k] - at) > 0.01 * scale.end ? ` (${view.x} ${short(series.xs[k])})` : "";
      line.append(swatch, make("b", {}, short(value)), ` ${series.label || data.runs[series.run].name}${apart}`);
      tip.append(line);
    }
    svg.append(cursor, dots);
    tip.hidden = false;
    const share = sx / WIDTH;
    tip.style.top = `${box.top - svg.parentNode.getBoundingClientRect().top + 6}px`;
    tip.style.left = share < 0.5 ? `${share * 100 + 3}%` : "auto";
    tip.style.right = share < 0.5 ? "auto" : `${(1 - share) * 100 + 3}%`;
  };
  svg.addEventListener("pointermove", move);
  svg.addEventListener("pointerdown", move);
}

function draw(chart) {
  const figure = make("figure", { class: "chart" });
  const title = make("h3", {}, chart.title);
  if (chart.unit) title.append(make("small", {}, chart.unit));
  figure.append(title);
  const scale = scales(chart);
  if (scale === null) {
    figure.append(make("p", {}, "No run that is shown has it."));
    return figure;
  }
  const svg = make("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": chart.title });
  const tip = make("div", { class: "tip", hidden: "" });
  axes(svg, scale);
  scale.shown.forEach((series, place) => svg.append(curve(series, scale, place)));
  follow(svg, tip, scale);
  figure.append(svg, tip);
  if (scale.shown.some((series) => series.label)) figure.append(legend(scale.shown));
  return figure;
}

function drawAll() {
  document.querySelector(".charts")?.replaceChildren(...data.charts.map(draw));
}

for (const part of document.querySelectorAll(".controls")) part.hidden = false;
for (const axis of ["x", "y"]) {
  const chosen = document.getElementById(`${axis}-axis`);
  chosen?.addEventListener("change", () => { view[axis] = chosen.value; drawAll(); });
}
drawAll();
