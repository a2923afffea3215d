// The report's own script: draws the embedded figures in the scheme's colours, and enlarges pictures.
"use strict";
(() => {
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const root = document.documentElement;
  const config = {
    responsive: true,
    displayModeBar: false,
  };

  // Colours stand in the figures as var(--name); only here is it known whether the page is light or dark.
  const resolve = (value, css, key = "") => {
    if (Array.isArray(value)) return value.map((item) => resolve(item, css, key));
    if (value !== null && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([name, item]) => [name, resolve(item, css, name)]));
    }
    const variable = key.endsWith("color") && /^var\((--[\w-]+)\)$/.exec(value);
    return variable ? css.getPropertyValue(variable[1]).trim() : value;
  };

  const draw = (section) => {
    const view = [...section.querySelectorAll("input[type=radio]:checked")].map((input) => input.value).join(" ");
    const css = getComputedStyle(root);
    const figure = resolve(figures[section.dataset.chart][view], css);
    const hidden = new Set([...section.querySelectorAll("[data-group][aria-pressed=false]")].map((b) => b.dataset.group));
    for (const trace of figure.data) trace.visible = !hidden.has(trace.legendgroup);
    figure.layout.font.family = css.getPropertyValue("--sans");
    const chart = section.querySelector(".chart");
    if (root.hasAttribute("data-printing")) figure.layout.width = 660;
    chart.setAttribute("aria-label", figure.layout.meta + ". The numbers stand in the table below.");
    return Plotly.react(chart, figure.data, figure.layout, config);
  };

  const sections = [...document.querySelectorAll("[data-chart]")];
  const drawAll = () => Promise.all(sections.map(draw));
  for (const section of sections) {
    section.addEventListener("change", () => draw(section));
    const save = section.querySelector(".save");
    save.hidden = false;
    save.addEventListener("click", () => {
      const chart = section.querySelector(".chart");
      const { width, height } = chart.getBoundingClientRect();
      Plotly.downloadImage(chart, { format: "svg", filename: section.id, width, height });
    });
    for (const button of section.querySelectorAll("[data-group]")) {
      button.addEventListener("click", () => {
        button.setAttribute("aria-pressed", button.getAttribute("aria-pressed") === "false");
        draw(section);
      });
    }
  }
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);

  // On paper: light colours, the paper's width, and every table open.
  let opened = [];
  addEventListener("beforeprint", () => {
    root.setAttribute("data-printing", "");
    opened = [...document.querySelectorAll("details:not([open])")];
    for (const details of opened) details.open = true;
    drawAll();
  });
  addEventListener("afterprint", () => {
    root.removeAttribute("data-printing");
    for (const details of opened) details.open = false;
    drawAll();
  });

  // Enlarged pictures: the arrow keys step through one example in place, so that two predictions can be flicked between.
  const viewer = document.getElementById("viewer");
  let buttons = [];
  let place = 0;
  const show = (index) => {
    place = (index + buttons.length) % buttons.length;
    const figure = buttons[place].closest("figure");
    const copy = figure.querySelector("img").cloneNode();
    viewer.querySelector(".stage").replaceChildren(copy);
    viewer.querySelector("figcaption").replaceChildren(...figure.querySelector("figcaption").cloneNode(true).childNodes);
  };
  for (const example of document.querySelectorAll(".example")) {
    const own = [...example.querySelectorAll("button.enlarge")];
    own.forEach((button, index) =>
      button.addEventListener("click", () => {
        buttons = own;
        show(index);
        viewer.showModal();
      }),
    );
  }
  if (viewer) {
    viewer.addEventListener("keydown", (event) => {
      if (event.key === "ArrowRight") show(place + 1);
      if (event.key === "ArrowLeft") show(place - 1);
    });
    viewer.querySelector(".previous").addEventListener("click", () => show(place - 1));
    viewer.querySelector(".next").addEventListener("click", () => show(place + 1));
    viewer.querySelector(".close").addEventListener("click", () => viewer.close());
    viewer.addEventListener("click", (event) => {
      if (event.target === viewer) viewer.close();
    });
  }

  drawAll().then(() => root.setAttribute("data-ready", ""));
})();
