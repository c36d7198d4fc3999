// The page's state: which file, video, part and scores are shown, and what keys and clicks do. No library, no network.
(() => {
  'use strict';
  const { make, groups, clock, span, score } = lanes;
  const files = JSON.parse(document.getElementById('data').textContent);
  const byId = (id) => document.getElementById(id);
  const [fileChoice, partnerChoice, videoChoice, rows, told, player, place] =
    ['file', 'partner', 'video', 'rows', 'told', 'player', 'place'].map(byId);
  // least: lowest score shown, in ten-thousandths of the file's highest; null: the threshold that the page came with
  const filters = ['least', 'least-second'].map((id) => ({ slider: byId(id), told: byId(`${id}-told`), of: byId(`${id}-of`),
    least: null })).filter((filter) => filter.slider);
  let file = files[0];
  let partner = null;
  let video = null;
  let view = [0, 1];
  let screen = null; // the video element, where the file is there

  // Square root on the slider: most scores are small.
  const toScore = (position) => Math.round(10000 * (position / 1000) ** 2);
  const toPosition = (value, top) => Math.min(1000, Math.round(1000 * Math.sqrt(Math.max(0, value) / top)));

  const leastText = (one, filter) =>
    (filter.least === null ? Number(one.least.toPrecision(3)).toString() : score(filter.least, one.top));

  function entryOf(one, id, filter) {
    const own = one.videos.find((entry) => entry.id === id) || null;
    const all = own ? groups(own.p, 4).map((bar, row) => [...bar, row]) : [];
    const kept = all.filter((bar, row) => (filter.least === null ? row < own.n : bar[3] >= filter.least));
    return { file: one, video: own, rows: kept, least: leastText(one, filter) };
  }
  const shownOf = (id) => [entryOf(file, id, filters[0]), ...(partner ? [entryOf(partner, id, filters[1])] : [])];
  const counted = (number, what) => `${number} ${what}${number === 1 ? '' : 's'}`;
  const lengthOf = (shown) => Math.max(...shown.map((one) => (one.video ? one.video.d : 0)), 1);

  // --- the two cards ---

  // By AP where videos are scored, else by the surest detection; of equals the one with more actions.
  function bestAndWorst() {
    if (file.videos.length < 2) return [];
    const scored = file.videos.filter((one) => one.ap !== undefined);
    const all = scored.length > 1 ? scored : file.videos;
    const value = (one) => (scored.length > 1 ? one.ap : one.p[3] || 0);
    const by = (some, turn) => [...some].sort((a, b) => turn * (value(a) - value(b)) || b.t.length - a.t.length)[0];
    const best = by(all, -1);
    const worst = by(all.filter((one) => one !== best), 1);
    const words = scored.length > 1 ? ['Best video', 'Worst video'] : ['Surest video', 'Least sure video'];
    return [[words[0], best], [words[1], worst]];
  }

  function drawCards() {
    const pair = bestAndWorst();
    const cards = pair.map(() => make('article', 'card'));
    byId('cards').replaceChildren(...cards); // both are there before one is drawn: they share the width
    for (const [i, [word, one]] of pair.entries()) {
      const card = cards[i];
      const open = make('button', 'open', `${word}: ${one.id}`);
      open.type = 'button';
      open.title = 'show in the timelines';
      card.append(open, make('p'), make('div', 'plot'));
      const shown = shownOf(one.id);
      const done = lanes.draw(card.lastChild, { shown, view: [0, lengthOf(shown)], isCard: true });
      const actions = one.t.length / 3;
      const facts = one.ap === undefined ? [] : [`AP ${one.ap.toFixed(1)} % with all detections`];
      facts.push(`${counted(shown[0].rows.length, 'detection')} shown`);
      if (actions) facts.push(`${done.found} of ${counted(actions, 'action')} found by what is shown`);
      if (done.left_out) facts.push(`${counted(done.left_out, 'more label')} below`);
      card.children[1].textContent = facts.join(', ');
      card.addEventListener('click', () => {
        showVideo(file.videos.indexOf(one));
        byId('browser').scrollIntoView();
        videoChoice.focus({ preventScroll: true });
      });
    }
  }

  // --- the timelines of one video ---

  function draw() {
    const shown = shownOf(video.id);
    const length = lengthOf(shown);
    // the selected bar stays selected, its stages open
    const was = rows.querySelector('.bar[aria-current]');
    const isOpen = was && was.getAttribute('aria-expanded') === 'true';
    const hadFocus = was && was === document.activeElement;
    lanes.draw(rows, { shown, view });
    const again = was && rows.querySelector(
      `.bar[data-kind="${was.dataset.kind}"][data-start="${was.dataset.start}"][data-end="${was.dataset.end}"]`);
    const first = again || rows.querySelector('.bar');
    if (first) first.tabIndex = 0;
    if (again) again.setAttribute('aria-current', 'true');
    if (isOpen && again) toggleStages(again);
    if (hadFocus && again) again.focus();
    const numbers = shown.map((one) => {
      const all = one.video ? one.video.p.length / 4 : 0;
      const cut = one.video && one.video.cut ? `; ${one.video.cut} with lower scores are not on this page` : '';
      return `${one.rows.length} of ${all} detections${shown.length > 1 ? ` of ${one.file.method}` : ''} shown${cut}`;
    });
    const part = view[1] - view[0] < length ? `, from ${clock(view[0], length)} to ${clock(view[1], length)}` : '';
    const actions = video.t.length ? [counted(video.t.length / 3, 'action')] : [];
    byId('summary').textContent = `${[...actions, ...numbers, `video of ${clock(length, length)}`].join(', ')}${part}`;
    detectionTable.draw(byId('detections'), {
      shown, length, caption: `Detections in ${video.id}: ${shown.map((one) => `from ${one.least} on`).join('; ')}`,
      play: ({ bar, number }) => {
        reveal(bar[1]);
        const same = `.bar[data-at="${bar[4]}"][data-kind="${number ? 'second' : 'found'}"]`;
        select(rows.querySelector(same), bar[1], true);
      },
    });
    const whole = view[1] - view[0] >= length;
    place.disabled = whole;
    place.value = whole ? 500 : String(Math.round((1000 * view[0]) / (length - (view[1] - view[0]))));
    byId('truth-legend').hidden = !rows.querySelector('.truth');
    byId('ignored-legend').hidden = !rows.querySelector('.ignored');
    if (screen && screen.currentTime) moveHead(100 * screen.currentTime);
  }

  function moveHead(at) {
    const head = rows.querySelector('.playhead');
    if (!head) return;
    head.hidden = at < view[0] || at > view[1];
    head.style.left = `${(100 * (at - view[0])) / (view[1] - view[0])}%`;
  }

  function select(bar, start, isPlayed) {
    rows.querySelectorAll('.bar').forEach((other) => {
      other.tabIndex = other === bar ? 0 : -1;
      other.removeAttribute('aria-current');
    });
    if (bar) {
      bar.setAttribute('aria-current', 'true');
      const more = bar.getAttribute('aria-expanded') === 'false' ? '; Enter shows its stages' : '';
      told.textContent = bar.getAttribute('aria-label') + more;
    }
    if (screen && isPlayed) {
      screen.currentTime = start / 100;
      screen.play().catch(() => {}); // a browser may refuse; the place is found all the same
      screen.scrollIntoView({ block: 'nearest' });
    }
    moveHead(start);
  }

  // Where the file has a stage trace: under the row of the bar, how that detection came about; again closes it.
  function toggleStages(bar) {
    const isOpen = bar.getAttribute('aria-expanded') === 'true';
    rows.querySelectorAll('.stages').forEach((panel) => panel.remove());
    rows.querySelectorAll('.bar[aria-expanded]').forEach((other) => other.setAttribute('aria-expanded', 'false'));
    if (bar.dataset.row === undefined || isOpen) return;
    const row = Number(bar.dataset.row);
    const detection = groups(video.p, 4)[row];
    bar.setAttribute('aria-expanded', 'true');
    bar.parentElement.after(stagePanel({
      video, detection, view, width: bar.parentElement.clientWidth,
      name: file.classes[detection[0]], traced: video.s.d[row], plan: video.s.c[detection[0]],
    }));
  }

  // --- zoom ---

  function look(from, size) {
    const length = lengthOf(shownOf(video.id));
    const wide = Math.min(length, Math.max(Math.min(100, length), size));
    const left = Math.min(length - wide, Math.max(0, from));
    view = [left, left + wide];
    draw();
  }
  // At the selected bar, else at the video's own place, else in the middle; `at` in hundredths of a second.
  function zoom(by, at) {
    const bar = rows.querySelector('.bar[aria-current]');
    const playing = screen && screen.currentTime ? 100 * screen.currentTime : undefined;
    const bars_middle = bar ? (Number(bar.dataset.start) + Number(bar.dataset.end)) / 2 : undefined;
    const middle = [at, bars_middle, playing].find((one) => one >= view[0] && one <= view[1]) ?? (view[0] + view[1]) / 2;
    const size = (view[1] - view[0]) / by;
    look(middle - ((middle - view[0]) / (view[1] - view[0])) * size, size);
  }
  function reveal(at) {
    if (at < view[0] || at > view[1]) look(at - (view[1] - view[0]) / 4, view[1] - view[0]);
  }

  // --- choices ---

  function showVideo(index) {
    video = file.videos[index];
    videoChoice.value = String(index);
    told.textContent = '';
    screen = null;
    player.replaceChildren();
    rows.replaceChildren();
    if (video && video.src) {
      screen = make('video');
      screen.controls = true;
      screen.preload = 'metadata';
      screen.setAttribute('aria-label', `video ${video.id}`);
      screen.addEventListener('timeupdate', () => screen && screen.currentTime && moveHead(100 * screen.currentTime));
      screen.addEventListener('error', () => {
        player.replaceChildren(make('p', '', `This browser cannot play ${decodeURIComponent(video.src)}.`));
        screen = null;
      });
      screen.src = video.src;
      player.append(screen);
    }
    byId('parts').classList.toggle('has-video', Boolean(screen));
    if (!video) return;
    view = [0, lengthOf(shownOf(video.id))];
    draw();
  }

  function step(by) {
    const index = Number(videoChoice.value) + by;
    if (index >= 0 && index < file.videos.length) showVideo(index);
  }

  function tellFilters() {
    const pair = [file, partner];
    filters.forEach((filter, i) => {
      const one = pair[i];
      for (const part of [filter.slider, filter.of.parentElement]) part.hidden = !one;
      if (!one) return;
      filter.of.textContent = partner ? one.method : 'Score';
      filter.told.textContent = leastText(one, filter);
      filter.slider.setAttribute('aria-valuetext', `score ${leastText(one, filter)}`);
      if (filter.least === null) filter.slider.value = String(toPosition(one.least, one.top));
    });
    byId('found-of').textContent = partner ? file.method : 'detection';
    byId('second-key').hidden = !partner;
    byId('second-of').textContent = partner ? partner.method : '';
  }

  function showPartner(index) {
    partner = index === '' ? null : files[index];
    if (filters[1]) filters[1].least = null;
    tellFilters();
    drawCards();
    if (video) {
      view = [0, lengthOf(shownOf(video.id))];
      draw();
    }
  }

  function showFile(index) {
    const before = video && video.id;
    file = files[index];
    filters[0].least = null;
    document.querySelectorAll('.of-file').forEach((part) => {
      part.hidden = part.dataset.file !== String(index);
    });
    videoChoice.replaceChildren(...file.videos.map((entry, i) => {
      const actions = entry.t.length / 3;
      const facts = [...(actions ? [counted(actions, 'action')] : []), ...(entry.ap === undefined ? [] : [`AP ${entry.ap.toFixed(1)}`])];
      return new Option(facts.length ? `${entry.id} (${facts.join(', ')})` : entry.id, String(i));
    }));
    video = null;
    if (partnerChoice) {
      partnerChoice.replaceChildren(new Option('nothing', ''), ...file.with.map((i) => new Option(files[i].name, String(i))));
      partnerChoice.value = file.with.length ? String(file.with[0]) : '';
    }
    showPartner(partnerChoice ? partnerChoice.value : '');
    const start = before || (bestAndWorst()[0] || [])[1]?.id;
    if (file.videos.length) showVideo(Math.max(0, file.videos.findIndex((entry) => entry.id === start)));
    else rows.replaceChildren(make('p', '', 'No video in this file.'));
  }

  function neighbour(bar, key) {
    const bars = [...rows.querySelectorAll('.bar')];
    if (key === 'Home') return bars[0];
    if (key === 'End') return bars[bars.length - 1];
    const along = key === 'ArrowRight' ? 1 : key === 'ArrowLeft' ? -1 : 0;
    if (along) return bars[bars.indexOf(bar) + along];
    const all = [...rows.querySelectorAll('.lane')].filter((one) => one.querySelector('.bar'));
    const lane = all[all.indexOf(bar.parentElement) + (key === 'ArrowDown' ? 1 : -1)];
    if (!lane) return undefined;
    const middle = (one) => (Number(one.dataset.start) + Number(one.dataset.end)) / 2;
    return [...lane.querySelectorAll('.bar')].sort(
      (a, b) => Math.abs(middle(a) - middle(bar)) - Math.abs(middle(b) - middle(bar)))[0];
  }

  // --- keys and clicks ---

  rows.addEventListener('click', (event) => {
    const bar = event.target.closest('.bar');
    if (!bar) return;
    toggleStages(bar);
    select(bar, Number(bar.dataset.start), true);
  });
  rows.addEventListener('focusin', (event) => {
    const bar = event.target;
    if (bar.classList.contains('bar')) select(bar, Number(bar.dataset.start), false);
  });
  rows.addEventListener('keydown', (event) => {
    if (!['ArrowRight', 'ArrowLeft', 'ArrowUp', 'ArrowDown', 'Home', 'End'].includes(event.key)) return;
    const bar = event.target.closest('.bar');
    if (!bar) return;
    const next = neighbour(bar, event.key);
    event.preventDefault();
    if (next) next.focus();
  });
  rows.addEventListener('wheel', (event) => {
    if (!event.ctrlKey || !video) return;
    event.preventDefault();
    const axis = rows.querySelector('.axis-row .lanes').getBoundingClientRect();
    const at = view[0] + ((event.clientX - axis.left) / axis.width) * (view[1] - view[0]);
    zoom(event.deltaY < 0 ? 1.25 : 0.8, at);
  }, { passive: false });
  const whole = () => look(0, Infinity);
  document.addEventListener('keydown', (event) => {
    const typing = event.target.closest('input, select, textarea, video');
    if (typing || event.ctrlKey || event.metaKey || event.altKey || !video) return;
    const does = { j: () => step(1), k: () => step(-1), '+': () => zoom(2), '=': () => zoom(2), '-': () => zoom(0.5), 0: whole };
    if (does[event.key]) does[event.key]();
  });
  filters.forEach((filter) => filter.slider.addEventListener('input', () => {
    filter.least = toScore(Number(filter.slider.value));
    tellFilters();
    drawCards();
    if (video) draw();
  }));
  place.addEventListener('input', () => {
    const length = lengthOf(shownOf(video.id));
    const size = view[1] - view[0];
    look((Number(place.value) / 1000) * (length - size), size);
  });
  videoChoice.addEventListener('change', () => showVideo(Number(videoChoice.value)));
  const clicks = { previous: () => step(-1), next: () => step(1), closer: () => zoom(2), farther: () => zoom(0.5), whole,
    export: () => detectionTable.save(`${video.id}.csv`, detectionTable.csv([shownOf(video.id).filter((entry) => entry.video)])),
    'export-all': () => detectionTable.save('detections.csv', detectionTable.csv(
      file.videos.map((one) => shownOf(one.id).filter((entry) => entry.video)))) };
  for (const [id, does] of Object.entries(clicks)) byId(id).addEventListener('click', () => video && does());
  if (fileChoice) fileChoice.addEventListener('change', () => showFile(Number(fileChoice.value)));
  if (partnerChoice) partnerChoice.addEventListener('change', () => showPartner(partnerChoice.value));
  const redraw = () => {
    drawCards();
    if (video) draw();
  };
  let width = 0;
  new ResizeObserver(() => {
    if (width && rows.clientWidth !== width) redraw();
    width = rows.clientWidth;
  }).observe(rows);
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', redraw);
  window.addEventListener('beforeprint', () => document.querySelectorAll('details').forEach((one) => { one.open = true; }));
  showFile(0);
})();
