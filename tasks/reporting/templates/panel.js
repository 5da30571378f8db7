"use strict";
// A column sorts by what its cells carry as data-sort; a cell without is last, whichever way.
const body = document.querySelector(".sortable tbody");
const heads = [...document.querySelectorAll(".sortable thead th")];
heads.forEach((head, place) => {
  head.firstChild.addEventListener("click", () => {
    // Numbers begin with the largest, names with the first; a second click turns it round.
    const first = head.classList.contains("n") ? "descending" : "ascending";
    const other = first === "ascending" ? "descending" : "ascending";
    const order = head.getAttribute("aria-sort") === first ? other : first;
    const sign = order === "ascending" ? 1 : -1;
    const key = (row) => row.cells[place]?.dataset.sort;
    const compared = (a, b) => (isNaN(a) || isNaN(b) ? a.localeCompare(b, "en", { numeric: true }) : a - b);
    const rows = [...body.rows].map((row) => [key(row), row]);
    rows.sort(([a], [b]) => (a === undefined) - (b === undefined) || (a === undefined ? 0 : sign * compared(a, b)));
    body.append(...rows.map(([, row]) => row));
    heads.forEach((one) => one.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", order);
  });
});
