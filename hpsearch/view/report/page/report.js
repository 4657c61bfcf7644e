"use strict";
// Unpacks plotly.js, then draws the figures one after another, so that the text can be read at
// once, and again in the other colours when the system turns dark or light.
(async () => {
  const root = document.documentElement;
  const { figures, dark } = JSON.parse(document.getElementById("figures").textContent);
  const night = matchMedia("(prefers-color-scheme: dark)");
  const narrow = matchMedia("(max-width: 44rem)");

  async function loadPlotly() {
    const packed = atob(document.getElementById("plotly").textContent);
    const bytes = new Blob([Uint8Array.from(packed, (character) => character.charCodeAt(0))]);
    const script = document.createElement("script");
    script.textContent = await new Response(bytes.stream().pipeThrough(new DecompressionStream("gzip"))).text();
    document.head.append(script);
  }

  function coloured(value) {
    if (typeof value === "string") return (night.matches && dark[value]) || value;
    if (Array.isArray(value)) return value.map(coloured);
    if (value === null || typeof value !== "object") return value;
    return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, coloured(inner)]));
  }

  function draw(node) {
    const { data, layout } = coloured(figures[node.id]);
    layout.autosize = true;
    if (narrow.matches) {
      layout.dragmode = false; // a finger scrolls the page
      layout.font.size = 12;
    }
    return Plotly.react(node, data, layout, { responsive: true, displaylogo: false, displayModeBar: false });
  }

  async function drawAll() {
    for (const node of document.querySelectorAll(".figure")) {
      await new Promise((done) => setTimeout(done));
      await draw(node);
    }
    root.dataset.drawn = "all";
  }

  // In place of each figure, text says what it would show.
  function explain() {
    const note = document.createElement("p");
    note.className = "missing";
    note.textContent = "This browser cannot unpack the figures (it lacks DecompressionStream): open the page in a browser of 2023 or later. The text and tables are complete.";
    document.querySelector("main").prepend(note);
    for (const node of document.querySelectorAll(".figure")) {
      node.removeAttribute("style");
      node.textContent = node.getAttribute("aria-label");
    }
    root.dataset.drawn = "none";
  }

  if (typeof DecompressionStream === "undefined") return explain();
  await loadPlotly();
  night.addEventListener("change", drawAll);
  drawAll();
})();
