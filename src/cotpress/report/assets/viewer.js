"use strict";
// The theme button, and the token viewer over the data that cotpress.report.viewer_encoding writes.
// Texts from the data reach the page through textContent only.

const $ = (id) => document.getElementById(id);
// Invisible characters and those that change the direction of a line are shown by their numbers.
const legible = (text) => String(text).replace(
  /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\u3164\ufeff\uffa0\ufff9-\ufffb]/g,
  (sign) => `\\u${sign.charCodeAt(0).toString(16).padStart(4, "0")}`);
const make = (tag, text = "", className = "") => {
  const element = document.createElement(tag);
  element.textContent = legible(text);
  if (className) element.className = className;
  return element;
};

// ---------------------------------------------------------------- theme

(() => {
  const order = ["auto", "light", "dark"];
  let theme = "auto";
  try { theme = localStorage.getItem("cotpress-theme") || theme; } catch { /* a page from disk may have no storage */ }
  const apply = () => {
    if (theme === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
    $("theme").textContent = `Theme: ${theme}`;
  };
  $("theme").addEventListener("click", () => {
    theme = order[(order.indexOf(theme) + 1) % order.length];
    try { localStorage.setItem("cotpress-theme", theme); } catch { /* as above */ }
    apply();
  });
  $("theme").hidden = false;
  apply();
})();

// ---------------------------------------------------------------- the selection, as in Python

/** Python's round(): halves go to the even number. */
function roundHalfEven(x) {
  const below = Math.floor(x), rest = x - below;
  if (rest !== 0.5) return rest < 0.5 ? below : below + 1;
  return below % 2 === 0 ? below : below + 1;
}

const LOWEST = 30; // the lowest percentage of the slider

/** How many tokens of n stay at a whole percentage: those of a lower place. */
function numKept(rank, n, percent) {
  if (rank.numbers) return rank.numbers[Math.max(percent, LOWEST) - LOWEST]; // traces share the kept tokens
  return Math.max(Math.min(roundHalfEven((percent / 100) * n), n), rank.held);
}

/** The same number where it divides no character: the tokens of a character share a place. */
function numWhole(rank, cut) {
  let kept = cut;
  while (kept > 0 && rank.place[rank.order[kept - 1]] >= cut) kept -= 1;
  while (kept < rank.order.length && rank.place[rank.order[kept]] < cut) kept += 1;
  return kept;
}

// ---------------------------------------------------------------- decoding, one trace at a time

const bytesOf = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));

function decode(trace) {
  if (trace.tokens) return trace;
  trace.tokens = [];
  let at = 0, length = 0, shift = 0;
  for (const byte of bytesOf(trace.lengths)) { // LEB128
    length += (byte & 127) * 2 ** shift;
    shift += 7;
    if (byte < 128) {
      trace.tokens.push({ start: at, end: at + length });
      at += length;
      length = shift = 0;
    }
  }
  trace.kindCodes = bytesOf(trace.kinds);
  trace.labelCodes = bytesOf(trace.labels);
  for (const rank of trace.ranks) if (rank) decodeRank(rank, trace.tokens.length);
  return trace;
}

function decodeRank(rank, n) {
  const Places = n < 65536 ? Uint16Array : Uint32Array;
  rank.place = new Places(bytesOf(rank.places).buffer);
  if (rank.kept) rank.numbers = new Uint32Array(bytesOf(rank.kept).buffer);
  rank.order = Places.from({ length: n }, (_, i) => i).sort((a, b) => rank.place[a] - rank.place[b]);
  const steps = new Uint16Array(bytesOf(rank.scores).buffer);
  rank.score = Float64Array.from(steps, (s) => rank.low + (s / 65535) * (rank.high - rank.low));
  // Shades span the scores between the 5th and the 95th percentile: one outlier does not make all others pale.
  const sorted = Float64Array.from(rank.score).sort();
  const low = sorted[Math.floor(0.05 * (n - 1))], high = sorted[Math.ceil(0.95 * (n - 1))];
  rank.shade = Uint8Array.from(rank.score, (s) => Math.round(8 * Math.min(1, Math.max(0, (s - low) / (high - low || 1)))));
}

// ---------------------------------------------------------------- the viewer

const state = { data: null, trace: null, percent: 70, panes: [], hidden: new Set(), token: 0 };

function start(pack) {
  state.pack = pack;
  state.percent = pack.percent;
  pack.data.forEach((d, i) => $("data").append(new Option(legible(d.label), i)));
  $("data-row").hidden = pack.data.length < 2;
  $("viewer").hidden = false;
  $("data").addEventListener("change", () => chooseData(Number($("data").value)));
  $("search").addEventListener("input", () => { fillList(); markHits(); });
  $("search").addEventListener("keydown", (e) => { if (e.key === "Enter") $("list").querySelector("button")?.click(); });
  $("family").addEventListener("change", fillList);
  for (const id of ["show-scores", "show-dropped", "show-labels"]) $(id).addEventListener("change", showOptions);
  for (const input of document.querySelectorAll(".ratio-input")) {
    input.addEventListener("input", () => setPercent(Number(input.value)));
  }
  $("list").addEventListener("click", (e) => {
    const button = e.target.closest("button");
    if (button) choose(state.data.traces[Number(button.dataset.i)]);
  });
  $("list").addEventListener("keydown", moveInList);
  const panes = $("panes");
  panes.addEventListener("mouseover", (e) => { if (e.target.dataset.i) point(e.target); });
  panes.addEventListener("mouseleave", unpoint);
  panes.addEventListener("focusin", (e) => { if (e.target.dataset.i) point(e.target); });
  panes.addEventListener("focusout", unpoint);
  panes.addEventListener("keydown", moveBetweenTokens);
  panes.addEventListener("scroll", unpoint, true);
  addEventListener("scroll", () => { if (!panes.contains(document.activeElement)) unpoint(); }, { passive: true });
  showOptions();
  chooseData(0);
}

function chooseData(i) {
  const data = (state.data = state.pack.data[i]);
  state.hidden.clear();
  const families = [...new Set(data.traces.map((t) => t.family))].filter(Boolean).sort();
  $("family").replaceChildren(new Option("all", ""), ...families.map((f) => new Option(legible(f.replaceAll("_", " ")), f)));
  $("family-row").hidden = families.length < 2;
  $("labels-row").hidden = !data.labels.length;
  document.querySelectorAll(".legend .labels").forEach((e) => { e.hidden = !data.labels.length; });
  $("rankers").replaceChildren(make("legend", "Scorers"), ...data.rankers.map(rankerBox));
  $("rankers").hidden = data.rankers.length < 2;
  fillList();
  choose(data.traces[0]);
}

function rankerBox(ranker, r) {
  const label = make("label"), box = make("input");
  box.type = "checkbox";
  box.checked = r < 4; // more panes than that are a matter of choice
  if (!box.checked) state.hidden.add(r);
  box.addEventListener("change", () => {
    if (box.checked) state.hidden.delete(r); else state.hidden.add(r);
    choose(state.trace);
  });
  label.append(box, ` ${ranker.label}`);
  return label;
}

function matches(trace, query) {
  trace.haystack ??= [trace.id, trace.question, trace.answer, trace.text].join("\n").toLowerCase();
  return trace.haystack.includes(query);
}

function fillList() {
  const query = $("search").value.toLowerCase(), family = $("family").value;
  const found = state.data.traces.map((trace, i) => ({ trace, i }))
    .filter(({ trace }) => (!family || trace.family === family) && (!query || matches(trace, query)));
  $("list").replaceChildren(...found.map(({ trace, i }) => {
    const item = make("li"), button = make("button");
    button.type = "button";
    button.dataset.i = i;
    button.append(make("b", trace.id), make("span", trace.question || trace.text.slice(0, 80)));
    if (trace === state.trace) button.setAttribute("aria-current", "true");
    item.append(button);
    return item;
  }));
  const { traces, num_traces: all } = state.data;
  const shown = traces.length < all ? `${traces.length} of ${all} training traces in this page` : `${all} training traces`;
  $("count").textContent = found.length === traces.length ? shown : `${found.length} found in ${shown}`;
  if (!found.length) $("list").append(make("li", "Nothing found. Try a shorter text or all families.", "empty"));
}

function moveInList(e) {
  const step = { ArrowDown: 1, ArrowUp: -1 }[e.key];
  if (!step) return;
  e.preventDefault();
  const buttons = [...$("list").querySelectorAll("button")];
  buttons[buttons.indexOf(document.activeElement) + step]?.focus();
}

function choose(trace) {
  state.trace = decode(trace);
  state.token = 0;
  unpoint();
  for (const button of $("list").querySelectorAll("button")) {
    if (state.data.traces[Number(button.dataset.i)] === trace) button.setAttribute("aria-current", "true");
    else button.removeAttribute("aria-current");
  }
  const about = [trace.id, trace.family.replaceAll("_", " "), `${trace.tokens.length} thinking tokens`];
  $("problem").replaceChildren(make("h3", about.filter(Boolean).join(" · ")), make("p", trace.question));
  if (trace.answer) $("problem").append(make("p", `Gold answer: ${trace.answer}`, "answer"));
  state.panes = [];
  $("panes").replaceChildren(...state.data.rankers.map((ranker, r) => pane(ranker, r)).filter(Boolean));
  if (!state.panes.length) $("panes").append(make("p", "No scorer is chosen, or none ranked this trace.", "empty"));
  markHits();
  setPercent(state.percent);
}

function pane(ranker, r) {
  const rank = state.trace.ranks[r];
  if (!rank || state.hidden.has(r)) return null;
  const element = make("section", "", "pane"), head = make("header"), tokens = make("div", "", "tokens");
  const asked = ranker.ratios.map((x) => x.toString()).join(", ");
  element.style.setProperty("--series", `var(--c${r % 6})`);
  element.setAttribute("aria-label", `Tokens by ${ranker.label}`);
  const name = make("b", ranker.label), counts = make("span", "", "counts");
  name.title = `runs at ratio ${asked}`;
  head.append(name, counts);
  tokens.setAttribute("role", "group");
  tokens.setAttribute("aria-label", `${state.trace.tokens.length} tokens, arrow keys move between them`);
  const { text, tokens: all, labelCodes } = state.trace;
  const spans = all.map(({ start, end }, i) => {
    const shown = text.slice(start, end), span = make("span", shown, `t q${rank.shade[i]}`);
    if (start === end) span.classList.add("piece");
    if (/^\s*\n\s*$/.test(shown)) span.classList.add("nl");
    const label = state.data.labels[labelCodes[i]];
    if (label?.essential) span.classList.add("essential");
    span.dataset.i = i;
    span.tabIndex = i ? -1 : 0;
    return span;
  });
  tokens.append(...spans);
  element.append(head, tokens);
  state.panes.push({ ranker, rank, spans, counts, tokens, kept: all.length });
  return element;
}

function setPercent(percent) {
  state.percent = percent;
  for (const input of document.querySelectorAll(".ratio-input")) input.value = percent;
  for (const output of document.querySelectorAll(".ratio-shown")) output.textContent = (percent / 100).toFixed(2);
  for (const p of state.panes) {
    const n = p.spans.length, kept = numWhole(p.rank, numKept(p.rank, n, percent));
    // Masks are nested: only the tokens between the two cuts change.
    for (let k = Math.min(kept, p.kept); k < Math.max(kept, p.kept); k++) {
      p.spans[p.rank.order[k]].classList.toggle("dropped", k >= kept);
    }
    p.kept = kept;
    p.counts.textContent = `${kept} of ${n} kept (${(kept / n).toFixed(2)})${labelCounts(p, kept)}`;
  }
  showDeletions();
}

function labelCounts({ rank }, kept) {
  const { labelCodes } = state.trace, { labels } = state.data;
  if (!labelCodes.length) return "";
  let essential = 0, there = 0;
  labelCodes.forEach((code, i) => {
    if (labels[code]?.essential) { there += 1; essential += rank.place[i] < kept; }
  });
  return there ? `, ${essential} of ${there} essential` : "";
}

function showOptions() {
  const { classList } = $("panes");
  classList.toggle("scores", $("show-scores").checked);
  classList.toggle("no-dropped", !$("show-dropped").checked);
  classList.toggle("with-labels", $("show-labels").checked);
}

function markHits() {
  if (!state.trace) return;
  const query = $("search").value.toLowerCase(), text = state.trace.text.toLowerCase();
  // Lower case may be longer than the text in a few scripts; then nothing is marked rather than the wrong token.
  const ranges = [];
  if (query && text.length === state.trace.text.length) {
    for (let at = text.indexOf(query); at >= 0; at = text.indexOf(query, at + query.length)) ranges.push(at);
  }
  for (const { spans } of state.panes) {
    let next = 0;
    state.trace.tokens.forEach(({ start, end }, i) => {
      while (next < ranges.length && ranges[next] + query.length <= start) next++;
      spans[i].classList.toggle("hit", next < ranges.length && ranges[next] < end && start < end);
    });
  }
}

// ---------------------------------------------------------------- one token

const visible = (text) => text.replaceAll("\n", "↵").replaceAll("\t", "⇥").replaceAll(" ", "␣") || "(rest of the character before)";
const threeDigits = (x) => (x === 0 ? "0" : Math.abs(x) >= 1e5 || Math.abs(x) < 1e-3 ? x.toExponential(2) : Number(x.toPrecision(4)).toString());

/** The lowest whole percentage at which a token of this place stays. */
function keptFrom(rank, place, n) {
  if (place < rank.held) return "always";
  let percent = rank.numbers ? LOWEST : 1;
  if (rank.numbers && place < rank.numbers[0]) return `ratio ${(LOWEST / 100).toFixed(2)} or less`;
  while (percent < 100 && numKept(rank, n, percent) <= place) percent += 1;
  return `ratio ${(percent / 100).toFixed(2)}`;
}

function point(span) {
  unpoint();
  const i = Number(span.dataset.i), { trace, data } = state, { start, end } = trace.tokens[i], n = trace.tokens.length;
  const label = data.labels[trace.labelCodes[i]];
  const about = [`token ${i + 1} of ${n}`, state.pack.kinds[trace.kindCodes[i]]];
  if (label) about.push(`planted: ${label.kind}, ${label.essential ? "essential" : "redundant"}`);
  const table = make("table"), body = make("tbody"), head = make("tr");
  for (const heading of ["", "score", "rank", "kept from"]) head.append(make("th", heading));
  table.append(make("thead"), body);
  table.tHead.append(head);
  for (const { ranker, rank, spans, kept } of state.panes) {
    const row = make("tr"), place = rank.place[i];
    row.append(make("th", `${place < kept ? "✓" : "✗"} ${ranker.label}`));
    for (const cell of [threeDigits(rank.score[i]), `${place + 1} of ${n}`, keptFrom(rank, place, n)]) row.append(make("td", cell));
    body.append(row);
    spans[i].classList.add("same");
  }
  const tip = $("tip");
  tip.replaceChildren(make("b", visible(trace.text.slice(start, end))), make("p", about.join(" · ")), table);
  tip.hidden = false;
  span.setAttribute("aria-describedby", "tip");
  const at = span.getClientRects()[0] ?? span.getBoundingClientRect(), size = tip.getBoundingClientRect();
  const above = at.top - size.height - 8;
  tip.style.left = `${Math.max(8, Math.min(at.left, innerWidth - size.width - 8))}px`;
  tip.style.top = `${above > 8 ? above : at.bottom + 8}px`;
}

function unpoint() {
  $("tip").hidden = true;
  for (const span of document.querySelectorAll(".t.same")) span.classList.remove("same");
  for (const span of document.querySelectorAll("[aria-describedby='tip']")) span.removeAttribute("aria-describedby");
}

function moveBetweenTokens(e) {
  const pane = state.panes.find((p) => p.tokens.contains(e.target));
  if (!pane || !e.target.dataset.i) return;
  if (e.key === "Escape") return unpoint();
  const i = Number(e.target.dataset.i), { spans } = pane, shown = (k) => spans[k]?.getClientRects().length;
  const walk = (k, step) => { while (k in spans && !shown(k)) k += step; return k in spans ? k : i; };
  const to = {
    ArrowRight: () => walk(i + 1, 1), ArrowLeft: () => walk(i - 1, -1), Home: () => walk(0, 1),
    End: () => walk(spans.length - 1, -1), ArrowDown: () => nextLine(spans, i, 1), ArrowUp: () => nextLine(spans, i, -1),
  }[e.key]?.();
  if (to === undefined) return;
  e.preventDefault();
  e.target.tabIndex = -1;
  spans[to].tabIndex = 0;
  spans[to].focus();
}

/** The token on the next line whose middle is nearest. */
function nextLine(spans, from, step) {
  const middle = (r) => (r.left + r.right) / 2, here = spans[from].getClientRects()[0];
  let best = from, bestDistance = Infinity, line = null;
  for (let i = from + step; i in spans; i += step) {
    const rect = spans[i].getClientRects()[0];
    if (!rect || Math.abs(rect.top - here.top) < 4) continue;
    line ??= rect.top;
    if (Math.abs(rect.top - line) >= 4) break;
    const distance = Math.abs(middle(rect) - middle(here));
    if (distance < bestDistance) [best, bestDistance] = [i, distance];
  }
  return best;
}

// ---------------------------------------------------------------- what is deleted

function showDeletions() {
  const column = state.percent - LOWEST;
  for (const table of document.querySelectorAll("table.deletions")) {
    const group = state.pack.deletions[Number(table.dataset.group)];
    [...table.tBodies[0].rows].forEach((row, k) => group.deleted.forEach((counts, r) => {
      const share = group.totals[r][k] ? Math.round((100 * counts[k][column]) / group.totals[r][k]) : 0, cell = row.cells[r + 2];
      cell.style.setProperty("--share", `${share}%`);
      cell.firstChild.textContent = `${share} %`;
    }));
  }
}

if ($("viewer-data")) start(JSON.parse($("viewer-data").textContent));
