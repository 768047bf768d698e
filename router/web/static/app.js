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
    if (!event.target.classList.contains("filters")) return;
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
    var rows = event.target.rows; // a request is two, what was left out is one: none is cut in half
    while (rows.length && (rows.length > 2 * LOG_ROWS || rows[rows.length - 1].classList.contains("row"))) event.target.deleteRow(-1);
  });

  // A page that can no longer renew itself says so, and takes it back once it can.
  function stale(text) {
    var note = document.getElementById("stale");
    if (!text) { if (note) note.textContent = ""; return; }
    if (!note) {
      note = document.createElement("p");
      note.id = "stale";
      note.className = "note bad";
      note.setAttribute("role", "alert");
      document.getElementById("main").prepend(note);
    }
    if (note.textContent !== text) note.textContent = text; // said once, not at each try
  }
  function unopened(link) { if (link.matches("a.open")) link.setAttribute("aria-expanded", "false"); }
  document.addEventListener("htmx:sendError", function (event) {
    stale("The router does not answer: what is shown may be old.");
    unopened(event.target);
  });
  document.addEventListener("htmx:responseError", function (event) {
    stale("The router answered with HTTP " + event.detail.xhr.status + ": what is shown may be old. Reload the page to see why.");
    unopened(event.target);
  });
  document.addEventListener("htmx:afterRequest", function (event) { if (event.detail.successful) stale(""); });

  // What was opened stays open when a part of the page is renewed, and who was at a link stays there.
  var open = {}, focused = null;
  function named(element) {
    return [element.tagName, element.id, element.getAttribute("href"), element.getAttribute("aria-label"), element.id ? "" : element.textContent.trim()].join(" ");
  }
  document.addEventListener("htmx:beforeSwap", function (event) {
    document.querySelectorAll("details[id]").forEach(function (each) { open[each.id] = each.open; });
    var at = document.activeElement;
    focused = at && at !== document.body && event.target.contains(at) ? named(at) : null;
  });
  function refocus() {
    if (!focused || (document.activeElement && document.activeElement !== document.body)) return;
    Array.from(document.querySelectorAll("#main a, #main button, #main summary, #main [tabindex]")).some(function (each) {
      if (named(each) !== focused) return false;
      each.focus({ preventScroll: true });
      return true;
    });
    focused = null;
  }

  // A tooltip closes by Escape, until it is left and come back to.
  document.addEventListener("keydown", function (event) {
    if (event.key !== "Escape") return;
    document.querySelectorAll(".tip:hover, .tip:focus, .tip:has(+ .tipbox:hover)").forEach(function (tip) { tip.classList.add("off"); });
  });
  function again(event) { if (event.target.matches && event.target.matches(".tip")) event.target.classList.remove("off"); }
  document.addEventListener("focusout", again);
  document.addEventListener("mouseout", again);

  // Times are UTC; the pointer learns what that is here.
  document.addEventListener("mouseover", function (event) {
    var time = event.target.closest ? event.target.closest("time[datetime]") : null;
    if (!time || time.dataset.here) return;
    time.dataset.here = "yes";
    var here = new Date(time.getAttribute("datetime")).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "long" });
    time.title = (time.title ? time.title + " = " : "") + here;
  });

  // What does not scroll is no stop for the keyboard; the page's own name is in sight in a narrow menu.
  function stops() {
    document.querySelectorAll(".scroll[tabindex]").forEach(function (each) {
      each.tabIndex = each.scrollWidth > each.clientWidth || each.scrollHeight > each.clientHeight ? 0 : -1;
    });
  }
  var here = document.querySelector(".top nav [aria-current]");
  if (here) here.closest("ul").scrollLeft = here.offsetLeft + here.offsetWidth - here.closest("ul").clientWidth;

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
    var all = [0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000];
    function below(low) { return all.filter(function (mark) { return mark <= low; }).pop() || low; }
    function above(high) { return all.find(function (mark) { return mark >= high; }) || high; }
    function marks(plot, axis, low, high) {
      return all.filter(function (mark) { return mark >= low && mark <= high; });
    }
    plots.push(new uPlot({
      width: figure.clientWidth, height: 190, tzDate: function (at) { return uPlot.tzDate(new Date(at * 1e3), "UTC"); },
      cursor: { drag: { x: false, y: false } },
      legend: { markers: { width: 2, fill: "transparent", dash: function (_, number) { return number % 2 ? "solid" : "dashed"; } } },
      scales: { y: { distr: 3, range: function (_, low, high) { return [below(low), above(high)]; } } },
      series: [{ value: function (_, at) { return at == null ? "–" : new Date(at * 1e3).toISOString().slice(5, 16).replace("T", " "); } },
        line("total, median", "simple"), line("total, p95", "simple", true), line("first token, median", "reasoning"), line("first token, p95", "reasoning", true)],
      axes: [Object.assign({ size: 30, values: function (_, all) { return all.map(when); } }, axis),
        Object.assign({ size: 56, splits: marks, filter: function (_, all) { return all; }, values: function (_, all) { return all.map(function (mark) { return mark < 1 ? mark * 1000 + " ms" : mark + " s"; }); } }, axis)]
    }, data, figure));
  }
  function drawAll() {
    stops();
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
    refocus();
  });
  document.addEventListener("toggle", stops, true);
  drawAll();
})();
