// Filters, sorts, hides and highlights the runs of the table, and their curves with them.
const table = document.querySelector(".runs");
const rows = [...table.tBodies[0].rows];
const search = document.getElementById("search");
const all = document.getElementById("all");
const tickOf = (row) => row.querySelector("input");

// `lr=0.1` is the value of a setting, other words are any part of a row's text, -word is none
function matches(row, word) {
  if (word.length > 1 && word.startsWith("-")) return !matches(row, word.slice(1));
  const [name, value] = word.split("=", 2);
  if (!name || !value) return `${row.cells[1].textContent} ${row.dataset.text}`.toLowerCase().includes(word);
  return row.dataset.text.toLowerCase().split(" ").some((setting) => {
    const cut = setting.indexOf("="), own = setting.slice(0, cut), its = setting.slice(cut + 1);
    const same = its === value || (its !== "" && Number(its) === Number(value));
    return (own === name || own.endsWith(`.${name}`)) && same;
  });
}

function update() {
  const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
  let count = 0;
  for (const row of rows) {
    row.hidden = !words.every((word) => matches(row, word));
    count += !row.hidden;
    const run = Number(row.dataset.run), shown = !row.hidden && tickOf(row).checked;
    row.classList.toggle("off", !tickOf(row).checked);
    row.classList.toggle("chosen", run === view.marked);
    if (shown) view.hidden.delete(run); else view.hidden.add(run);
  }
  document.getElementById("count").textContent = words.length ? `${count} of ${rows.length} runs` : "";
  drawAll();
}

function sortBy(column, isDown) {
  const key = (row) => row.cells[column].textContent.trim();
  const number = (text) => Number(text.replaceAll(",", ""));
  rows.sort((a, b) => {
    const [one, other] = [key(a), key(b)];
    if (!one || !other) return (one ? 0 : 1) - (other ? 0 : 1);
    const difference = number(one) - number(other);
    const order = Number.isNaN(difference) ? one.localeCompare(other) : difference;
    return isDown ? -order : order;
  });
  table.tBodies[0].append(...rows);
}

for (const row of rows) {
  tickOf(row).hidden = false;
  row.querySelector(".swatch").style.setProperty("--c", colorOf(Number(row.dataset.run)));
  row.addEventListener("click", ({ target }) => {
    if (target.closest("a, .mark")) return;
    const run = Number(row.dataset.run);
    view.marked = view.marked === run ? null : run;
    update();
  });
  tickOf(row).addEventListener("change", update);
}
all.hidden = false;
all.addEventListener("change", () => {
  for (const row of rows) if (!row.hidden) tickOf(row).checked = all.checked;
  update();
});
[...table.tHead.rows[0].cells].forEach((head, column) => {
  let isDown = false;
  if (column) head.addEventListener("click", () => { sortBy(column, isDown); isDown = !isDown; });
});
let waiting = 0;
search.addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(update, 120); });
