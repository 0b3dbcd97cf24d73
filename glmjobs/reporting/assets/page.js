"use strict";
// What every page has: the theme, and the value at a point of its charts.
const read = (id) => JSON.parse(document.getElementById(id).textContent);
const make = (name, className, text) => {
  const node = document.createElement(name);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
};

// ---- light and dark
const root = document.documentElement;
const toggle = document.getElementById("theme");
const remembered = () => { try { return localStorage.getItem("glmjobs-theme"); } catch { return null; } };
const system = matchMedia("(prefers-color-scheme: dark)");
const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
const label = () => {
  toggle.textContent = isDark() ? "Light" : "Dark";
  toggle.setAttribute("aria-label", `Switch to the ${isDark() ? "light" : "dark"} theme`);
};
const before = remembered();
if (before === "dark" || before === "light") root.dataset.theme = before;
toggle.hidden = false;
toggle.addEventListener("click", () => {
  root.dataset.theme = isDark() ? "light" : "dark";
  try { localStorage.setItem("glmjobs-theme", root.dataset.theme); } catch { /* a page opened without storage */ }
  label();
});
system.addEventListener("change", label);
label();

// ---- charts: the value at a point, by pointer or arrow keys
const SVG = "http://www.w3.org/2000/svg";
const plain = (v) => (v === 0 ? "0" : Math.abs(v) < 0.001 ? v.toExponential(2) : v.toLocaleString("en", { maximumSignificantDigits: 5 }));
const elapsed = (s) => {
  const h = Math.floor(s / 3600), m = Math.floor((s % 3600) / 60);
  return h ? `${h} h ${m} min` : m ? `${m} min ${Math.round(s % 60)} s` : `${Math.round(s)} s`;
};
const units = {
  number: plain, percent: (v) => `${v.toFixed(1)} %`, watts: (v) => `${v.toFixed(0)} W`,
  memory: (v) => `${v.toFixed(1)} GiB`, speed: (v) => `${plain(v)}/s`,
  share: (v) => `${(100 * v).toFixed(1)} %`,
  step: (v) => `step ${v.toLocaleString("en")}`, time: elapsed,
};
const bound = new WeakSet();
const bindCharts = () => { // charts that came since the last call, too
  const charts = read("chart-data");
  for (const figure of document.querySelectorAll("figure[data-chart]")) {
    if (bound.has(figure)) continue;
    bound.add(figure);
    const chart = charts[figure.dataset.chart];
    const svg = figure.querySelector("svg");
    if (!chart || !svg) continue;
    const out = figure.querySelector("output");
    const idle = out.textContent;
    const [left, right, top, bottom] = ["left", "right", "top", "bottom"].map((k) => Number(svg.dataset[k]));
    const [x0, x1] = svg.dataset.x.split(" ").map(Number);
    const [y0, y1] = svg.dataset.y.split(" ").map(Number);
    const points = chart.points;
    const cross = document.createElementNS(SVG, "line");
    const dot = document.createElementNS(SVG, "circle");
    cross.setAttribute("class", "cross"); cross.setAttribute("y1", top); cross.setAttribute("y2", bottom);
    dot.setAttribute("class", "at"); dot.setAttribute("r", 4);
    let at = -1;
    const show = (index) => {
      at = Math.max(0, Math.min(points.length - 1, index));
      const [x, y] = points[at];
      const px = left + ((x - x0) / (x1 - x0)) * (right - left);
      const py = bottom - ((Math.min(Math.max(y, y0), y1) - y0) / (y1 - y0)) * (bottom - top);
      cross.setAttribute("x1", px); cross.setAttribute("x2", px);
      dot.setAttribute("cx", px); dot.setAttribute("cy", py);
      svg.append(cross, dot);
      const range = points[at].length === 4 ? ` (${units[chart.y](points[at][2])} to ${units[chart.y](points[at][3])})` : "";
      out.textContent = `${units[chart.y](y)}${range} · ${units[chart.x](x)}`;
    };
    const hide = () => { cross.remove(); dot.remove(); out.textContent = idle; at = -1; };
    svg.addEventListener("pointermove", (event) => {
      const box = svg.getBoundingClientRect();
      const px = ((event.clientX - box.left) / box.width) * svg.viewBox.baseVal.width;
      const x = x0 + ((px - left) / (right - left)) * (x1 - x0);
      let low = 0, high = points.length - 1;
      while (high - low > 1) { const mid = (low + high) >> 1; if (points[mid][0] < x) low = mid; else high = mid; }
      show(Math.abs(points[low][0] - x) <= Math.abs(points[high][0] - x) ? low : high);
    });
    svg.addEventListener("pointerleave", hide);
    svg.addEventListener("blur", hide);
    svg.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1, PageUp: 20, PageDown: -20 }[event.key];
      if (step) { show(at < 0 ? 0 : at + step); event.preventDefault(); }
      if (event.key === "Home") { show(0); event.preventDefault(); }
      if (event.key === "End") { show(points.length - 1); event.preventDefault(); }
      if (event.key === "Escape") hide();
    });
  }
};
