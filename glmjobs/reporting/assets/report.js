// Model output is text: it reaches the page only through textContent, never as markup.
(() => {
  "use strict";
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
    step: (v) => `step ${v.toLocaleString("en")}`, time: elapsed,
  };
  const charts = read("chart-data");
  for (const figure of document.querySelectorAll("figure[data-chart]")) {
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

  // ---- predictions: filtered by outcome and text, rendered as far as one scrolls
  const list = document.getElementById("rows");
  if (!list) return;
  const { rows, outcomes, labels } = read("prediction-data");
  const BATCH = 40;
  const search = document.getElementById("search");
  const box = document.getElementById("box");
  const status = document.getElementById("shown");
  const more = document.getElementById("more");
  const buttons = [...document.querySelectorAll("button[data-outcome]")];
  let chosen = "", found = rows, rendered = 0;

  const haystack = (row) => (row.hay ??= [
    row.id, row.question, ...row.gold, row.gold_value,
    ...Object.values(row.answers).flatMap((a) => [a.text.join(""), a.value, a.reason]),
  ].join("\n").toLowerCase());

  const marked = (pieces) => {
    const text = make("div", "text");
    text.dir = "auto";
    text.append(pieces[0]);
    if (pieces[1]) text.append(make("mark", "", pieces[1]), pieces[2]);
    return text;
  };
  const verdict = (answer) => {
    const marked = answer.status === "marked";
    const said = marked ? (answer.correct ? "right" : "wrong") : answer.status;
    const node = make("span", marked ? `v ${said}` : "v", answer.value || (marked ? "no answer" : said));
    node.dir = "auto";
    node.title = `${said}: ${answer.value || "no answer found"}`;
    return node;
  };
  const block = (title, pieces, extra, wide) => {
    const node = make("div", wide ? "wide" : "");
    const head = make("h3", "", title);
    if (extra) head.append(extra);
    node.append(head, marked(pieces));
    return node;
  };
  const trace = (steps) => {
    const node = make("details", "trace");
    node.append(make("summary", "", `How it was marked: ${steps.length} rules`));
    const body = make("table");
    for (const step of steps) {
      const line = make("tr");
      for (const part of step) line.append(make("td", "", part));
      body.append(line);
    }
    node.append(body);
    return node;
  };
  const panel = (row) => {
    const node = make("div", "panel");
    node.append(block("Question", [row.question, "", ""], null, true));
    node.append(block("Gold answer", row.gold, row.gold_value ? make("span", "v", row.gold_value) : null));
    for (const [model, answer] of Object.entries(row.answers)) {
      const one = block(labels[model] ?? model, answer.text, verdict(answer));
      const tokens = answer.tokens && `${answer.tokens} tokens`;
      const ended = answer.finish === "length" ? "cut at the token limit" : "";
      const why = [answer.reason, tokens, ended].filter(Boolean).join(" · ");
      if (why) one.append(make("p", "why", why));
      if (answer.second) one.append(make("p", "why", `The second judge, ${answer.second}`));
      if (answer.trace.length) one.append(trace(answer.trace));
      node.append(one);
    }
    return node;
  };
  const entry = (row) => {
    const node = make("details", row.outcome);
    const head = make("summary");
    const values = make("span", "values");
    Object.values(row.answers).forEach((answer, index) => {
      if (index) values.append(make("span", "soft", "→"));
      values.append(verdict(answer));
    });
    const question = make("span", "q", row.question.slice(0, 300).replace(/\s+/g, " "));
    question.dir = "auto";
    head.append(make("span", "id", `#${row.id}`), question, values, make("span", "outcome", outcomes[row.outcome]));
    node.append(head);
    node.addEventListener("toggle", () => { if (node.open && node.children.length === 1) node.append(panel(row)); });
    return node;
  };

  const grow = () => {
    const part = document.createDocumentFragment();
    for (const row of found.slice(rendered, rendered + BATCH)) part.append(entry(row));
    list.append(part);
    rendered = Math.min(rendered + BATCH, found.length);
    more.hidden = rendered >= found.length;
    list.dataset.rendered = rendered;
  };
  const apply = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    found = rows.filter((row) => (!chosen || row.outcome === chosen || ((chosen === "unsure" || chosen === "disagree") && row[chosen])) && words.every((w) => haystack(row).includes(w)));
    list.replaceChildren();
    box.scrollTop = 0;
    rendered = 0;
    const all = rows.length.toLocaleString("en");
    status.textContent = found.length ? `${found.length.toLocaleString("en")} of ${all} rows` : `No row of ${all} matches.`;
    grow();
  };
  let timer = 0;
  search.addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(apply, 120); });
  for (const button of buttons) {
    button.addEventListener("click", () => {
      chosen = button.dataset.outcome;
      for (const other of buttons) other.setAttribute("aria-pressed", String(other === button));
      apply();
    });
  }
  more.addEventListener("click", grow);
  const watch = new IntersectionObserver((seen) => {
    if (!seen.at(-1).isIntersecting || more.hidden) return;
    grow();
    watch.unobserve(more); // observed anew, it reports again where it is still in sight
    watch.observe(more);
  }, { root: box, rootMargin: "800px" });
  watch.observe(more);
  apply();
})();
