// The page is asked for again while one looks at it; what changed is put in, section by section. Nothing that it holds
// can run: the page's policy allows this script alone.
(() => {
  const EVERY = 2000;
  const fresh = document.getElementById("fresh");
  let version = "", asking = false;

  const replace = (old, now) => {
    if (old.outerHTML === now.outerHTML) return;
    const open = [...old.querySelectorAll("details")].map((d) => d.open);
    const places = [...old.querySelectorAll("pre, .scroll")].map((box) => [box.scrollLeft, box.scrollTop, box.scrollTop + box.clientHeight >= box.scrollHeight - 4]);
    const node = document.importNode(now, true);
    old.replaceWith(node);
    [...node.querySelectorAll("details")].forEach((d, i) => { if (open[i] !== undefined) d.open = open[i]; });
    [...node.querySelectorAll("pre, .scroll")].forEach((box, i) => {
      const [left, top, end] = places[i] ?? [0, 0, true];
      box.scrollLeft = left;
      box.scrollTop = end ? box.scrollHeight : top; // whoever reads the end of a log goes on seeing its end
    });
  };
  const refresh = async () => {
    if (asking || document.hidden) return;
    asking = true;
    try {
      const answer = await fetch(`${location.pathname}?seen=${version}`, { cache: "no-store" });
      if (answer.status === 200) {
        const page = new DOMParser().parseFromString(await answer.text(), "text/html");
        version = answer.headers.get("X-Version") ?? "";
        for (const part of [...page.querySelectorAll("main > section")]) {
          const old = document.getElementById(part.id);
          if (old) replace(old, part);
        }
        for (const kind of ["h1", ".facts"]) replace(document.querySelector(kind), page.querySelector(kind));
        document.getElementById("chart-data").textContent = page.getElementById("chart-data").textContent;
        document.title = page.title;
        bindCharts();
      }
      fresh.textContent = answer.ok ? `Up to date at ${new Date().toLocaleTimeString()}.` : `The server answers ${answer.status}: shown is what was last known.`;
      fresh.classList.toggle("away", !answer.ok);
    } catch {
      fresh.textContent = "The server does not answer (has it ended?): shown is what was last known.";
      fresh.classList.add("away");
    }
    asking = false;
  };
  bindCharts();
  for (const log of document.querySelectorAll("#logs pre")) log.scrollTop = log.scrollHeight;
  setInterval(refresh, EVERY);
  document.addEventListener("visibilitychange", refresh);
  refresh();
})();
