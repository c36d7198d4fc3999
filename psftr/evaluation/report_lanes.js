// Draws ground truth and detections of one video on a time axis: the timelines, and in little the cards above them.
const lanes = (() => {
  'use strict';
  const make = (tag, className, text) => {
    const element = document.createElement(tag);
    if (className) element.className = className;
    if (text !== undefined) element.textContent = text;
    return element;
  };
  const groups = (flat, size) =>
    Array.from({ length: (flat || []).length / size }, (_, i) => flat.slice(i * size, (i + 1) * size));

  // --- times, in hundredths of a second: "12.5 s" in short videos, else "2:03.5", from an hour on "1:02:03.5" ---
  const LONG = 12000;
  const HOUR = 360000;
  const seconds = (at) => (at / 100).toFixed(2).replace(/\.?0+$/, '');
  const two = (n) => String(n).padStart(2, '0');
  const clock = (at, length) => {
    if (length < LONG) return `${seconds(at)} s`;
    const whole = Math.floor(at / 100);
    const rest = at % 100 ? (Math.round(at % 100) / 100).toFixed(2).slice(1).replace(/0+$/, '') : '';
    const [hours, minutes] = [Math.floor(whole / 3600), Math.floor(whole / 60)];
    const end = `${two(whole % 60)}${rest}`;
    return length < HOUR ? `${minutes}:${end}` : `${hours}:${two(minutes % 60)}:${end}`;
  };
  const span = (bar, length) =>
    length < LONG ? `${seconds(bar[1])} to ${seconds(bar[2])} s` : `${clock(bar[1], length)} to ${clock(bar[2], length)}`;

  const SHORT_STEPS = [10, 20, 50, 100, 200, 500, 1000, 2000, 3000];
  const LONG_STEPS = [10, 20, 50, 100, 200, 500, 1000, 1500, 3000, 6000, 12000, 30000, 60000, 90000, 180000, HOUR,
    2 * HOUR, 4 * HOUR, 12 * HOUR, 24 * HOUR];
  function ticks(view, length, width) {
    const [from, to] = view;
    const most = Math.max(2, Math.floor(width / 76));
    const steps = length < LONG ? SHORT_STEPS : LONG_STEPS;
    const step = steps.find((one) => (to - from) / one <= most) || steps[steps.length - 1];
    const places = [];
    for (let at = Math.ceil(from / step) * step; at <= to; at += step) places.push(at);
    return places;
  }
  function tickRow(view, length, width) {
    const row = make('div', 'ticks');
    row.setAttribute('aria-hidden', 'true');
    for (const at of ticks(view, length, width)) {
      const tick = make('span', '', clock(at, length));
      const place = (at - view[0]) / (view[1] - view[0]);
      tick.style.left = `${100 * place}%`;
      if (place * width < 20) tick.style.transform = 'none';
      if ((1 - place) * width < 24) tick.style.transform = 'translateX(-100%)';
      row.append(tick);
    }
    return row;
  }

  const overlap = (a, b) => {
    const shared = Math.min(a[2], b[2]) - Math.max(a[1], b[1]);
    return shared <= 0 ? 0 : shared / (Math.max(a[2], b[2]) - Math.min(a[1], b[1]));
  };
  const score = (ten_thousandths, top) => Number(((ten_thousandths / 10000) * top).toPrecision(3)).toString();
  const shortScore = (ten_thousandths, top) => {
    const value = (ten_thousandths / 10000) * top;
    return top <= 1 && top > 0.2 ? value.toFixed(2) : Number(value.toPrecision(2)).toString();
  };

  // --- colours: the surer, the nearer to the full colour; text on them black or white, whichever is read better ---
  const rgb = (name) => {
    const hex = getComputedStyle(document.documentElement).getPropertyValue(name).trim();
    return [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));
  };
  const light = (colour) => {
    const [r, g, b] = colour.map((v) => (v / 255 <= 0.04045 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  function paint(element, colour, sureness) {
    const [full, ground] = [rgb(colour), rgb('--panel')];
    const share = 0.3 + 0.7 * Math.min(1, Math.max(0, sureness));
    const mixed = full.map((v, i) => Math.round(share * v + (1 - share) * ground[i]));
    element.style.background = `rgb(${mixed.join(' ')})`;
    element.style.color = light(mixed) > 0.179 ? '#000' : '#fff';
  }

  // --- rows ---
  // Best scores first, each bar in the highest lane where it and its score are alone.
  function packed(boxes) {
    const taken = [];
    return boxes.map(([left, right]) => {
      let lane = taken.findIndex((others) => others.every((other) => left >= other[1] || right <= other[0]));
      if (lane < 0) lane = taken.push([]) - 1;
      taken[lane].push([left, right]);
      return lane;
    });
  }

  const LETTER = 6.6; // pixels of a digit of a score
  const MOST_WITH_SCORES_BESIDE = 40; // bars of a row; where there are more, scores stand only in bars that hold them

  // kind: truth, ignored, found or second. bars: [class, start, end, score, row]. size: lane height, px wide, view.
  function addLane(parent, kind, bars, { width, view, height, tag, told, top, traced }) {
    const lane = make('div', `lane of-${kind}`);
    const place = (at) => ((Math.min(view[1], Math.max(view[0], at)) - view[0]) / (view[1] - view[0])) * width;
    const inView = bars.filter((bar) => bar[2] >= view[0] && bar[1] <= view[1]);
    const isFound = kind === 'found' || kind === 'second';
    const beside = inView.length <= MOST_WITH_SCORES_BESIDE;
    const parts = inView.map((bar) => {
      const wide = Math.max(2, place(bar[2]) - place(bar[1]));
      const left = Math.min(place(bar[1]), width - wide);
      const text = isFound ? shortScore(bar[3], top) : '';
      const need = text.length * LETTER + 6;
      const inside = isFound && wide >= need;
      const right = isFound && !inside && beside && left + wide + need <= width;
      const before = isFound && !inside && beside && !right && left >= need;
      const box = [before ? left - need : left, left + wide + (right ? need : 0)];
      return { bar, wide, left, text, inside, right, before, box };
    });
    const places = isFound ? packed(parts.map((part) => part.box)) : parts.map(() => 0);
    lane.style.height = `${height * (1 + Math.max(0, ...places))}px`;
    const made = parts.map((part, i) => ({ ...part, y: places[i] * height + 1 }));
    made.sort((a, b) => a.bar[1] - b.bar[1]);
    for (const { bar, wide, left, text, inside, right, before, y } of made) {
      const element = make(tag, `bar ${kind === 'second' ? 'found second' : kind}`, inside ? text : '');
      element.style.left = `${left}px`;
      element.style.width = `${wide}px`;
      element.style.top = `${y}px`;
      element.style.height = `${height - 2}px`;
      element.title = told(bar);
      if (isFound) paint(element, kind === 'second' ? '--second' : '--found', bar[3] / 10000);
      if (tag === 'button') {
        element.type = 'button';
        element.tabIndex = -1;
        element.setAttribute('aria-label', told(bar));
        Object.assign(element.dataset, { start: bar[1], end: bar[2], kind });
        if (isFound) element.dataset.at = bar[4];
        if (isFound && traced && traced(bar)) {
          element.dataset.row = bar[4];
          element.setAttribute('aria-expanded', 'false');
        }
      }
      lane.append(element);
      if (right || before) {
        const beside_it = make('span', 'score', text);
        beside_it.setAttribute('aria-hidden', 'true');
        beside_it.style.top = `${y}px`;
        beside_it.style.height = beside_it.style.lineHeight = `${height - 2}px`;
        beside_it.style[right ? 'left' : 'right'] = `${right ? left + wide + 3 : width - left + 3}px`;
        lane.append(beside_it);
      }
    }
    parent.append(lane);
  }

  const MOST_EMPTY_ROWS = 12;
  const MOST_ROWS_OF_A_CARD = 3;

  // Draws into `root`. shown: one or two of { file, video, rows: detections with their places, least: as text }.
  // Returns what is there: actions, and those found by a detection of the first file.
  function draw(root, { shown, view, isCard }) {
    root.replaceChildren();
    const [first, second] = shown;
    const length = Math.max(...shown.map((one) => (one.video ? one.video.d : 0)), 1);
    const small = matchMedia('(max-width: 40rem)').matches;
    const axis = make('div', 'row axis-row');
    axis.append(make('div', 'name'), make('div', 'lanes'));
    root.append(axis);
    const width = Math.floor(axis.lastChild.getBoundingClientRect().width);
    axis.lastChild.append(tickRow(view, length, width));

    const names = new Map(); // label -> bars by kind, empty for a label that was only asked for
    const row = (label) => {
      if (!names.has(label)) names.set(label, { truth: [], ignored: [], found: [], second: [] });
      return names.get(label);
    };
    for (const one of shown) if (!isCard) one.file.asked.forEach((k) => row(one.file.classes[k]));
    const truth = shown.find((one) => one.video && one.video.t.length) || first;
    if (truth.video) groups(truth.video.t, 3).forEach((bar) => row(truth.file.classes[bar[0]]).truth.push(bar));
    if (first.video) groups(first.video.x, 3).forEach((bar) => row(first.file.classes[bar[0]]).ignored.push(bar));
    first.rows.forEach((bar) => row(first.file.classes[bar[0]]).found.push(bar));
    if (second) second.rows.forEach((bar) => row(second.file.classes[bar[0]]).second.push(bar));

    const best = (bars) => Math.max(0, ...bars.map((bar) => bar[3]));
    const isEmpty = (bars) => Object.values(bars).every((some) => !some.length);
    const rank = ([, bars]) => [bars.truth.length ? 0 : 1, isEmpty(bars) ? 1 : 0, -best(bars.found), -best(bars.second)];
    const order = [...names].map((entry, i) => [entry, [...rank(entry), i]]);
    order.sort((a, b) => a[1].map((v, i) => v - b[1][i]).find((v) => v) || 0);
    let entries = order.map(([entry]) => entry);
    const left_out = isCard ? entries.slice(MOST_ROWS_OF_A_CARD) : [];
    if (isCard) entries = entries.slice(0, MOST_ROWS_OF_A_CARD);
    const empty = entries.filter(([, bars]) => isEmpty(bars)).slice(MOST_EMPTY_ROWS).map(([label]) => label);

    const size = { width, view, height: small && !isCard ? 24 : isCard ? 14 : 18, tag: isCard ? 'span' : 'button' };
    let found = 0;
    for (const [label, bars] of entries) {
      if (empty.includes(label)) continue;
      const line = make('div', 'row');
      const name = make('div', 'name', label);
      name.title = label;
      const parts = make('div', 'lanes');
      line.append(name, parts);
      root.append(line);
      found += bars.truth.filter((action) => bars.found.some((bar) => overlap(action, bar) >= 0.5)).length;
      const add = (kind, told, one) => bars[kind].length && addLane(parts, kind, bars[kind], {
        ...size, told, top: one ? one.file.top : 1, traced: one === first && ((bar) => one.video.s && one.video.s.d[bar[4]]),
      });
      add('truth', (bar) => `${label}: ground truth, ${span(bar, length)}`);
      add('ignored', (bar) => `${label}: not counted, ${span(bar, length)}`);
      for (const [kind, one] of [['found', first], ['second', second]]) {
        add(kind, (bar) => {
          const near = Math.max(0, ...bars.truth.map((action) => overlap(action, bar)));
          const with_truth = truth.video && truth.video.t.length ? `, tIoU with its ground truth ${near.toFixed(2)}` : '';
          const whose = second ? ` of ${one.file.method}` : '';
          return `${label}: detection${whose}, ${span(bar, length)}, score ${score(bar[3], one.file.top)}${with_truth}`;
        }, one);
      }
      if (!bars.found.length && !bars.second.length) {
        const low = shown.flatMap((one) => groups(one.video ? one.video.p : [], 4)
          .filter((bar) => one.file.classes[bar[0]] === label).slice(0, 1).map((bar) => [bar, one]))[0];
        const told = low ? `; best ${score(low[0][3], low[1].file.top)} at ${clock(low[0][1], length)}` : '';
        const nothing = second ? 'nothing found by either' : `nothing from ${first.least} on`;
        parts.append(make('div', 'lane nothing', nothing + told));
      }
    }
    if (empty.length) {
      const more = make('details', 'more-labels');
      more.append(make('summary', '', `${empty.length} more labels: nothing found`), make('p', '', empty.join(', ')));
      root.append(more);
    }
    if (!entries.length) root.append(make('div', 'name', 'no actions and no detections'));
    const over = make('div', 'over');
    for (const at of ticks(view, length, width)) {
      const line = make('i');
      line.style.left = `${(100 * (at - view[0])) / (view[1] - view[0])}%`;
      over.append(line);
    }
    over.append(Object.assign(make('div', 'playhead'), { hidden: true }));
    root.append(over);
    return { found, left_out: left_out.length };
  }

  return { make, groups, seconds, clock, span, score, overlap, tickRow, draw };
})();
