// Searches the config, and opens what it finds.
const tree = document.querySelector(".tree");
const search = document.getElementById("search");

function filter(list, words) {
  let any = false;
  for (const item of list.children) {
    const inner = item.querySelector(":scope > details");
    const own = (inner ? inner.querySelector("summary") : item).textContent.toLowerCase();
    const whole = words.every((word) => own.includes(word));
    const found = inner ? filter(inner.querySelector("ul"), whole ? [] : words) || whole : whole;
    item.hidden = !found;
    if (inner && words.length) inner.open = found;
    any ||= found;
  }
  return any;
}

search?.addEventListener("input", () => {
  filter(tree.querySelector("ul"), search.value.toLowerCase().split(/\s+/).filter(Boolean));
});
document.getElementById("all")?.addEventListener("click", ({ target }) => {
  const open = target.textContent === "Open all";
  for (const part of tree.querySelectorAll("details")) part.open = open;
  target.textContent = open ? "Close all" : "Open all";
});
