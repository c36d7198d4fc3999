// How one detection came about: its stages and runs as rows, on the time axis of the bars above or close to the detection.
function stagePanel({ video, name, detection, traced, plan, view, width }) {
  const { make, groups, seconds, tickRow } = lanes;
  const panel = make('div', 'stages');
  panel.setAttribute('role', 'group');
  const span = (s) => lanes.span([0, ...s], video.d);
  const shown = [detection[1], detection[2]];
  const MOST_TOLD = 8; // runs in words; the row under them has all
  const apart = (run) => Math.max(run[0] - shown[1], shown[0] - run[1], 0);
  panel.setAttribute('aria-label', `stages of ${name}, ${span(shown)}`);
  const [all, merged] = [groups(plan.runs, 3), groups(traced.runs, 3)];
  const same = (a, b) => Math.abs(a[0] - b[0]) < 2 && Math.abs(a[1] - b[1]) < 2;
  const kindOf = (run) => {
    if (run[2] < 0) return 'dropped';
    return merged.some((own) => same(own, run)) ? 'merged' : 'other';
  };
  const numKeys = plan.stages.filter((stage) => stage[1]).length;
  const keyText = (run) => `key stage ${run[2] + 1}`;
  const runTexts = {
    merged: (run) => `${span(run)} (${keyText(run)})`,
    dropped: (run) => `${span(run)} (no key stage)`,
    other: (run) => `${span(run)} (${keyText(run)})`,
  };
  const isPlural = merged.length > 1;
  const facts = [
    `${isPlural ? `${merged.length} runs merged` : 'one run'}`,
    `${Math.round(traced.coverage * numKeys)} of ${numKeys} key stages seen`,
    `filter confidence ${plan.filter}`,
    ...(plan.fallback ? ['stages are a fallback: the model gave none'] : []),
  ];

  function track(spans, axis) {
    const [low, high] = axis;
    const row = make('div', 'track');
    row.setAttribute('aria-hidden', 'true'); // the words above it say the same
    const place = (at) => (100 * (Math.min(high, Math.max(low, at)) - low)) / (high - low);
    const frame = make('div', 'extent');
    frame.style.left = `${place(shown[0])}%`;
    frame.style.width = `${place(shown[1]) - place(shown[0])}%`;
    row.append(frame);
    for (const { at, kind, title, text } of spans) {
      if (at[1] <= low || at[0] >= high) continue;
      const share = place(at[1]) - place(at[0]);
      const part = make('div', `part ${kind}`, (share / 100) * width >= 34 ? text : '');
      part.style.left = `${place(at[0])}%`;
      part.style.width = `${share}%`;
      part.title = title;
      row.append(part);
    }
    return row;
  }

  function line(text, mark, rest) {
    const row = make('div', 'stage-name');
    row.append(make('span', '', text));
    if (mark) row.append(make('span', 'mark', mark));
    row.append(make('span', 'rest', rest));
    return row;
  }

  function draw(isClose) {
    const around = Math.max(50, 0.15 * (shown[1] - shown[0]));
    const axis = isClose ? [Math.max(0, shown[0] - around), Math.min(video.d, shown[1] + around)] : view;
    const head = make('div', 'stages-head');
    head.append(make('span', '', `${name}, ${span(shown)}: ${facts.join(', ')}`));
    const zoom = make('button', '', isClose ? 'as above' : 'closer');
    zoom.type = 'button';
    zoom.addEventListener('click', () => {
      draw(!isClose);
      panel.querySelector('button').focus();
    });
    head.append(zoom);
    panel.replaceChildren(head);
    if (isClose) panel.append(tickRow(axis, video.d, width));
    plan.stages.forEach(([text, isKey], i) => {
      const parts = groups(traced.stages[i], 3);
      const length = parts.reduce((sum, part) => sum + part[1] - part[0], 0);
      const mean = parts.reduce((sum, part) => sum + part[2] * (part[1] - part[0]), 0) / length / 1000;
      const told = parts.length ? `confidence ${mean.toFixed(2)} over ${seconds(length)} s` : 'not seen';
      panel.append(line(`${i + 1}. ${text}`, isKey ? 'key' : '', told));
      panel.append(track(parts.map((part) => ({
        at: part,
        kind: isKey ? 'of-key' : 'of-other',
        title: `${text}: ${span(part)}, confidence ${(part[2] / 1000).toFixed(2)}`,
        text: (part[2] / 1000).toFixed(2),
      })), axis));
    });
    const words = { merged: isPlural ? 'merged' : 'kept', dropped: 'dropped', other: 'of other detections' };
    const listed = ['merged', 'dropped'].map((kind) => {
      const runs = all.filter((run) => kindOf(run) === kind);
      const near = runs.slice().sort((a, b) => apart(a) - apart(b)).slice(0, MOST_TOLD).sort((a, b) => a[0] - b[0]);
      const more = runs.length > near.length ? ` and ${runs.length - near.length} farther off` : '';
      return runs.length ? `${words[kind]} ${near.map(runTexts[kind]).join(', ')}${more}` : '';
    });
    panel.append(line('Runs', '', listed.filter(Boolean).join('; ')));
    panel.append(track(all.map((run) => {
      const kind = kindOf(run);
      return { at: run, kind, title: `${words[kind]}: ${runTexts[kind](run)}`, text: run[2] < 0 ? '' : `${run[2] + 1}` };
    }), axis));
    const legend = make('ul', 'legend');
    const kinds = [['of-key', 'key stage'], ['merged', 'run in this detection']];
    if (numKeys < plan.stages.length) kinds.push(['of-other', 'other stage']);
    if (all.some((run) => kindOf(run) === 'other')) kinds.push(['other', 'run of another detection']);
    if (all.some((run) => kindOf(run) === 'dropped')) kinds.push(['dropped', 'dropped: no key stage']);
    for (const [kind, text] of kinds) {
      const item = make('li', '');
      item.append(make('span', `key ${kind}`), document.createTextNode(text));
      legend.append(item);
    }
    panel.append(legend);
  }

  draw(false);
  return panel;
}
