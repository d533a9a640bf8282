"use strict";
// The charts, the slider through training, and light and dark. `data` is described in page.py.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const all = (selector) => [...document.querySelectorAll(selector)];
  const one = (selector) => document.querySelector(selector);
  const coarse = matchMedia("(pointer: coarse)").matches;

  // Light and dark: as the system has it, until somebody chooses.
  const system = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (document.documentElement.dataset.theme || (system.matches ? "dark" : "light")) === "dark";
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  one("#theme").addEventListener("click", () => {
    document.documentElement.dataset.theme = isDark() ? "light" : "dark";
    drawAll();
  });
  system.addEventListener("change", () => drawAll());

  // Curves.
  const shown = data.curves.map(() => true);
  const DASHES = ["solid", "dash", "dot"];
  const AXES = { step: "step", epoch: "epoch", images_seen: "images", seconds: "" };
  let zoom = null; // a range along the abscissa, or null

  const abscissa = () => one("#abscissa")?.value || "step";
  const smoothing = () => Number(one("#smoothing")?.value || 0);

  /** Exponential moving average without the bias of its beginning; null where there is no number. */
  function smooth(numbers, decay) {
    let sum = 0, weight = 0;
    return numbers.map((x) => {
      if (x === null) return null;
      sum = decay * sum + (1 - decay) * x;
      weight = decay * weight + (1 - decay);
      return sum / weight;
    });
  }

  function seconds(x) {
    const unit = Math.max(...data.curves.map((c) => c.columns.seconds?.at(-1) ?? 0)) > 7200 ? 3600 : 60;
    return [x.map((s) => (s === null ? null : s / unit)), unit === 60 ? "minutes" : "hours"];
  }

  function faded(rgb, alpha) {
    return rgb + Math.round(alpha * 255).toString(16).padStart(2, "0");
  }

  function traces(chart) {
    const found = [];
    const columns = Object.entries(chart.columns);
    data.curves.forEach((curve, i) => {
      if (!shown[i]) return;
      const along = curve.columns[abscissa()] || curve.columns.step;
      const x = abscissa() === "seconds" ? seconds(along)[0] : along;
      columns.forEach(([column, said], j) => {
        const y = curve.columns[column];
        if (!y) return;
        const rgb = colour(columns.length > 1 ? (j ? "--c7" : "--c0") : `--c${i % 8}`);
        const name = columns.length > 1 ? said : curve.label;
        const dash = DASHES[Math.floor(i / 8) % 3];
        const decay = smoothing();
        if (curve.low[column]) found.push(...band(x, curve.low[column], curve.high[column], rgb));
        if (decay) found.push({ x, y, type: "scatter", mode: "lines", hoverinfo: "skip", line: { color: faded(rgb, 0.25), width: 1 } });
        const points = y.filter((v) => v !== null).length;
        found.push({
          x, y: decay ? smooth(y, decay) : y, name, type: "scatter", connectgaps: true,
          mode: points < 2 ? "markers" : "lines", line: { color: rgb, width: 2, dash }, marker: { color: rgb, size: 6 },
          hovertemplate: "%{y:.4~g}",
        });
      });
    });
    return found;
  }

  function band(x, low, high, rgb) {
    const same = { type: "scatter", mode: "lines", hoverinfo: "skip", line: { width: 0 }, connectgaps: true };
    return [{ ...same, x, y: low }, { ...same, x, y: high, fill: "tonexty", fillcolor: faded(rgb, 0.14) }];
  }

  function layout(title, log, more) {
    const axis = {
      gridcolor: colour("--rule"), linecolor: colour("--rule"), zerolinecolor: colour("--rule"),
      tickfont: { size: 11, color: colour("--soft") }, automargin: true,
    };
    return {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", showlegend: false,
      margin: { l: 8, r: 8, t: 8, b: 8 }, font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: colour("--ink") },
      hovermode: "x unified", dragmode: coarse ? false : "zoom",
      hoverlabel: { bgcolor: colour("--card"), bordercolor: colour("--rule"), font: { color: colour("--ink"), size: 12 } },
      xaxis: { ...axis, showgrid: false, ticks: "outside", ticklen: 4, tickcolor: colour("--rule"), nticks: 7,
        title: { text: title, font: { size: 11, color: colour("--soft") }, standoff: 6 }, ...(zoom ? { range: zoom } : { autorange: true }) },
      yaxis: { ...axis, nticks: 6, type: log ? "log" : "linear", exponentformat: "power", autorange: true, ...(log ? { dtick: undefined } : {}) },
      ...more,
    };
  }

  const CONFIG = { displayModeBar: false, responsive: true, doubleClick: "reset" };

  function draw(plot) {
    const chart = data.charts[plot.dataset.chart];
    const box = one(`[data-log="${plot.dataset.chart}"]`);
    const numbers = data.curves.flatMap((c) => Object.keys(chart.columns).flatMap((name) => c.columns[name] || []));
    box.parentElement.hidden = chart.unit || !numbers.every((x) => x === null || x > 0);
    const log = box.checked && !box.parentElement.hidden;
    const more = {};
    if (chart.level !== null) {
      more.shapes = [{ type: "line", xref: "paper", x0: 0, x1: 1, y0: chart.level, y1: chart.level, layer: "below",
        line: { color: colour("--faint"), width: 1, dash: "dot" } }];
    }
    const name = abscissa() === "seconds" ? seconds([])[1] : AXES[abscissa()];
    const made = layout(name, log, more);
    if (chart.unit) Object.assign(made.yaxis, { autorange: false, range: [-0.02, 1.02] });
    Plotly.react(plot, traces(chart), made, CONFIG);
    if (!plot.dataset.ready) {
      plot.dataset.ready = "yes";
      plot.on("plotly_relayout", (change) => zoomed(change));
    }
  }

  /** Zooming one chart along the abscissa zooms all of them. */
  function zoomed(change) {
    const low = change["xaxis.range[0]"], high = change["xaxis.range[1]"];
    if (low !== undefined) zoom = [low, high];
    else if (change["xaxis.autorange"]) zoom = null;
    else return;
    all("[data-chart]").forEach(draw);
  }

  function drawJudged(plot) {
    const judged = data.judged[plot.dataset.judged];
    const found = judged.points.flatMap((points, i) => {
      if (!shown[i] || !points.length) return [];
      const rgb = colour(`--c${i % 8}`);
      const up = points.map((p) => (p.high === null ? 0 : p.high - p.value));
      const down = points.map((p) => (p.low === null ? 0 : p.value - p.low));
      return [{
        x: points.map((p) => p.step), y: points.map((p) => p.value), name: data.curves[i].label, type: "scatter",
        mode: "lines+markers", line: { color: rgb, width: 2, dash: DASHES[Math.floor(i / 8) % 3] }, marker: { color: rgb, size: 6 },
        error_y: { type: "data", symmetric: false, array: up, arrayminus: down, color: faded(rgb, 0.6), thickness: 1.2, width: 3 },
        hovertemplate: "%{y:.4~g}",
      }];
    });
    const made = layout("step", false, {});
    Object.assign(made.xaxis, { autorange: true, range: undefined });
    Plotly.react(plot, found, made, CONFIG);
  }

  function drawAll() {
    all("[data-chart]").forEach(draw);
    all("[data-judged]").forEach(drawJudged);
  }

  one("#abscissa")?.addEventListener("change", () => { zoom = null; drawAll(); });
  one("#smoothing")?.addEventListener("input", (event) => {
    one("#smoothing-value").value = event.target.value;
    drawAll();
  });
  one("#unzoom")?.addEventListener("click", () => { zoom = null; drawAll(); });
  all("[data-log]").forEach((box) => box.addEventListener("change", () => draw(one(`[data-chart="${box.dataset.log}"]`))));
  all("[data-curve]").forEach((box) => box.addEventListener("change", () => {
    shown[box.dataset.curve] = box.checked;
    drawAll();
  }));
  one("#all")?.addEventListener("click", () => {
    const wanted = !shown.every(Boolean);
    all("[data-curve]").forEach((box) => { box.checked = wanted; shown[box.dataset.curve] = wanted; });
    drawAll();
  });

  // Samples through training: each run shows its newest grid up to the step of the slider.
  const slider = one("#frame"), play = one("#play");
  let timer = null;

  function showFrame() {
    const step = data.steps[slider.value];
    const text = `step ${step.toLocaleString("en")}`;
    one("#frame-step").value = text;
    slider.setAttribute("aria-valuetext", text);
    all("[data-frames]").forEach((image) => {
      const frames = data.frames[image.dataset.frames];
      const frame = frames.findLast((f) => f.step <= step) || frames[0];
      image.src = frame.src;
      image.parentElement.querySelector("figcaption span").textContent = `step ${frame.step.toLocaleString("en")}`;
    });
  }

  function stop() {
    clearInterval(timer);
    timer = null;
    play.classList.remove("on");
    play.setAttribute("aria-label", "Play");
  }

  if (slider) {
    slider.addEventListener("input", () => { stop(); showFrame(); });
    play.addEventListener("click", () => {
      if (timer) return stop();
      if (slider.value === slider.max) slider.value = 0;
      play.classList.add("on");
      play.setAttribute("aria-label", "Pause");
      showFrame();
      timer = setInterval(() => {
        if (slider.value === slider.max) return stop();
        slider.stepUp();
        showFrame();
      }, 6000 / Math.max(12, data.steps.length));
    });
    data.frames.flat().forEach((frame) => { new Image().src = frame.src; }); // so that none flickers
  }

  // The section in view is marked in the navigation.
  const links = new Map(all("nav a").map((link) => [link.hash.slice(1), link]));
  const seen = new IntersectionObserver((entries) => entries.forEach((entry) => {
    if (entry.isIntersecting) {
      links.forEach((link) => link.removeAttribute("aria-current"));
      links.get(entry.target.id)?.setAttribute("aria-current", "true");
    }
  }), { rootMargin: "-20% 0px -70% 0px" });
  all("section").forEach((section) => seen.observe(section));

  drawAll();
})();
