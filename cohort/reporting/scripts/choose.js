"use strict";
// A scan that is chosen anywhere (a mark in a distribution, a row, a picture) is marked everywhere. Escape lets go.
(() => {
  const marks = new Map();
  for (const mark of document.querySelectorAll("[data-scan]")) {
    const { scan } = mark.dataset;
    marks.set(scan, [...(marks.get(scan) ?? []), mark]);
  }
  if (!marks.size) return;

  const bar = document.createElement("div");
  bar.className = "chosen-bar";
  bar.hidden = true;
  const said = document.createElement("p");
  said.setAttribute("role", "status");
  const clear = document.createElement("button");
  clear.type = "button";
  clear.textContent = "Let go (Escape)";
  bar.append(said, clear);
  document.body.append(bar);

  const chosen = new Set();

  // In a distribution the place of a scan is a line through the bars, thick enough for black and white, with its value.
  const point = (mark) => {
    const svg = mark.ownerSVGElement;
    const x = Number(mark.dataset.x);
    const make = (name, attributes) => {
      const node = document.createElementNS(svg.namespaceURI, name);
      for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
      svg.querySelector(".picked").append(node);
      return node;
    };
    make("path", { d: `M${x} 14V142` });
    const text = make("text", { x, y: 12 });
    text.textContent = mark.querySelector("title").textContent.split(": ").pop();
  };

  const show = () => {
    for (const group of document.querySelectorAll(".picked")) group.replaceChildren();
    for (const [scan, those] of marks) {
      for (const mark of those) {
        mark.classList.toggle("chosen", chosen.has(scan));
        if (mark.matches("li")) mark.ariaCurrent = chosen.has(scan) ? "true" : null;
        if (mark.ownerSVGElement && chosen.has(scan)) point(mark);
      }
    }
    const links = [...chosen].flatMap((scan, place) => {
      const link = document.createElement("a");
      link.href = `#${scan}`;
      link.textContent = document.getElementById(scan)?.dataset.name ?? scan;
      const hidden = document.getElementById(scan)?.hidden ? [" (hidden by the filter)"] : [];
      return [...(place ? [", "] : []), link, ...hidden];
    });
    bar.hidden = !chosen.size;
    said.replaceChildren(...(chosen.size ? ["Chosen: ", ...links] : []));
  };

  const letGo = () => {
    chosen.clear();
    show();
  };

  document.addEventListener("click", (event) => {
    const mark = event.target.closest?.("[data-scan]");
    if (!mark || getSelection()?.toString()) return;
    const { scan } = mark.dataset;
    // With Control, Shift or Command several scans are chosen; a second click lets one go.
    const several = event.ctrlKey || event.metaKey || event.shiftKey;
    const others = chosen.size - (chosen.has(scan) ? 1 : 0);
    const again = chosen.has(scan) && (several || !others);
    if (!several) chosen.clear();
    if (again) chosen.delete(scan);
    else chosen.add(scan);
    // A distribution stays in view: the bar below holds the way to the picture.
    if (mark.ownerSVGElement || several) event.preventDefault();
    show();
  });
  clear.addEventListener("click", letGo);
  document.addEventListener("sheet-filtered", show);
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && chosen.size) letGo();
  });
})();
