"use strict";
// Tables of class "sortable" get a button in each heading: up, down, as they were.
(() => {
  // A cell's exact number waits in a tooltip ("p = 0.01" too); what is no number sorts as text, what is missing last.
  const keyOf = (cell) => {
    const exact = cell?.querySelector("[title]")?.title.replace(/^p = /, "");
    const text = cell?.textContent.trim() ?? "";
    if (text === "" || text === "–") return null;
    const number = Number(exact ?? text.replaceAll(",", "").replace("−", "-"));
    return Number.isNaN(number) ? text : number;
  };
  const order = (a, b) => {
    if (typeof a === typeof b) return typeof a === "number" ? a - b : a.localeCompare(b, undefined, { numeric: true });
    return typeof a === "number" ? -1 : 1;
  };
  for (const table of document.querySelectorAll("table.sortable")) {
    const body = table.tBodies[0];
    const rows = [...body.rows];
    const headings = [...table.tHead.rows[0].cells];
    headings.forEach((heading, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.className = "sorter";
      button.append(...heading.childNodes);
      heading.append(button);
      button.addEventListener("click", () => {
        const next = { none: "ascending", ascending: "descending", descending: "none" }[heading.ariaSort ?? "none"];
        for (const other of headings) other.removeAttribute("aria-sort");
        if (next !== "none") heading.ariaSort = next;
        const turn = next === "descending" ? -1 : 1;
        const keyed = rows.map((row) => [keyOf(row.cells[column]), row]);
        if (next !== "none") {
          keyed.sort(([a], [b]) => (a === null || b === null ? (a === null) - (b === null) : turn * order(a, b)));
        }
        body.append(...keyed.map(([, row]) => row));
      });
    });
  }
})();
