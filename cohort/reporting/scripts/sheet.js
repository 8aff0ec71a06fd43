"use strict";
// The contact sheet: filter by state, recipe, flag and text; sort by name or by any measurement.
(() => {
  const sheet = document.getElementById("sheet");
  const controls = document.getElementById("sheet-controls");
  if (!sheet || !controls) return;
  const field = (name) => document.getElementById(`sheet-${name}`);
  const [words, state, recipe, flag, by, way, told] =
    ["text", "state", "recipe", "flag", "by", "way", "count"].map(field);
  const cells = [...sheet.children].map((cell) => ({
    cell,
    name: cell.dataset.name,
    text: cell.textContent.toLowerCase(),
    states: JSON.parse(cell.dataset.states),
    flags: JSON.parse(cell.dataset.flags),
    values: JSON.parse(cell.dataset.values),
    value: cell.querySelector(".cell-value"),
  }));

  const fits = (each) => {
    const states = recipe.value ? [each.states[recipe.value] ?? "not measured"] : Object.values(each.states);
    if (state.value && !states.includes(state.value)) return false;
    if (!state.value && recipe.value && !(recipe.value in each.states)) return false;
    if (flag.value && !each.flags.includes(flag.value)) return false;
    return words.value.toLowerCase().split(/\s+/).every((word) => each.text.includes(word));
  };

  const filter = () => {
    let shown = 0;
    for (const each of cells) {
      each.cell.hidden = !fits(each);
      shown += each.cell.hidden ? 0 : 1;
    }
    told.textContent = `${shown} of ${cells.length} ${cells.length === 1 ? "scan" : "scans"} shown`;
    document.dispatchEvent(new Event("sheet-filtered"));
  };

  const sort = () => {
    const turn = way.value === "down" ? -1 : 1;
    const number = by.value === "" || by.value === "name" ? null : Number(by.value);
    const key = (each) => (number === null ? each.name : each.values[number]);
    const sorted = [...cells];
    if (by.value) {
      sorted.sort((one, other) => {
        const [a, b] = [key(one), key(other)];
        if (a === null || b === null) return (a === null) - (b === null);
        return turn * (number === null ? a.localeCompare(b, undefined, { numeric: true }) : a - b);
      });
    }
    way.disabled = !by.value;
    for (const each of cells) {
      const value = number === null ? undefined : each.values[number];
      each.value.textContent =
        value === undefined ? "" : value === null ? "no value" : value.toLocaleString("en", { maximumSignificantDigits: 4 });
    }
    sheet.append(...sorted.map((each) => each.cell));
  };

  for (const control of [words, state, recipe, flag]) control.addEventListener("input", filter);
  for (const control of [by, way]) control.addEventListener("input", sort);
  field("reset").addEventListener("click", () => {
    for (const control of [words, state, recipe, flag, by, way]) {
      if (control.matches("select")) control.selectedIndex = 0;
      else control.value = "";
    }
    sort();
    filter();
    words.focus();
  });
  controls.hidden = false;
  sort();
  filter();
})();
