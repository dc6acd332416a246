"use strict";
// Model text reaches the page through textContent only: it is never parsed as HTML.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const SVG = "http://www.w3.org/2000/svg";
  const PAGE = 12; // groups shown at a time

  function element(tag, className, text) {
    const node = document.createElement(tag);
    if (className) node.className = className;
    if (text !== undefined) node.textContent = text;
    return node;
  }

  // ---- charts: the values of the step under the pointer, or under the arrow keys ----
  function figure(value, percent) {
    if (percent) return (100 * value).toFixed(1) + "%";
    const size = Math.abs(value);
    if (size === 0) return "0";
    if (size < 1e-3) return value.toExponential(1).replace("-", "−");
    if (size >= 100) return Math.round(value).toLocaleString("en");
    return String(Number(value.toPrecision(3)));
  }

  function nearest(points, step) {
    let low = 0, high = points.length - 1;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (points[middle][0] < step) low = middle + 1; else high = middle;
    }
    if (low > 0 && step - points[low - 1][0] <= points[low][0] - step) low -= 1;
    return points[low];
  }

  function setUpChart(svg) {
    const chart = data.charts[svg.dataset.chart];
    const area = svg.parentElement;
    const steps = [...new Set(chart.series.flatMap(s => s.points.map(p => p[0])))].sort((a, b) => a - b);
    if (!steps.length) return;
    const cursor = document.createElementNS(SVG, "line");
    cursor.setAttribute("class", "cursor");
    cursor.setAttribute("y1", chart.top);
    cursor.setAttribute("y2", chart.bottom);
    const tip = element("div", "tip");
    tip.setAttribute("role", "status");
    let current = null;

    function hide() { cursor.remove(); tip.remove(); current = null; }

    function show(step) {
      current = step;
      const x = chart.left + step / chart.last * (chart.right - chart.left);
      cursor.setAttribute("x1", x);
      cursor.setAttribute("x2", x);
      svg.append(cursor);
      tip.replaceChildren(element("div", "step", "step " + step.toLocaleString("en")));
      for (const series of chart.series) {
        const point = series.points.length ? nearest(series.points, step) : null;
        if (!point || point[0] !== step) continue;
        const row = element("div");
        row.append(element("i", "swatch c-" + series.colour));
        if (series.label) row.append(element("span", "", series.label));
        let text = figure(point[1], chart.percent);
        if (point.length > 2) text += " [" + figure(point[2], chart.percent) + ", " + figure(point[3], chart.percent) + "]";
        row.append(element("b", "", text));
        tip.append(row);
      }
      area.append(tip);
      const scale = svg.getBoundingClientRect().width / svg.viewBox.baseVal.width;
      const width = tip.getBoundingClientRect().width, room = area.getBoundingClientRect().width;
      const left = x * scale + 12 + width <= room ? x * scale + 12 : x * scale - 12 - width;
      tip.style.left = Math.max(0, Math.min(left, room - width)) + "px";
    }

    function fromPointer(event) {
      const box = svg.getBoundingClientRect();
      const x = (event.clientX - box.left) / box.width * svg.viewBox.baseVal.width;
      const step = (x - chart.left) / (chart.right - chart.left) * chart.last;
      show(nearest(steps.map(s => [s]), step)[0]);
    }
    area.addEventListener("pointermove", fromPointer);
    area.addEventListener("pointerdown", fromPointer);
    area.addEventListener("pointerleave", hide);
    svg.addEventListener("blur", hide);
    svg.addEventListener("keydown", event => {
      const move = { ArrowLeft: -1, ArrowRight: 1, PageUp: -10, PageDown: 10 }[event.key];
      if (event.key === "Escape") hide();
      if (!move) return;
      event.preventDefault();
      const index = current === null ? (move > 0 ? -1 : steps.length) : steps.indexOf(current);
      show(steps[Math.max(0, Math.min(steps.length - 1, index + move))]);
    });
  }
  for (const svg of document.querySelectorAll("svg[data-chart]")) setUpChart(svg);

  // ---- rollouts ----
  const list = document.querySelector(".groups");
  if (!list) return;
  const verdicts = document.querySelector(".verdicts");
  const count = document.querySelector(".count");
  const more = document.querySelector(".more");
  const search = document.getElementById("search");
  const selects = { stage: document.getElementById("stage"), step: document.getElementById("step"), run: document.getElementById("run") };
  let verdict = "", limit = PAGE;

  const several = data.runs.length > 1;
  for (const group of data.groups) {
    for (const rollout of group.rollouts) {
      rollout.haystack = [group.problem, group.prompt, rollout.text].join("\n").toLowerCase();
    }
  }

  function fill(select, values, text) {
    if (!select) return;
    for (const value of values) {
      const option = element("option", "", text(value));
      option.value = String(value);
      select.append(option);
    }
  }
  const distinct = key => [...new Set(data.groups.map(g => g[key]))];
  fill(selects.stage, distinct("stage"), String);
  fill(selects.step, distinct("step").sort((a, b) => a - b), s => s.toLocaleString("en"));
  fill(selects.run, distinct("run"), r => data.runs[r]);

  // Everything but the verdict, so that the buttons can count what each would show.
  function inScope() {
    const words = search.value.trim().toLowerCase();
    const found = [];
    for (const group of data.groups) {
      if (Object.entries(selects).some(([key, s]) => s && s.value !== "" && s.value !== String(group[key]))) continue;
      const rollouts = group.rollouts.filter(r => !words || r.haystack.includes(words));
      if (rollouts.length) found.push({ group, rollouts });
    }
    return found;
  }

  const buttons = new Map();
  function addButton(value, label) {
    const button = element("button");
    button.type = "button";
    button.dataset.verdict = value;
    if (value) button.append(element("i", "swatch c-" + value));
    button.append(element("span", "", label), element("span", "number"));
    button.addEventListener("click", () => { verdict = value; limit = PAGE; update(); });
    verdicts.append(button);
    buttons.set(value, button);
  }
  addButton("", "all");
  const present = new Set(data.groups.flatMap(g => g.rollouts.map(r => r.outcome)));
  for (const [value, label] of Object.entries(data.outcomes)) if (present.has(value)) addButton(value, label);

  // \boxed{…} and </think> stand out; braces are matched as far as a pattern can, two levels deep.
  const LANDMARK = /(\\boxed\{(?:[^{}]|\{[^{}]*\})*\})|(<\/?think>)/g;
  function landmarks(node, text) {
    let end = 0;
    for (const match of text.matchAll(LANDMARK)) {
      node.append(document.createTextNode(text.slice(end, match.index)));
      node.append(element("mark", match[2] ? "tag" : "", match[0]));
      end = match.index + match[0].length;
    }
    node.append(document.createTextNode(text.slice(end)));
  }

  function rolloutNode(group, rollout) {
    const node = element("article", "rollout");
    node.dataset.outcome = rollout.outcome;
    const head = element("div", "rollout-head");
    const badge = element("span", "verdict");
    badge.append(element("i", "swatch c-" + rollout.outcome), element("span", "", data.outcomes[rollout.outcome] || rollout.outcome));
    head.append(badge);
    if (rollout.answer !== null) {
      const answer = element("span", "", "answer ");
      answer.append(element("code", "", rollout.answer));
      head.append(answer);
    }
    head.append(element("span", "", rollout.tokens.toLocaleString("en") + " tokens"), element("span", "", "reward " + (rollout.reward === null ? "none" : rollout.reward)));
    for (const part of rollout.parts) head.append(element("span", "", part));
    head.append(element("span", "", "sample " + rollout.sample));
    if (rollout.detail) head.append(element("span", "", rollout.detail));
    const text = element("pre");
    landmarks(text, rollout.text);
    node.append(head, text);
    if (rollout.text.length > 900 || rollout.text.split("\n").length > 9) {
      text.classList.add("clip");
      const toggle = element("button", "link", "Show all of it");
      toggle.type = "button";
      toggle.setAttribute("aria-expanded", "false");
      toggle.addEventListener("click", () => {
        const clipped = text.classList.toggle("clip");
        toggle.textContent = clipped ? "Show all of it" : "Show less";
        toggle.setAttribute("aria-expanded", String(!clipped));
      });
      node.append(toggle);
    }
    return node;
  }

  function groupNode({ group, rollouts }) {
    const node = element("section", "group card");
    const head = element("div", "group-head");
    head.append(element("b", "", group.problem));
    if (several) head.append(element("span", "", data.runs[group.run]));
    head.append(element("span", "", "step " + group.step.toLocaleString("en")), element("span", "", "stage " + group.stage));
    const right = group.rollouts.filter(r => r.outcome === "correct").length;
    head.append(element("span", "", right + " of " + group.rollouts.length + " right"));
    const reference = element("span", "", group.references.length > 1 ? "references " : "reference ");
    group.references.forEach((text, i) => reference.append(i ? " or " : "", element("code", "", text)));
    head.append(reference);
    node.append(head, element("pre", "prompt", group.prompt));
    for (const rollout of rollouts) node.append(rolloutNode(group, rollout));
    return node;
  }

  function update() {
    const scope = inScope();
    for (const [value, button] of buttons) {
      const number = scope.reduce((n, s) => n + s.rollouts.filter(r => !value || r.outcome === value).length, 0);
      button.querySelector(".number").textContent = number.toLocaleString("en");
      button.setAttribute("aria-pressed", String(value === verdict));
    }
    const shown = scope
      .map(s => ({ group: s.group, rollouts: s.rollouts.filter(r => !verdict || r.outcome === verdict) }))
      .filter(s => s.rollouts.length);
    const total = shown.reduce((n, s) => n + s.rollouts.length, 0);
    count.textContent = total ? total.toLocaleString("en") + " completions of " + shown.length + " groups" : "Nothing matches. Widen the filters.";
    list.replaceChildren(...shown.slice(0, limit).map(groupNode));
    more.hidden = shown.length <= limit;
    more.textContent = "Show more groups (" + (shown.length - limit) + " left)";
  }
  more.addEventListener("click", () => { limit += PAGE; update(); });
  let waiting;
  search.addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => { limit = PAGE; update(); }, 120);
  });
  for (const select of Object.values(selects)) if (select) select.addEventListener("change", () => { limit = PAGE; update(); });
  update();
})();
