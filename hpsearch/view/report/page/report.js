"use strict";
// Draws the figures one after another, so that the words can be read at once, and again in the
// other colours when the system turns dark or light.
(() => {
  const { figures, dark } = JSON.parse(document.getElementById("figures").textContent);
  const night = matchMedia("(prefers-color-scheme: dark)");
  const narrow = matchMedia("(max-width: 44rem)");

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
    document.documentElement.dataset.drawn = "all";
  }

  night.addEventListener("change", drawAll);
  drawAll();
})();
