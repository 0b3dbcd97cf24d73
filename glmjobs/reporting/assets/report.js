// Model output is text: it reaches the page only through textContent, never as markup.
bindCharts();

(() => {
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
