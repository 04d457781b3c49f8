// The page of the service. Addresses are relative: it may sit behind a path prefix.

const [ROWS, CLOSES, SCORES, LINKS] = [50, 250, 600, 12]; // of scores, ten a day
const KEY = "stock-assets-key";
const SVG_TAGS = new Set(["svg", "g", "path", "line", "rect", "circle", "text"]);
const NONE = "–";

const $ = (id) => document.getElementById(id);
const [search, view, fates, veil] = ["search", "view", "fates", "veil"].map($);

/* Elements. What is said goes in as text nodes and attributes, never as markup. */

function h(tag, props, ...children) {
  const node = SVG_TAGS.has(tag)
    ? document.createElementNS("http://www.w3.org/2000/svg", tag)
    : document.createElement(tag);
  for (const [name, value] of Object.entries(props ?? {})) {
    if (typeof value === "function") node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value);
  }
  node.append(...solid(children));
  return node;
}

/** Flat, and without what a condition leaves out. */
const solid = (nodes) => [nodes].flat(9).filter((node) => node || node === 0);
const p = (kind, ...words) => h("p", { class: kind }, ...words);

const svgText = (x, y, anchor, text) => h("text", { x, y, "text-anchor": anchor }, text);
const panel = (title, extra, ...body) =>
  h("section", { class: "panel" }, h("div", { class: "bar" }, h("h2", {}, title), extra), body);

/** A table in a box of its own to scroll; a column is [head, cell of a row, class]. */
function table(label, columns, rows, rowProps = () => ({})) {
  const head = columns.map(([title, , kind]) =>
    title instanceof Node ? title : h("th", { scope: "col", class: kind }, title));
  const line = (row) =>
    h("tr", rowProps(row), columns.map(([, cell, kind]) => h("td", { class: kind }, cell(row))));
  return h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": label },
    h("table", {}, h("thead", {}, h("tr", {}, head)), h("tbody", {}, rows.map(line))));
}

/** Buttons of which one is chosen; an option is [value, label]. */
function choice(label, name, options, chosen, choose) {
  const button = ([value, text]) =>
    h("label", {}, h("input", {
      type: "radio", name, id: `${name}-${value}`, value,
      checked: value === chosen, onchange: () => choose(value),
    }), h("span", {}, text));
  return h("div", { class: "choice", role: "radiogroup", "aria-label": label }, options.map(button));
}

/** Put nodes into a place; what had the focus keeps it if it is there again. */
function put(place, nodes) {
  const focused = place.contains(document.activeElement) ? document.activeElement.id : "";
  place.replaceChildren(...solid(nodes));
  if (focused) $(focused)?.focus({ preventScroll: true });
}

/** Tell it to those who cannot see it. */
function announce(text) {
  $("said").append(p("", text));
  if ($("said").children.length > 20) $("said").firstChild.remove();
}

/* Words and numbers. */

const cents = new Intl.NumberFormat("en-US", { minimumFractionDigits: 2, maximumFractionDigits: 2 });
const small = new Intl.NumberFormat("en-US", { minimumSignificantDigits: 3, maximumSignificantDigits: 4 });
const whole = new Intl.NumberFormat("en-US");
const isNumber = (value) => typeof value === "number";
const or = (format) => (value) => (isNumber(value) ? format(value) : NONE);
const price = or((value) => (Math.abs(value) < 1 ? small : cents).format(value));
const share = or((value) => `${(100 * value).toFixed(1)} %`);
const ratio = or((value) => value.toFixed(3));
const signed = or((value) => {
  const text = (100 * value).toFixed(2);
  return `${Number(text) > 0 ? "+" : ""}${Number(text) === 0 ? "0.00" : text.replace("-", "−")} %`;
});
const range = (low, high) => (isNumber(low) && isNumber(high) ? `${price(low)} to ${price(high)}` : NONE);
const counted = (number, noun) => `${whole.format(number)} ${noun}${number === 1 ? "" : "s"}`;
const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
const part = (of, all) => (isNumber(of) && all ? of / all : null);
const change = (value) =>
  h("span", { class: Math.abs(value ?? 0) < 5e-5 ? "" : value > 0 ? "up" : "down" }, signed(value));
const badge = (kind, text, title) => h("span", { class: `badge ${kind}`, title }, text);
const NEWER = "There are newer prices that this forecast does not know.";

function bytes(size) {
  const step = size < 1000 ? 0 : size < 1e6 ? 1 : 2;
  return `${(size / 1000 ** step).toFixed(step ? 1 : 0)} ${["B", "kB", "MB"][step]}`;
}

function age(at) {
  const seconds = (Date.now() - Date.parse(at)) / 1000;
  const [length, unit] = [[86400, "d"], [3600, "h"], [60, "min"]].find(([one]) => seconds >= one) ?? [];
  return unit ? `${Math.floor(seconds / length)} ${unit} ago` : "just now";
}

const ago = (at) => (at ? h("time", { datetime: at, title: at }, age(at)) : NONE);
const late = (at) => h("span", { class: "badge warn", title: NEWER }, "old, ", ago(at));

/* The service. */

class Failure extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status;
    this.passes = status === 0 || status === 429 || status >= 500; // worth asking again
  }
}

let asking = null; // one dialog for all calls that wait for a key

function askForKey(why) {
  asking ??= new Promise((resolve, reject) => {
    $("ask-why").textContent = why.replace(/(?<=\.) .*/s, ""); // how to send it, the page knows
    $("ask-key").value = "";
    $("ask").returnValue = "";
    $("ask").showModal();
    $("ask").addEventListener("close", () => {
      asking = null;
      const key = $("ask").returnValue === "use" && $("ask-key").value.trim();
      if (!key) return reject(new Failure(401, why));
      sessionStorage.setItem(KEY, key);
      $("key").hidden = false;
      return resolve();
    }, { once: true });
  });
  return asking;
}

async function api(address, options = {}) {
  const key = sessionStorage.getItem(KEY);
  const headers = key ? { Authorization: `Bearer ${key}` } : {};
  const answer = await fetch(address, { ...options, headers }).catch((error) => {
    throw error.name === "AbortError" ? error : new Failure(0, "The service cannot be reached.");
  });
  if (answer.ok) return answer.json();
  const { detail } = await answer.json().catch(() => ({}));
  const why = typeof detail === "string" ? detail : `The service answers with status ${answer.status}.`;
  if (answer.status !== 401) throw new Failure(answer.status, why);
  if (key === sessionStorage.getItem(KEY)) await askForKey(why); // else another call has got one
  return api(address, options);
}

/** Ask until `show` says that it is over: every second, slower after a minute. */
async function follow(address, show) {
  const since = Date.now();
  for (let last = ""; ;) {
    try {
      const report = await api(address);
      if (JSON.stringify(report) !== last && show(report)) return;
      last = JSON.stringify(report);
    } catch (error) {
      if (!error.passes) throw error;
      show(null, `${error.message} Trying again.`);
      last = "";
    }
    await new Promise((over) => { setTimeout(over, Date.now() - since < 60_000 ? 1000 : 5000); });
  }
}

/* Fates: a line for each upload and each run. */

const training = new Set();

/** A new line; what is returned shows where it stands: step, kind of end, words. */
function fate(name, steps) {
  const node = h("article", { class: "fate" });
  const dismiss = h("button", {
    type: "button", class: "plain", "aria-label": `Dismiss ${name}`, onclick: () => node.remove(),
  }, "×");
  fates.prepend(node);
  return (at, kind, ...words) => {
    announce(`${name}: ${solid(words)[0].textContent}`);
    node.className = `fate ${kind}`;
    const state = (step) => (step < at ? "done" : step > at ? "" : kind || "now");
    put(node, [
      h("b", { class: "name" }, name),
      h("ol", {}, steps.map((step, place) =>
        h("li", { class: state(place), "aria-current": place === at && "step" }, step))),
      h("div", { class: "words" }, words),
      kind && dismiss,
    ]);
  };
}

function tickerLinks(tickers) {
  const more = tickers.length - LINKS;
  return h("span", { class: "links" },
    tickers.slice(0, LINKS).map((ticker) => [h("a", { href: toTicker(ticker) }, ticker), " "]),
    more > 0 && `and ${whole.format(more)} more`);
}

const WAITING = { queued: "It waits for its turn.", running: "Its rows are checked.", failed: "It failed." };

function dropWords(report) {
  const { status, tickers, waiting } = report;
  if (status !== "accepted") return report.detail || WAITING[status];
  if (!tickers.length) return report.detail || "It changes no prices.";
  if (waiting) return `Stored. ${report.detail} ${whole.format(waiting)} of ${whole.format(tickers.length)} to go.`;
  return ["Forecasts are ready: ", tickerLinks(tickers)];
}

function dropCounts({ rows_read, accepted, collapsed, rejected, reasons }) {
  if (!isNumber(rows_read)) return null;
  const parts = Object.entries({ accepted, collapsed, rejected })
    .map(([name, rows]) => `${whole.format(rows ?? 0)} ${name}`);
  return [
    p("note", `${counted(rows_read, "row")}: ${parts.join(", ")}`),
    reasons.length > 0 && h("details", {}, h("summary", {}, "Why rows were rejected"),
      h("ul", {}, reasons.map(({ reason, rows }) => h("li", {}, `${counted(rows, "row")}: ${reason}`)))),
  ];
}

/** Show where a drop stands; whether that is the end of it. */
function showDrop(say, report, remark, trouble) {
  const words = [p("", dropWords(report)), trouble && p("lost", trouble), dropCounts(report), remark];
  const ready = report.status === "accepted" && !report.waiting;
  if (report.status === "failed") say(2, "failed", words);
  else if (ready) say(4, "ready", words);
  else say({ queued: 1, running: 2, accepted: 3 }[report.status], "", words);
  return ready || report.status === "failed";
}

/** Send files one after the other; each is followed from then on, all at once. */
function take(files) {
  let before = Promise.resolve();
  for (const file of files) {
    const say = fate(file.name, ["Send", "Queue", "Check", "Forecast"]);
    say(0, "", p("", "It waits for its turn."));
    before = before.then(() => upload(file, say));
  }
}

async function upload(file, say) {
  const failed = (at) => (error) => say(at, "failed", p("", error.message),
    error.passes && h("button", { type: "button", onclick: () => upload(file, say) }, "Send again"));
  say(0, "", p("", `Sending ${bytes(file.size)}.`));
  const sent = await send(file).catch(failed(0));
  if (sent) followDrop(sent, say).catch(failed(1));
}

async function send(file) {
  await file.slice(0, 1).arrayBuffer().catch(() => {
    throw new Failure(0, "It cannot be read. Files are taken, folders are not.");
  });
  const body = new FormData();
  body.append("file", file);
  return api("upload", { method: "POST", body });
}

function followDrop({ drop, is_new, ignored_columns: ignored, doubts }, say) {
  const remark = [
    !is_new && p("note", "The same bytes were here already."),
    ignored.length > 0 && p("note", `Ignored columns: ${ignored.join(", ")}`),
    doubts.length > 0 && p("lost", `None of its first rows can be taken. ${doubts[0]}.`),
  ];
  let known = { status: "queued", tickers: [], waiting: 0, reasons: [] };
  return follow(`drops/${encodeURIComponent(drop)}`, (report, trouble) => {
    const wasStored = known.status === "accepted";
    known = report ?? known;
    const over = showDrop(say, known, remark, trouble);
    if (report && (over || wasStored !== (known.status === "accepted"))) refresh(known.tickers);
    return report && over;
  });
}

async function train(ticker) {
  const say = fate(ticker, ["Ask", "Queue", "Train and forecast"]);
  const button = (disabled) => { if ($("title")?.textContent === ticker) $("train").disabled = disabled; };
  const step = { queued: 1, running: 2 };
  let at = 0;
  let trouble = "";
  training.add(ticker);
  button(true);
  try {
    say(at, "", p("", "Asking for a training."));
    const { runs } = await api(`train/${encodeURIComponent(ticker)}`, { method: "POST" });
    for (const { run } of runs) {
      await follow(`runs/${encodeURIComponent(run)}`, (report, lost) => {
        at = step[report?.status] ?? at;
        if (report && !step[report.status] && report.status !== "succeeded")
          trouble ||= report.detail || `The run is ${report.status}.`;
        const words = at === 2 ? "It is trained anew." : "It waits for its turn.";
        say(at, "", p("", words), lost && p("lost", lost));
        return report && !step[report.status];
      });
    }
  } catch (error) {
    trouble = error.message;
  }
  if (trouble) say(at, "failed", p("", trouble));
  else say(3, "ready", p("", "Trained; the forecast is ready: ", tickerLinks([ticker])));
  training.delete(ticker);
  button(false);
  if (!trouble) refresh([ticker]);
}

/* Charts. */

function valueTicks(low, high, most) {
  const least = (high - low) / most;
  const power = 10 ** Math.floor(Math.log10(least));
  const step = [1, 2, 2.5, 5, 10].find((one) => one * power >= least * 0.999) * power;
  const digits = (String(Number(step.toPrecision(3))).split(".")[1] ?? "").length;
  const first = Math.ceil(low / step);
  return Array.from({ length: Math.floor(high / step) - first + 1 }, (_, place) => {
    const value = (first + place) * step;
    const exact = { minimumFractionDigits: digits, maximumFractionDigits: digits };
    return [value, value.toLocaleString("en-US", exact)];
  });
}

/** First days of months, or of weeks where those are few: as many as have room in that width. */
function dateTicks(dates, width, fits) {
  const month = (day) => day.slice(0, 7);
  const week = (day) => Math.floor((Date.parse(day) / 864e5 + 3) / 7);
  const firsts = (of) => dates.filter((day, place) => place && of(day) !== of(dates[place - 1]));
  const [days, label, room] = firsts(month).length > 2
    ? [firsts(month), month, 70]
    : [firsts(week).length > 1 ? firsts(week) : dates, (day) => day, 92];
  const inside = days.filter(fits);
  const every = Math.ceil((inside.length * room) / width);
  return inside.filter((_, place) => place % every === 0).map((day) => [day, label(day)]);
}

/** Scales and axes of the box that a drawing has: days side by side without weekends. */
function frame(svg, dates, values) {
  const { clientWidth: width, clientHeight: height } = svg;
  const [top, right, bottom, left] = [8, 62, 24, 6];
  let [low, high] = [Math.min(...values), Math.max(...values)];
  const pad = (high - low) * 0.04 || Math.abs(high) * 0.02 || 1;
  [low, high] = [low - pad, high + pad];
  const places = new Map(dates.map((day, place) => [day, place]));
  const round = (number) => Math.round(number * 10) / 10;
  const x = (day) => round(left + ((width - left - right) * (places.get(day) + 0.5)) / dates.length);
  const y = (value) => round(top + ((height - top - bottom) * (high - value)) / (high - low));
  const end = width - right;
  const inside = (day) => x(day) > left + 22 && x(day) < end - 22;
  const axes = h("g", { class: "axes" },
    valueTicks(low, high, height / 52).map(([value, label]) => [
      h("line", { x1: left, x2: end, y1: y(value), y2: y(value) }),
      svgText(end + 8, y(value) + 4, "start", label)]),
    dateTicks(dates, end - left, inside).map(([day, label]) => [
      h("line", { x1: x(day), x2: x(day), y1: height - bottom, y2: height - bottom + 5 }),
      svgText(x(day), height - 5, "middle", label)]));
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  const nearest = (at) => {
    const place = Math.floor(((at - left) / (width - left - right)) * dates.length);
    return Math.max(0, Math.min(dates.length - 1, place));
  };
  return { x, y, axes, nearest, top, end, floor: height - bottom };
}

const path = (kind, points, end = "") =>
  h("path", { class: kind, d: `M${points.map((point) => point.join(" ")).join("L")}${end}` });

/** A drawing that follows the size of its box. */
function drawing(props, draw) {
  const svg = h("svg", { role: "img", ...props });
  new ResizeObserver(() => { if (svg.clientWidth) put(svg, draw(svg)); }).observe(svg);
  return svg;
}

/** What is drawn of a forecast: its bands and its path, opening from the last close. */
function fan(forecast, x, y) {
  const { days, as_of: asOf, last_close: last } = forecast;
  const start = [x(asOf), y(last)];
  const edge = (name) => days.map((day) => [x(day.date), y(day[name])]);
  const band = (level) =>
    path(`band band-${level}`, [start, ...edge(`hi_${level}`), ...edge(`lo_${level}`).reverse()], "Z");
  return [band(95), band(80), path("told", [start, ...edge("close")])];
}

function chartSentence(ticker, closes, forecast) {
  const last = closes.at(-1);
  const known = `Closes of ${ticker} on ${closes.length} days to ${last.date}, the last ${price(last.close)}`;
  if (!forecast) return `${known}. There is no forecast.`;
  const end = forecast.days.at(-1);
  const within = `80 % between ${range(end.lo_80, end.hi_80)} and 95 % between ${range(end.lo_95, end.hi_95)}`;
  const path = `${forecast.model} tells ${price(end.close)} for ${end.date}, ${within}`;
  return `${known}; ${path}. Arrow keys read single days.`;
}

/** Closes, the chosen forecast, the champion's beside it, and a crosshair whose values are told. */
function priceChart(ticker, closes, forecast, champion, tell) {
  const told = solid([forecast, champion])
    .flatMap((one) => [{ date: one.as_of, close: one.last_close }, ...one.days]);
  const dates = [...new Set([...closes, ...told].map(({ date }) => date))].sort();
  const values = [...closes, ...told].flatMap((day) => [day.close, day.lo_95 ?? day.close, day.hi_95 ?? day.close]);
  const cross = h("g", { class: "cross" });
  let scales;
  let place = null;

  function point(at) {
    place = at;
    cross.replaceChildren();
    if (at === null) return tell(null);
    const date = dates[at];
    const known = closes.find((day) => day.date === date);
    const day = forecast?.days.find((one) => one.date === date);
    const x = scales.x(date);
    const dots = solid([known, day]).map(({ close }) => h("circle", { cx: x, cy: scales.y(close), r: 3.5 }));
    cross.append(h("line", { x1: x, x2: x, y1: scales.top, y2: scales.floor }), ...dots);
    return tell({ date, known, day });
  }

  function onkeydown(event) {
    const [from, end] = [place ?? closes.length - 1, dates.length - 1];
    const to = { ArrowLeft: from - 1, ArrowRight: from + 1, Home: 0, End: end, Escape: null }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    point(to === null ? null : Math.max(0, Math.min(end, to)));
  }

  function draw(svg) {
    const { x, y, axes, top, end, floor } = (scales = frame(svg, dates, values));
    const line = (kind, days) => path(kind, days.map((day) => [x(day.date), y(day.close)]));
    const since = forecast && (x(forecast.as_of) + x(forecast.days[0].date)) / 2;
    const [wide, narrow, told] = forecast ? fan(forecast, x, y) : [];
    queueMicrotask(() => point(place));
    return [
      forecast && h("rect", { class: "ahead", x: since, y: top, width: end - since, height: floor - top }),
      axes, wide, narrow, champion && champion !== forecast && line("champion-path", champion.days),
      line("closes", closes), told, cross,
    ];
  }

  const onpointermove = (event) => point(scales.nearest(event.offsetX));
  return drawing({
    id: "chart", class: "chart", tabindex: 0, "aria-describedby": "reading",
    "aria-label": chartSentence(ticker, closes, forecast), onkeydown, onpointermove, onpointerdown: onpointermove,
    onpointerleave: (event) => event.pointerType === "mouse" && point(null), onblur: () => point(null),
  }, draw);
}

/** Told against actual; the shape of a mark tells where the close fell. */
function scoreChart(scores, horizon) {
  const days = [...scores].reverse();
  const all = `${counted(days.length, "day")} to ${days.at(-1).date}`;
  const sentence = `Told ${counted(horizon, "day")} ahead against the closes of ${all}; the table has the same.`;
  return drawing({ class: "chart small", "aria-label": sentence }, (svg) => {
    const values = days.flatMap((day) => [day.close, day.actual_close]);
    const { x, y, axes } = frame(svg, days.map(({ date }) => date), values);
    const at = (name) => days.map((day) => [x(day.date), y(day[name])]);
    const errors = days.map((day) => `M${x(day.date)} ${y(day.close)}V${y(day.actual_close)}`).join("");
    return [axes, h("path", { class: "errors", d: errors }), path("told", at("close")),
      ...at("actual_close").map(([left, top], place) => mark(verdict(days[place]), left, top))];
  });
}

const verdict = (score) => (score.inside_80 ? "in-80" : score.inside_95 ? "in-95" : "out");
const VERDICTS = { "in-80": "inside 80 %", "in-95": "inside 95 %", out: "outside" };
const SHAPES = {
  "in-80": "M-3 0a3 3 0 1 0 6 0a3 3 0 1 0-6 0",
  "in-95": "M0-4.5L4.5 0L0 4.5L-4.5 0Z",
  out: "M-4-4L4 4M-4 4L4-4",
};
const mark = (kind, x, y) =>
  h("path", { class: `mark ${kind}`, d: SHAPES[kind], transform: `translate(${x} ${y})` });
const sign = (kind) =>
  h("svg", { class: "sign", viewBox: "-6 -6 12 12", "aria-hidden": "true" }, mark(kind, 0, 0));

/* A ticker. */

let shownDays = matchMedia("(max-width: 600px)").matches ? 60 : 120;
let horizon = 10;

async function tickerView(ticker, query, signal) {
  const name = encodeURIComponent(ticker);
  const trouble = (error) => ({ trouble: error.message });
  const told = (model) => api(`predict/${name}${model ? `?${new URLSearchParams({ model })}` : ""}`, { signal });
  const wanted = query.get("model");
  const [report, shown, chosen] = await Promise.all([
    api(`tickers/${name}?closes=${CLOSES}&scores=${SCORES}`, { signal }),
    told().catch(trouble),
    wanted && told(wanted).catch(trouble),
  ]);
  const champion = shown.trouble ? null : shown;
  const crown = champion?.model ?? report.models.find((one) => one.is_champion)?.model;
  const box = h("div", { class: "ticker" });
  const state = { report, champion, crown, chosen: chosen || shown, model: wanted || crown, paint, choose };

  function paint() {
    put(box, [tickerHead(report), tickerPanels(state), scoresPanel(report.scores, paint)]);
  }

  async function choose(model) {
    state.model = model;
    history.replaceState(null, "", toTicker(report.ticker, model === crown ? "" : model));
    const answer = model === crown ? shown : await told(model).catch(trouble);
    if (state.model !== model || signal.aborted) return; // another was chosen in the meantime
    state.chosen = answer;
    paint();
  }

  paint();
  return [box];
}

function tickerHead({ ticker, sector, days, first_date: first, last_date: last }) {
  const onclick = () => train(ticker);
  return h("div", { class: "head" },
    h("h1", { id: "title", tabindex: -1 }, ticker),
    p("", sector, h("span", { class: "note" }, `${counted(days, "day")}, ${first} to ${last}`)),
    h("button", { id: "train", type: "button", disabled: training.has(ticker), onclick }, "Train anew"));
}

function tickerPanels({ report, champion, crown, chosen, model, paint, choose }) {
  const forecast = chosen.trouble ? null : chosen;
  const models = [...new Set(solid([crown, report.models.map((one) => one.model)]))]
    .map((name) => [name, name === crown ? `${name} (champion)` : name]);
  const spans = [60, 120, 250].filter((_, place, all) => !place || report.closes.length > all[place - 1]);
  const span = Math.min(shownDays, spans.at(-1));
  const closes = report.closes.slice(-span);
  const reading = h("p", { id: "reading", class: "reading", "aria-live": "polite" });
  const tell = (at) => put(reading, at ? readingOf(at) : legend(forecast, champion));
  const setDays = (days) => { shownDays = days; paint(); };
  return [
    h("div", { class: "split" },
      h("section", { class: "panel", "aria-label": "Chart" },
        h("div", { class: "bar" },
          models.length > 0 && choice("Model", "model", models, model, choose),
          choice("Days of history", "days", spans.map((days) => [days, `${days} d`]), span, setDays)),
        closes.length ? priceChart(report.ticker, closes, forecast, champion, tell) : p("quiet", "No closes."),
        reading),
      h("section", { class: "panel facts", "aria-label": "Forecast" },
        forecast ? facts(forecast) : p("problem", chosen.trouble))),
    h("div", { class: "halves" },
      forecast && panel("The next ten days", null, daysTable(forecast)),
      modelsPanel(report.models, crown)),
  ];
}

function legend(forecast, champion) {
  const key = (kind, text) => h("span", { class: `key ${kind}` }, text);
  return [
    key("closes", "close"),
    forecast && [key("told", forecast.model), key("band-80", "80 %"), key("band-95", "95 %")],
    champion && champion !== forecast && key("champion", `${champion.model} (champion)`),
  ];
}

function readingOf({ date, known, day }) {
  const pair = (name, value) => h("span", {}, `${name} `, h("b", {}, value));
  return [
    h("b", {}, date), known && pair("close", price(known.close)),
    day && [pair(`day ${day.h}`, price(day.close)),
      pair("80 %", range(day.lo_80, day.hi_80)), pair("95 %", range(day.lo_95, day.hi_95))],
  ];
}

const total = (name, value, more) => p("", h("span", {}, name), h("b", {}, value), more);

function facts(forecast) {
  const { last_close: last, days } = forecast;
  const end = days.at(-1);
  const fact = (name, ...value) => h("div", {}, h("dt", {}, name), h("dd", {}, value));
  return [
    h("div", { class: "big" },
      total("Last close", price(last), h("span", {}, forecast.as_of)),
      total(`In ${end.h} days`, price(end.close), change(end.close / last - 1))),
    h("dl", {},
      fact("80 % range", range(end.lo_80, end.hi_80)),
      fact("95 % range", range(end.lo_95, end.hi_95)),
      fact("Model", forecast.model, forecast.is_champion && badge("good", "champion")),
      fact("Version", h("code", {}, forecast.model_version)),
      fact("Backtest error", or((value) => `${ratio(value)} × naive`)(forecast.mae_ratio)),
      fact("Backtest inside 80 %", share(forecast.coverage_80)),
      fact("Backtest inside 95 %", share(forecast.coverage_95)),
      fact("Forecast", ago(forecast.forecast_at), !forecast.is_current && badge("warn", "not current", NEWER))),
    p("note", forecast.reason),
  ];
}

const daysTable = ({ days, last_close: last }) =>
  table("The next ten days", [
    ["Day", (day) => day.h, "n"],
    ["Date", (day) => day.date],
    ["Close", (day) => price(day.close), "n"],
    ["Change", (day) => change(day.close / last - 1), "n less"],
    ["80 % range", (day) => range(day.lo_80, day.hi_80), "n"],
    ["95 % range", (day) => range(day.lo_95, day.hi_95), "n"],
  ], days);

/** Models and their backtests; what they have in common is said once, above. */
function modelsPanel(models, crown) {
  if (!models.length) return panel("Models", null, p("quiet", "None is trained yet."));
  const rest = [
    ["Backtest", (one) => (one.origins ? `of ${counted(one.origins, "day")}` : "none")],
    ["Trained on", (one) => `${counted(one.days, "day")} to ${one.trained_to}`],
  ].map(([title, cell]) => ({ title, cell, same: new Set(models.map(cell)).size === 1 }));
  const common = rest.filter(({ same }) => same)
    .map(({ title, cell }) => h("span", {}, `${title} ${cell(models[0])}`));
  return panel("Models", p("note", common), table("Models", [
    ["Model", ({ model }) => [model, model === crown && badge("good", "champion")]],
    ["Error / naive", (one) => ratio(one.mae_ratio), "n"],
    ["Inside 80 %", (one) => share(one.coverage_80), "n"],
    ["Inside 95 %", (one) => share(one.coverage_95), "n"],
    ...rest.filter(({ same }) => !same).map(({ title, cell }) => [title, cell, "n"]),
  ], models));
}

function scoresPanel(all, paint) {
  const scores = all.filter((score) => score.h === horizon);
  const setHorizon = (value) => { horizon = value; paint(); };
  const ahead = [1, 5, 10].map((days) => [days, counted(days, "day")]);
  const buttons = all.length > 0 && choice("Days ahead", "ahead", ahead, horizon, setHorizon);
  if (!scores.length) return panel("Past forecasts", buttons, p("quiet", "None has come due yet."));
  const size = (name) => mean(scores.map((score) => Math.abs(score[name])));
  const inside = (name) => share(mean(scores.map((score) => Number(score[name]))));
  return panel("Past forecasts", buttons,
    h("div", { class: "totals" },
      total("Forecasts", whole.format(scores.length)),
      total("Inside 80 %", inside("inside_80")),
      total("Inside 95 %", inside("inside_95")),
      total("Mean error", share(size("error"))),
      total("Error / naive", ratio(part(size("error"), size("naive_error"))))),
    h("div", { class: "halves inner" }, h("div", {}, scoreChart(scores, horizon),
      p("reading", h("span", { class: "key told" }, "told"),
        Object.entries(VERDICTS).map(([kind, text]) => h("span", {}, sign(kind), text)))),
    table("Past forecasts", [
      ["For", (score) => score.date], ["Told on", (score) => score.as_of], ["By", (score) => score.model],
      ["Told", (score) => price(score.close), "n"], ["Actual", (score) => price(score.actual_close), "n"],
      ["Error", (score) => signed(score.error), "n"], ["Naive", (score) => signed(score.naive_error), "n"],
      ["Close", (score) => [sign(verdict(score)), VERDICTS[verdict(score)]]],
    ], scores)));
}

/* All tickers. */

const width = (row) => (isNumber(row.lo_80) ? part(row.hi_80 - row.lo_80, row.last_close) : null);
const changeOf = (row) => (isNumber(row.close) ? part(row.close - row.last_close, row.last_close) : null);
const toList = (query) => `#${String(query) && `?${query}`}`;
const toTicker = (ticker, model) =>
  `#${encodeURIComponent(ticker)}${model ? `?${new URLSearchParams({ model })}` : ""}`;

function altered(query, changes) {
  const next = new URLSearchParams(query);
  for (const [name, value] of Object.entries(changes)) value ? next.set(name, value) : next.delete(name);
  return next;
}

/** A small bar of the 80 % interval around the last close, on the scale of all rows shown. */
function rangeBar(row, most) {
  if (width(row) === null) return null;
  const x = (value) => 36 + (35 * (value / row.last_close - 1)) / most;
  return h("svg", { class: "range", viewBox: "0 0 72 12", "aria-hidden": "true" },
    h("rect", { x: x(row.lo_80), y: 3, width: x(row.hi_80) - x(row.lo_80), height: 6, rx: 2 }),
    h("line", { x1: 36, x2: 36, y1: 0, y2: 12 }), h("circle", { cx: x(row.close), cy: 6, r: 2 }));
}

function listTable(rows, query) {
  const sort = query.get("sort") ?? (query.get("q") ? "" : "ticker");
  const reach = (row) => [row.hi_80, row.lo_80].map((edge) => Math.abs(edge / row.last_close - 1));
  const most = Math.max(1e-9, ...rows.filter(width).flatMap(reach));
  const head = (field, title, kind, first = "-") => {
    const order = { [field]: "ascending", [`-${field}`]: "descending" }[sort];
    const next = order ? (order === "ascending" ? "-" : "") : first;
    const onclick = () => go(toList(altered(query, { sort: next + field, offset: "" })));
    return h("th", { scope: "col", class: kind, "aria-sort": order },
      h("button", { id: `sort-${field}`, type: "button", onclick }, title));
  };
  const link = ({ ticker }) => h("a", { href: toTicker(ticker), id: `row-${ticker}` }, ticker);
  const wide = (row) => [rangeBar(row, most), h("span", { class: "fixed" }, share(width(row)))];
  const told = (row) => (row.forecast_at ? (row.is_current ? ago : late)(row.forecast_at) : "none yet");
  const open = ({ ticker }) => ({
    onclick: (event) => event.target.closest("a") || String(getSelection()) || go(toTicker(ticker)),
  });
  return table("All tickers", [
    [head("ticker", "Ticker", "", ""), link],
    [head("sector", "Sector", "less", ""), (row) => row.sector, "cut less"],
    [head("days", "Days", "n least"), (row) => whole.format(row.days), "n least"],
    [head("last_date", "Last day", "n less"), (row) => row.last_date, "n less"],
    [head("last_close", "Last close", "n"), (row) => price(row.last_close), "n"],
    ["In 10 days", (row) => price(row.close), "n"],
    [head("change", "Change", "n"), (row) => change(changeOf(row)), "n"],
    ["80 % range", (row) => range(row.lo_80, row.hi_80), "n"],
    [head("width", "Width", "n"), wide, "n"],
    [head("mae_ratio", "Error / naive", "n", ""), (row) => ratio(row.mae_ratio), "n"],
    ["Champion", (row) => row.champion ?? NONE],
    [head("forecast_at", "Forecast", "n"), told, "n"],
  ], rows, open);
}

async function listView(query, signal) {
  const asked = altered(query, { limit: ROWS });
  const { total, tickers } = await api(`tickers?${asked}`, { signal });
  const [q, offset] = [query.get("q"), Number(query.get("offset")) || 0];
  if (!total && !q) return [$("empty").content.cloneNode(true)];
  if (!tickers.length) {
    const why = total ? "There is no such page." : `No ticker or sector has “${q}” in it.`;
    return [h("section", { class: "panel empty" }, p("", why), h("a", { href: "#" }, "All tickers"))];
  }
  const page = (id, text, to) =>
    to >= 0 && to < total
      ? h("a", { id, class: "button", href: toList(altered(query, { offset: to })) }, text)
      : h("span", { class: "button off" }, text);
  const pages = (where) => total > ROWS && h("nav", { "aria-label": `Pages, ${where}` },
    page(`${where}-previous`, "Previous", offset ? Math.max(0, offset - ROWS) : -1),
    page(`${where}-next`, "Next", offset + ROWS));
  const shown = [offset + 1, offset + tickers.length, total].map(whole.format);
  return [
    h("div", { class: "head" },
      h("h1", { id: "title", tabindex: -1 }, q ? `“${q}”` : "All tickers"),
      h("p", { id: "total", class: "note" }, `${shown[0]} to ${shown[1]} of ${shown[2]}`), pages("top")),
    h("section", { class: "panel list" }, listTable(tickers, query)),
    h("div", { class: "head foot" }, pages("bottom")),
  ];
}

/* Where one is: the address fragment is the state. */

function here() {
  const [, name, query] = location.hash.match(/^#?([^?]*)\??(.*)$/s);
  try {
    return { ticker: decodeURIComponent(name), query: new URLSearchParams(query) };
  } catch { // a lone %
    return { ticker: name, query: new URLSearchParams(query) };
  }
}

const go = (hash) => { location.hash = hash; };
let left = new AbortController();
let cameFrom = "";

/** Show what the address says; old answers that come late are dropped. */
async function render() {
  left.abort();
  left = new AbortController();
  const { signal } = left;
  const { ticker, query } = here();
  view.setAttribute("aria-busy", "true");
  document.title = `${ticker}${ticker && " · "}stock-assets`;
  try {
    const nodes = await (ticker ? tickerView(ticker, query, signal) : listView(query, signal));
    if (signal.aborted) return;
    put(view, nodes);
    announce($("total")?.textContent ?? view.querySelector("h1, p").textContent);
    arrive(ticker);
  } catch (error) {
    if (signal.aborted) return;
    const again = h("button", { id: "again", type: "button", onclick: render }, "Try again");
    put(view, h("section", { class: "panel empty", role: "alert" },
      p("problem", error.message), p("", again, " ", h("a", { href: "#" }, "All tickers"))));
  }
  view.setAttribute("aria-busy", "false");
}

/** The focus follows: to the heading of a ticker, and back to the row that one came from. */
function arrive(ticker) {
  const from = cameFrom;
  cameFrom = ticker;
  if (ticker === from) return;
  if (ticker) scrollTo(0, 0);
  if (ticker || document.activeElement !== search) $(ticker ? "title" : `row-${from}`)?.focus();
}

/** Another address, by a link or by back and forward: it says what is searched, too. */
function move() {
  clearTimeout(typing);
  const { ticker, query } = here();
  search.value = ticker ? "" : query.get("q") ?? "";
  render();
}

/** Show anew what has changed, if it is on the screen. */
function refresh(tickers) {
  const { ticker } = here();
  if (!ticker || tickers.includes(ticker.toUpperCase())) render();
}

/* Search, keys, drops. */

let typing;

async function look() {
  clearTimeout(typing);
  const { ticker, query } = here();
  const to = toList(altered(ticker ? "" : query, { q: search.value.trim(), offset: "" }));
  history[ticker ? "pushState" : "replaceState"](null, "", to);
  await render();
}

search.addEventListener("input", () => {
  clearTimeout(typing);
  typing = setTimeout(look, 150);
});

$("find").addEventListener("submit", async (event) => {
  event.preventDefault();
  if (!search.value.trim()) return;
  await look();
  const found = [...view.querySelectorAll("tbody a[id^=row-]")];
  const best = found.find((link) => link.textContent === search.value.trim().toUpperCase()) ?? found[0];
  if (best) go(best.hash);
});

addEventListener("keydown", (event) => {
  const typed = event.target.closest("input:not([type=radio]), textarea, dialog");
  if (event.key === "/" && !typed && !event.ctrlKey && !event.metaKey) {
    event.preventDefault();
    search.select();
    search.focus();
  }
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  const links = [search, ...view.querySelectorAll("tbody a[id^=row-]")];
  const at = links.indexOf(event.target);
  if (!step || at < 0 || !links[at + step]) return;
  event.preventDefault();
  links[at + step].focus();
});

for (const kind of ["dragenter", "dragover", "dragleave", "drop"]) {
  addEventListener(kind, (event) => {
    if (!event.dataTransfer?.types.includes("Files")) return;
    event.preventDefault();
    veil.hidden = kind === "drop" || (kind === "dragleave" && !event.relatedTarget); // left the window
    if (kind === "drop") take(event.dataTransfer.files);
  });
}

$("files").addEventListener("change", ({ target }) => {
  take(target.files);
  target.value = "";
});

$("key").hidden = !sessionStorage.getItem(KEY);
$("key").addEventListener("click", () => askForKey("Another than the one in use.").then(render, () => {}));
setInterval(() => {
  for (const time of document.querySelectorAll("time")) time.textContent = age(time.dateTime);
}, 15_000);
addEventListener("hashchange", move);
move();
