// What pages add where scripts run; without them everything can be read all the same.
(function () {
  "use strict";

  document.documentElement.classList.add("scripts");

  // A page that nobody looks at asks for nothing, nor does a log that was stopped.
  document.addEventListener("htmx:beforeRequest", function (event) {
    var live = document.getElementById("live-on");
    var polls = event.target.hasAttribute("data-live");
    if (document.hidden || (polls && live && !live.checked)) event.preventDefault();
  });

  // A form names only what was filled in, so that its address can be read and passed on.
  document.addEventListener("formdata", function (event) {
    if (event.target.getAttribute("id") !== "filters") return; // its field "id" hides the property
    Array.from(event.formData.keys()).forEach(function (name) {
      if (event.formData.get(name) === "") event.formData.delete(name);
    });
  });

  // A second click on a request closes it; a log that goes on keeps its newest rows.
  var LOG_ROWS = 200;
  document.addEventListener("click", function (event) {
    var link = event.target.closest ? event.target.closest("a.open") : null;
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
    var shown = link.getAttribute("aria-expanded") === "true";
    link.setAttribute("aria-expanded", String(!shown));
    if (!shown) return;
    event.preventDefault();
    event.stopPropagation();
    document.querySelector(link.getAttribute("hx-target")).replaceChildren();
  }, true);
  document.addEventListener("htmx:afterSwap", function (event) {
    if (event.target.id !== "rows") return;
    var none = document.getElementById("none");
    if (none) none.remove();
    while (event.target.rows.length > 2 * LOG_ROWS) event.target.deleteRow(-1);
  });

  // What was opened stays open when a part of the page is renewed.
  var open = {};
  document.addEventListener("htmx:beforeSwap", function () {
    document.querySelectorAll("details[id]").forEach(function (each) { open[each.id] = each.open; });
  });

  // The times of the table as lines; the table stays below, for whoever wants the figures.
  var plots = [];
  function colour(name) {
    return getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();
  }
  function said(value) {
    if (value == null) return "–";
    if (value < 1) return Math.round(value * 1000) + " ms";
    return value < 10 ? value.toFixed(2) + " s" : value < 100 ? value.toFixed(1) + " s" : (value / 60).toFixed(1) + " min";
  }
  function columns(table) {
    var found = [[], [], [], [], []];
    table.querySelectorAll("tbody tr").forEach(function (row) {
      found[0].push(Number(row.dataset.at));
      row.querySelectorAll("td").forEach(function (cell, number) {
        found[number + 1].push(cell.dataset.value === "" ? null : Number(cell.dataset.value));
      });
    });
    return found;
  }
  function line(label, name, dashed) {
    return {
      label: label, stroke: colour(name), width: 2, dash: dashed ? [5, 4] : undefined, spanGaps: true,
      points: { size: 5 }, value: function (_, value) { return said(value); }
    };
  }
  function draw(figure) {
    var table = document.getElementById(figure.dataset.plot);
    if (!table || typeof uPlot === "undefined") return;
    var data = columns(table);
    if (!data.slice(1).some(function (column) { return column.some(function (value) { return value != null; }); })) return;
    figure.classList.add("on");
    figure.replaceChildren();
    var axis = { stroke: colour("muted"), grid: { stroke: colour("line"), width: 1 }, ticks: { show: false }, font: "12px system-ui" };
    var day = data[0].length > 1 && data[0][1] - data[0][0] > 3600;
    var months = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    function when(at) {
      var moment = new Date(at * 1e3);
      return day ? moment.getUTCDate() + " " + months[moment.getUTCMonth()] : moment.toISOString().slice(11, 16);
    }
    function marks(plot, axis, low, high) {
      return [0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300].filter(function (mark) { return mark >= low && mark <= high; });
    }
    plots.push(new uPlot({
      width: figure.clientWidth, height: 190, tzDate: function (at) { return uPlot.tzDate(new Date(at * 1e3), "UTC"); },
      cursor: { drag: { x: false, y: false } },
      scales: { y: { distr: 3 } },
      series: [{ value: function (_, at) { return at == null ? "–" : new Date(at * 1e3).toISOString().slice(5, 16).replace("T", " "); } },
        line("total, median", "simple"), line("total, p95", "simple", true), line("first token, median", "reasoning"), line("first token, p95", "reasoning", true)],
      axes: [Object.assign({ values: function (_, all) { return all.map(when); } }, axis),
        Object.assign({ size: 56, splits: marks, filter: function (_, all) { return all; }, values: function (_, all) { return all.map(function (mark) { return mark < 1 ? mark * 1000 + " ms" : mark + " s"; }); } }, axis)]
    }, data, figure));
  }
  function drawAll() {
    plots.forEach(function (plot) { plot.destroy(); });
    plots = [];
    document.querySelectorAll("figure[data-plot]").forEach(draw);
  }
  var waiting;
  window.addEventListener("resize", function () {
    clearTimeout(waiting);
    waiting = setTimeout(drawAll, 150);
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
  document.addEventListener("htmx:afterSettle", function () {
    Object.keys(open).forEach(function (id) {
      var each = document.getElementById(id);
      if (each && each.tagName === "DETAILS") each.open = open[id];
    });
    drawAll();
  });
  drawAll();
})();
