// Keeps the table of transfers as they are. Without it the page shows them as they were.
"use strict";
(() => {
  const body = document.getElementById("transfers");
  const size = (n) => {
    const units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let i = 0;
    while (n >= 1024 && i < units.length - 1) { n /= 1024; i++; }
    return (i === 0 ? n.toFixed(0) : n.toFixed(1)) + " " + units[i];
  };
  const time = (s) => {
    s = Math.round(s);
    const h = Math.floor(s / 3600), m = Math.floor(s / 60) % 60;
    return (h ? h + "h" : "") + (h || m ? m + "m" : "") + (s % 60) + "s";
  };
  const cell = (row, kind, text, left) => {
    const c = document.createElement(kind);
    if (kind === "th") c.scope = "row";
    if (left) c.className = "left";
    if (text !== undefined) c.textContent = text;
    row.append(c);
    return c;
  };
  const show = (transfers) => {
    const rows = transfers.map((t) => {
      const row = document.createElement("tr");
      cell(row, "th", t.image);
      const code = document.createElement("code");
      code.textContent = t.digest.slice(0, 19);
      cell(row, "td", undefined, true).append(code);
      cell(row, "td", size(t.size));
      const bar = document.createElement("progress");
      bar.max = 100;
      bar.value = t.percent;
      bar.setAttribute("aria-label", "fetched");
      cell(row, "td").append(bar, " " + t.percent.toFixed(0) + " %");
      cell(row, "td", size(t.rate) + "/s");
      cell(row, "td", t.left ? time(t.left) : "");
      return row;
    });
    if (rows.length === 0) {
      const row = document.createElement("tr");
      cell(row, "th", "none").className = "soft";
      for (let i = 0; i < 5; i++) cell(row, "td");
      rows.push(row);
    }
    body.replaceChildren(...rows);
  };
  new EventSource("/events").onmessage = (e) => show(JSON.parse(e.data) || []);
})();
