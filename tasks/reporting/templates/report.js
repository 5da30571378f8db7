"use strict";
(() => {
  const chart = document.getElementById("explorer");
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();

  document.querySelectorAll("button[data-copy]").forEach((button) => {
    button.addEventListener("click", async () => {
      const code = document.getElementById(button.dataset.copy);
      getSelection().selectAllChildren(code); // what a page without a clipboard leaves to Ctrl-C
      await navigator.clipboard?.writeText(code.textContent);
      button.textContent = "Copied";
    });
  });

  // Paper is light, as wide as it is, and shows what is folded away; afterwards all is as before.
  let unfolded = [];
  function toPaper(paper) {
    document.documentElement.classList.toggle("paper", paper);
    if (paper) unfolded = [...document.querySelectorAll("details:not([open])")];
    unfolded.forEach((details) => (details.open = paper));
    if (chart?.data) draw(paper ? { autosize: false, width: 680, height: 540 } : {});
  }
  addEventListener("beforeprint", () => toPaper(true));
  addEventListener("afterprint", () => toPaper(false));

  if (!chart) return;

  const shown = JSON.parse(document.getElementById("explorer-data").textContent);
  const nan = (values) => values.map((value) => value ?? NaN);

  function traces() {
    const long = shown.trades.filter(([side]) => side > 0);
    const short = shown.trades.filter(([side]) => side < 0);
    const entries = (name, trades, symbol, paint) => ({
      type: "scatter", mode: "markers", name, x: trades.map((t) => t[1]), y: trades.map((t) => t[2]),
      marker: { symbol, size: 8, color: paint },
      hovertemplate: name + " at %{y:,}<extra></extra>",
    });
    const accounts = Object.entries(shown.series); // the model, the baselines, holding
    const lines = accounts.map(([name, values], place) => {
      const ours = place === 0;
      const paint = colour(place === accounts.length - 1 ? "nothing" : ["model", "accent", "second"][place]);
      const line = { color: paint, width: ours ? 2 : 1.2 };
      const common = { type: "scatter", mode: "lines", x: shown.time, line, name, legendgroup: name };
      return [
        { ...common, y: nan(values.equity), yaxis: "y2", hovertemplate: "%{y:,.0f}" },
        { ...common, y: nan(values.drawdown), yaxis: "y3", showlegend: false, hovertemplate: "%{y:.2f} %",
          ...(ours ? { fill: "tozeroy", fillcolor: paint + "22" } : {}) },
      ];
    }).reverse().flat(); // the model on top
    return [
      { type: "candlestick", name: "price", showlegend: false, x: shown.time, open: shown.open, high: shown.high,
        low: shown.low, close: shown.close, increasing: { line: { color: colour("good"), width: 1 } },
        decreasing: { line: { color: colour("bad"), width: 1 } } },
      { type: "scatter", mode: "lines", name: "held", showlegend: false, hoverinfo: "skip",
        line: { color: colour("ink"), width: 1, dash: "dot" },
        x: shown.trades.flatMap((t) => [t[1], t[3], null]), y: shown.trades.flatMap((t) => [t[2], t[4], null]) },
      entries("long", long, "triangle-up", colour("good")),
      entries("short", short, "triangle-down", colour("bad")),
      { type: "scatter", mode: "markers", name: "exit",
        x: shown.trades.map((t) => t[3]), y: shown.trades.map((t) => t[4]),
        customdata: shown.trades.map((t) => t[5]), marker: { symbol: "circle-open", size: 5, color: colour("muted") },
        hovertemplate: "exit at %{y:,}, net %{customdata:+,.2f}<extra></extra>" },
      ...lines,
    ];
  }

  function layout() {
    const narrow = chart.clientWidth < 600;
    const axis = {
      gridcolor: colour("grid"), linecolor: colour("axis"), zeroline: false, automargin: true, fixedrange: true,
    };
    const title = (text) => ({ text, font: { size: 11 }, standoff: 4 });
    const range = [shown.time[0], shown.time.at(-1)];
    const steps = [["day", "1 d", 1], ["day", "1 w", 7], ["month", "1 m", 1]];
    return {
      autosize: true, dragmode: narrow ? false : "zoom", hovermode: "x", hoversubplots: "axis", hoverdistance: 30,
      margin: { l: 56, r: 16, t: narrow ? 40 : 64, b: 36 }, paper_bgcolor: "transparent", plot_bgcolor: "transparent",
      font: { family: getComputedStyle(document.body).fontFamily, size: 11, color: colour("muted") },
      hoverlabel: { bgcolor: colour("soft"), bordercolor: colour("line"), font: { color: colour("ink") } },
      legend: { orientation: "h", x: 0, traceorder: "reversed", font: { color: colour("ink") },
        ...(narrow ? { y: -0.08, yanchor: "top" } : { y: 1.005, yanchor: "bottom" }) },
      xaxis: { ...axis, type: "date", range, anchor: "y3", fixedrange: false, rangeslider: { visible: false },
        showspikes: true, spikemode: "across", spikesnap: "cursor", spikethickness: 1, spikecolor: colour("axis"), spikedash: "dot",
        rangeselector: { x: 1, xanchor: "right", y: narrow ? 1.02 : 1.06, yanchor: "bottom", bgcolor: colour("soft"),
          activecolor: colour("line"), font: { color: colour("ink") },
          buttons: [...steps.map(([step, label, count]) => ({ step, label, count, stepmode: "backward" })),
            { step: "all", label: "all" }] } },
      yaxis: { ...axis, domain: [0.48, 1], title: title("price") },
      yaxis2: { ...axis, domain: [0.19, 0.45], title: title("equity (log)"), type: "log", nticks: 5, tickformat: ",.0f" },
      yaxis3: { ...axis, domain: [0, 0.16], title: title("drawdown (%)"), nticks: 4 },
      shapes: shown.folds.map((x) => ({ type: "line", x0: x, x1: x, y0: 0, y1: 1, yref: "paper", layer: "below",
        line: { color: colour("muted"), width: 1, dash: "dot" } })),
    };
  }

  function draw(size = {}) {
    return Plotly.react(chart, traces(), { ...layout(), ...size }, { responsive: true, displayModeBar: false });
  }

  // Each panel shows its values of the span in sight as large as they fit: zooming is along time alone.
  function fit() {
    const moment = (value) => (typeof value === "number" ? value : Date.parse(value.replace(" ", "T") + "Z"));
    const [from, to] = chart.layout.xaxis.range.map(moment);
    const inSight = shown.time.map((time) => time >= from && time <= to);
    const inside = (values) => values.filter((value, i) => value !== null && inSight[i]);
    const accounts = Object.values(shown.series);
    const equity = accounts.flatMap((account) => inside(account.equity)).filter((value) => value > 0).map(Math.log10);
    const range = (values) => {
      const [low, high] = [Math.min(...values), Math.max(...values)];
      const margin = 0.05 * (high - low) || 0.01 * Math.abs(high) || 1;
      return [low - margin, high + margin];
    };
    const falls = accounts.flatMap((account) => inside(account.drawdown));
    const seen = [[...inside(shown.low), ...inside(shown.high)], equity, falls];
    if (seen.every((values) => values.length)) {
      const [price, account, fall] = seen.map(range);
      Plotly.relayout(chart, { "yaxis.range": price, "yaxis2.range": account, "yaxis3.range": fall });
    }
  }

  // The library comes deflated. A browser that cannot inflate it (before 2023) keeps the static charts.
  async function load() {
    const packed = document.getElementById("explorer-library");
    const bytes = Uint8Array.from(atob(packed.textContent), (letter) => letter.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    const script = document.createElement("script");
    script.textContent = await new Response(stream).text();
    packed.remove();
    document.head.append(script);
    await draw();
    chart.on("plotly_relayout", (changed) => Object.keys(changed).some((key) => key.startsWith("xaxis.")) && fit());
    dark.addEventListener("change", () => draw());
  }
  load();
})();
