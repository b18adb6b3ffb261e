"use strict";
(() => {
  const $ = (id) => document.getElementById(id);
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];

  // The theme follows the system until the button is used.
  const theme = $("theme");
  const system = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (document.documentElement.dataset.theme ?? (system.matches ? "dark" : "light")) === "dark";
  const showTheme = () => theme.setAttribute("aria-pressed", String(isDark()));
  theme.addEventListener("click", () => {
    const chosen = isDark() ? "light" : "dark";
    document.documentElement.dataset.theme = chosen;
    try {
      localStorage.setItem("robust-eval-theme", chosen);
    } catch {
      // Without storage the choice is lost when the page is closed.
    }
    showTheme();
  });
  system.addEventListener("change", showTheme);
  showTheme();

  // Sorting. Rows without a value stay at the end in both directions.
  const compare = (a, b) => {
    const [x, y] = [Number(a), Number(b)];
    return Number.isNaN(x) || Number.isNaN(y) ? a.localeCompare(b, "en", { numeric: true }) : x - y;
  };
  const sort = (table, column, down) => {
    const body = table.tBodies[0];
    const value = (row) => row.cells[column].dataset.v;
    const rows = [...body.rows];
    const full = rows.filter((row) => value(row) !== "").sort((a, b) => compare(value(a), value(b)) * (down ? -1 : 1));
    body.append(...full, ...rows.filter((row) => value(row) === ""));
    all("th", table.tHead).forEach((head, number) => {
      head.setAttribute("aria-sort", number !== column ? "none" : down ? "descending" : "ascending");
    });
  };
  for (const button of all("thead th[aria-sort] button")) {
    button.addEventListener("click", () => {
      const head = button.closest("th");
      const before = head.getAttribute("aria-sort");
      // Numbers start with the largest, text and ranks with the smallest.
      const down = before === "none" ? head.classList.contains("num") : before === "ascending";
      sort(head.closest("table"), head.cellIndex, down);
    });
  }

  // Filters apply to every table of the page.
  const rows = all("#board tr[data-row]");
  const filter = () => {
    const words = $("find").value.toLocaleLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of rows) {
      const text = row.textContent.toLocaleLowerCase();
      const { architecture, ranked, flags, verified } = row.dataset;
      row.hidden = !(
        words.every((word) => text.includes(word)) &&
        ["", architecture].includes($("architecture").value) &&
        (ranked === "1" || !$("only-ranked").checked) &&
        (flags === "0" || !$("only-clean").checked) &&
        (verified === "1" || !$("only-verified").checked)
      );
      shown += row.hidden ? 0 : 1;
    }
    for (const mark of all("#board .mark[data-row]")) {
      mark.classList.toggle("off", $("at-" + mark.dataset.row).hidden);
    }
    for (const empty of all("#board .empty")) {
      empty.hidden = all("tbody tr", empty.previousElementSibling).some((row) => !row.hidden);
    }
    const total = rows.length === 1 ? "1 row" : `${rows.length} rows`;
    $("shown").textContent = shown === rows.length ? total : `${shown} of ${total}`;
  };
  $("filters").addEventListener("input", filter);
  $("filters").addEventListener("submit", (event) => event.preventDefault());
  filter();

  // Highlight a row and its points in the charts together.
  const light = (id, on) => all(`[data-row="${CSS.escape(id)}"]`).forEach((part) => part.classList.toggle("lit", on));
  for (const part of all("[data-row]")) {
    for (const [event, on] of [["pointerenter", true], ["pointerleave", false], ["focusin", true], ["focusout", false]]) {
      part.addEventListener(event, () => light(part.dataset.row, on));
    }
  }

  // The detail view is the target of the address. While it is open, the page below is inert.
  const target = () => {
    const found = $(location.hash.slice(1));
    return found?.matches(".detail") ? found : null;
  };
  const close = (id) => {
    const at = [scrollX, scrollY];
    location.hash = "at-" + id;
    scrollTo(...at);
  };
  const follow = () => {
    const open = target();
    const was = $("page").inert;
    $("page").inert = Boolean(open);
    document.documentElement.classList.toggle("covered", Boolean(open));
    if (open) {
      open.scrollTop = 0;
      open.focus({ preventScroll: true });
    } else if (was && location.hash.startsWith("#at-")) {
      document.querySelector(`${"#" + CSS.escape(location.hash.slice(1))} a`)?.focus({ preventScroll: true });
    }
  };
  addEventListener("hashchange", follow);
  addEventListener("keydown", (event) => {
    const open = target();
    if (!open || event.altKey || event.ctrlKey || event.metaKey) return;
    if (event.key === "Escape") close(open.id);
    else if (event.key === "ArrowLeft") open.querySelector('[rel="prev"]')?.click();
    else if (event.key === "ArrowRight") open.querySelector('[rel="next"]')?.click();
  });
  for (const detail of all(".detail")) {
    detail.addEventListener("click", (event) => {
      if (event.target === detail || event.target.closest(".close")) {
        event.preventDefault();
        close(detail.id);
      }
    });
  }
  for (const row of rows) {
    row.addEventListener("click", (event) => {
      if (!event.target.closest("a, button") && getSelection().isCollapsed) location.hash = row.dataset.row;
    });
  }
  follow();

  // CSV of the visible rows in their order. A leading quote prevents spreadsheets from evaluating formulas.
  const quoted = (value) => {
    const text = String(value ?? "");
    const inert = typeof value === "string" && /^[=+\-@\t\r]/.test(text) ? "'" + text : text;
    return `"${inert.replaceAll('"', '""')}"`;
  };
  $("download").addEventListener("click", () => {
    const board = JSON.parse($("data").textContent);
    const known = new Map(board.groups.flatMap((group) => group.rows.map((row) => [row.id, { group, row }])));
    const names = [...new Set(board.groups.flatMap((group) => group.rows.flatMap((row) => Object.keys(row.columns))))];
    const plain = ["rank", "name", "checkpoint", "sha256", "architecture", "n", "precision", "selection", "standing"];
    const lines = [["data", "threat", "suite", ...plain, "flags", ...names.flatMap((name) => [name, `${name} low`, `${name} high`])]];
    for (const shown of all("#board tr[data-row]").filter((row) => !row.hidden)) {
      const { group, row } = known.get(shown.dataset.row);
      const numbers = names.flatMap((name) => {
        const cell = row.columns[name];
        return cell ? [cell.value, cell.low, cell.high] : ["", "", ""];
      });
      lines.push([group.data, group.threat, group.suite, ...plain.map((name) => row[name]), row.flags.join(" "), ...numbers]);
    }
    const text = lines.map((line) => line.map(quoted).join(",")).join("\r\n");
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
    link.download = "leaderboard.csv";
    link.click();
    URL.revokeObjectURL(link.href);
  });
})();
