// Draws the timelines from the page's data and switches between predictions files. No library, no network.
(() => {
  'use strict';
  const files = JSON.parse(document.getElementById('data').textContent);
  const byId = (id) => document.getElementById(id);
  const [fileChoice, videoChoice, slider, rows, told, player] =
    ['file', 'video', 'least', 'rows', 'told', 'player'].map(byId);
  let file = files[0];
  let video = null;
  let screen = null; // the video element, where the file is there
  let least = 0; // lowest score shown, in ten-thousandths of the file's highest

  const make = (tag, className, text) => {
    const element = document.createElement(tag);
    if (className) element.className = className;
    if (text !== undefined) element.textContent = text;
    return element;
  };
  const groups = (flat, size) =>
    Array.from({ length: (flat || []).length / size }, (_, i) => flat.slice(i * size, (i + 1) * size));
  const seconds = (hundredths) => (hundredths / 100).toFixed(2).replace(/\.?0+$/, '');
  const clock = (hundredths) => {
    const whole = Math.round(hundredths / 100);
    const pad = (n) => String(n).padStart(2, '0');
    const hours = Math.floor(whole / 3600);
    const rest = `${pad(Math.floor(whole / 60) % 60)}:${pad(whole % 60)}`;
    return hours ? `${hours}:${rest}` : rest;
  };
  const scoreText = (score) => Number(((score / 10000) * file.top).toPrecision(3)).toString();
  const overlap = (a, b) => {
    const shared = Math.min(a[2], b[2]) - Math.max(a[1], b[1]);
    return shared <= 0 ? 0 : shared / (Math.max(a[2], b[2]) - Math.min(a[1], b[1]));
  };

  // Square root on the slider: most scores are small.
  const toScore = (position) => Math.round(10000 * (position / 1000) ** 2);
  const toPosition = (score) => Math.min(1000, Math.floor(1000 * Math.sqrt(Math.max(0, score) / file.top)));

  function lanesOf(bars) {
    // Best scores first, each bar in the highest lane where it is alone.
    const lanes = [];
    return bars.map((bar) => {
      let lane = lanes.findIndex((taken) => taken.every((other) => bar[1] >= other[2] || bar[2] <= other[1]));
      if (lane < 0) lane = lanes.push([]) - 1;
      lanes[lane].push(bar);
      return lane;
    });
  }

  function addLane(kind, bars, describe) {
    const lane = make('div', 'lane');
    const places = kind === 'found' ? lanesOf(bars) : bars.map(() => 0);
    const step = matchMedia('(max-width: 32rem)').matches ? 18 : 14;
    lane.style.height = `${step * (1 + Math.max(0, ...places))}px`;
    bars.map((bar, i) => [bar, places[i]]).sort((a, b) => a[0][1] - b[0][1]).forEach(([bar, place]) => {
      const button = make('button', `bar ${kind}`);
      button.type = 'button';
      button.tabIndex = -1;
      button.style.left = `${(100 * bar[1]) / video.d}%`;
      button.style.width = `${(100 * (bar[2] - bar[1])) / video.d}%`;
      button.style.top = `${place * step + 1}px`;
      if (kind === 'found') button.style.opacity = (0.25 + 0.75 * (bar[3] / 10000)).toFixed(2);
      const text = describe(bar);
      button.setAttribute('aria-label', text);
      button.title = text;
      button.dataset.start = bar[1];
      button.dataset.end = bar[2];
      if (kind === 'found' && video.s && video.s.d[bar[4]]) {
        button.dataset.row = bar[4];
        button.setAttribute('aria-expanded', 'false');
      }
      lane.append(button);
    });
    rows.append(lane);
  }

  function drawTicks() {
    const ticks = make('div', 'ticks');
    ticks.setAttribute('aria-hidden', 'true');
    const count = rows.clientWidth < 500 ? 4 : 8;
    for (let i = 0; i <= count; i += 1) {
      const at = (video.d * i) / count;
      const tick = make('span', '', video.d < 6000 ? `${seconds(Math.round(at / 10) * 10)} s` : clock(at));
      tick.style.left = `${(100 * i) / count}%`;
      ticks.append(tick);
    }
    rows.append(ticks);
  }

  function draw() {
    rows.replaceChildren();
    drawTicks();
    const truth = groups(video.t, 3);
    const ignored = groups(video.x, 3);
    const found = groups(video.p, 4).map((bar, row) => [...bar, row]).filter((bar) => bar[3] >= least);
    const present = new Set([...truth, ...found, ...ignored].map((bar) => bar[0]));
    const best = (k) => Math.max(0, ...found.filter((bar) => bar[0] === k).map((bar) => bar[3]));
    const has = (k) => (truth.some((bar) => bar[0] === k) ? 1 : 0);
    const order = [...present].sort((a, b) => has(b) - has(a) || best(b) - best(a) || a - b);
    for (const k of order) {
      const label = file.classes[k];
      const of = (bars) => bars.filter((bar) => bar[0] === k);
      const span = (bar) => `${seconds(bar[1])} to ${seconds(bar[2])} s`;
      rows.append(make('div', 'name', label));
      if (of(truth).length) addLane('truth', of(truth), (bar) => `${label}: ground truth, ${span(bar)}`);
      if (of(ignored).length) addLane('ignored', of(ignored), (bar) => `${label}: not counted, ${span(bar)}`);
      if (of(found).length) {
        addLane('found', of(found), (bar) => {
          const near = Math.max(0, ...of(truth).map((action) => overlap(action, bar)));
          const with_truth = truth.length ? `, tIoU with its ground truth ${near.toFixed(2)}` : '';
          return `${label}: detection, ${span(bar)}, score ${scoreText(bar[3])}${with_truth}`;
        });
      }
    }
    const first = rows.querySelector('.bar');
    if (first) first.tabIndex = 0;
    const shown = found.length;
    const all = video.p.length / 4;
    const cut = video.cut ? `; ${video.cut} with lower scores are not on this page` : '';
    byId('summary').textContent =
      `${truth.length} actions, ${shown} of ${all} detections shown, ${seconds(video.d)} s${cut}`;
    rows.append(Object.assign(make('div', 'playhead'), { hidden: true }));
  }

  function moveHead(at) {
    const head = rows.querySelector('.playhead');
    if (!head) return;
    const style = getComputedStyle(rows);
    const left = parseFloat(style.paddingLeft);
    const width = rows.clientWidth - left - parseFloat(style.paddingRight);
    head.hidden = false;
    head.style.left = `${left + (width * Math.min(at, video.d)) / video.d}px`;
  }

  function select(bar, seek) {
    rows.querySelectorAll('.bar').forEach((other) => {
      other.tabIndex = other === bar ? 0 : -1;
      other.removeAttribute('aria-current');
    });
    bar.setAttribute('aria-current', 'true');
    const more = bar.getAttribute('aria-expanded') === 'false' ? '; Enter shows its stages' : '';
    told.textContent = bar.getAttribute('aria-label') + more;
    moveHead(Number(bar.dataset.start));
    if (seek && screen) screen.currentTime = Number(bar.dataset.start) / 100;
  }

  // Where the file has a stage trace: under the row of the bar, how that detection came about; again closes it.
  function toggleStages(bar) {
    const isOpen = bar.getAttribute('aria-expanded') === 'true';
    rows.querySelectorAll('.stages').forEach((panel) => panel.remove());
    rows.querySelectorAll('.bar[aria-expanded]').forEach((other) => other.setAttribute('aria-expanded', 'false'));
    if (bar.dataset.row === undefined || isOpen) return;
    const row = Number(bar.dataset.row);
    const detection = groups(video.p, 4)[row];
    const width = bar.parentElement.clientWidth;
    bar.setAttribute('aria-expanded', 'true');
    bar.parentElement.after(stagePanel({
      video, detection, width, make, groups, seconds,
      name: file.classes[detection[0]], traced: video.s.d[row], plan: video.s.c[detection[0]],
    }));
  }

  function showVideo(index) {
    video = file.videos[index];
    videoChoice.value = String(index);
    told.textContent = '';
    screen = null;
    player.replaceChildren();
    if (video && video.src) {
      screen = make('video');
      screen.controls = true;
      screen.preload = 'metadata';
      screen.setAttribute('aria-label', `video ${video.id}`);
      screen.addEventListener('timeupdate', () => moveHead(100 * screen.currentTime));
      screen.addEventListener('error', () => {
        player.replaceChildren(make('p', '', `This browser cannot play ${decodeURIComponent(video.src)}.`));
        screen = null;
      });
      screen.src = video.src;
      player.append(screen);
    }
    if (video) draw();
  }

  function step(by) {
    const index = Number(videoChoice.value) + by;
    if (index >= 0 && index < file.videos.length) showVideo(index);
  }

  function tellLeast() {
    least = toScore(Number(slider.value));
    byId('least-told').textContent = scoreText(least);
    slider.setAttribute('aria-valuetext', `score ${scoreText(least)}`);
  }

  function showFile(index) {
    file = files[index];
    document.querySelectorAll('.of-file').forEach((part) => {
      part.hidden = part.dataset.file !== String(index);
    });
    videoChoice.replaceChildren(...file.videos.map((entry, i) => {
      const actions = entry.t.length / 3;
      return new Option(actions ? `${entry.id} (${actions} actions)` : entry.id, String(i));
    }));
    slider.value = String(toPosition(file.least));
    tellLeast();
    if (file.videos.length) showVideo(0);
    else rows.replaceChildren(make('p', '', 'No video in this file.'));
  }

  function neighbour(bar, key) {
    const bars = [...rows.querySelectorAll('.bar')];
    if (key === 'Home') return bars[0];
    if (key === 'End') return bars[bars.length - 1];
    const along = key === 'ArrowRight' ? 1 : key === 'ArrowLeft' ? -1 : 0;
    if (along) return bars[bars.indexOf(bar) + along];
    const lanes = [...rows.querySelectorAll('.lane')];
    const lane = lanes[lanes.indexOf(bar.parentElement) + (key === 'ArrowDown' ? 1 : -1)];
    if (!lane) return undefined;
    const middle = (one) => (Number(one.dataset.start) + Number(one.dataset.end)) / 2;
    return [...lane.children].sort(
      (a, b) => Math.abs(middle(a) - middle(bar)) - Math.abs(middle(b) - middle(bar)))[0];
  }

  rows.addEventListener('click', (event) => {
    const bar = event.target.closest('.bar');
    if (!bar) return;
    toggleStages(bar);
    select(bar, true);
  });
  rows.addEventListener('focusin', (event) => {
    if (event.target.classList.contains('bar')) select(event.target, false);
  });
  rows.addEventListener('keydown', (event) => {
    if (!['ArrowRight', 'ArrowLeft', 'ArrowUp', 'ArrowDown', 'Home', 'End'].includes(event.key)) return;
    const bar = event.target.closest('.bar');
    if (!bar) return;
    const next = neighbour(bar, event.key);
    event.preventDefault();
    if (next) next.focus();
  });
  document.addEventListener('keydown', (event) => {
    const typing = event.target.closest('input, select, textarea, video');
    if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === 'j') step(1);
    if (event.key === 'k') step(-1);
  });
  slider.addEventListener('input', () => {
    tellLeast();
    if (video) draw();
  });
  videoChoice.addEventListener('change', () => showVideo(Number(videoChoice.value)));
  byId('previous').addEventListener('click', () => step(-1));
  byId('next').addEventListener('click', () => step(1));
  if (fileChoice) fileChoice.addEventListener('change', () => showFile(Number(fileChoice.value)));
  let width = rows.clientWidth;
  window.addEventListener('resize', () => {
    if (rows.clientWidth !== width && video) draw();
    width = rows.clientWidth;
  });
  showFile(0);
})();
