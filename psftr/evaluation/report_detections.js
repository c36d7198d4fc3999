// The shown detections of a video as a table, and as a CSV file that `psftr report` and `psftr evaluate` read back.
const detectionTable = (() => {
  'use strict';
  const { make, clock, score, overlap, groups } = lanes;
  const HEADS = [['start', 'start'], ['end', 'end'], ['label', 'label'], ['score', 'score'], ['tiou', 'tIoU'],
    ['method', 'method']];
  let order = { by: 'start', down: false };

  function rowsOf(shown) {
    const truth = shown.find((one) => one.video && one.video.t.length);
    const actions = truth ? groups(truth.video.t, 3).map((bar) => [truth.file.classes[bar[0]], bar]) : [];
    return shown.flatMap((one, number) => one.rows.map((bar) => {
      const label = one.file.classes[bar[0]];
      const own = actions.filter(([name]) => name === label).map(([, action]) => overlap(action, bar));
      return { bar, label, start: bar[1], end: bar[2], score: (bar[3] / 10000) * one.file.top,
        told: score(bar[3], one.file.top), tiou: truth ? Math.max(0, ...own) : -1, method: one.file.method, number };
    }));
  }

  // play(row) seeks; sort by a click on a heading.
  function draw(table, { shown, length, caption, play }) {
    const rows = rowsOf(shown);
    const heads = HEADS.filter(([key]) => (key !== 'tiou' || rows.some((row) => row.tiou >= 0))
      && (key !== 'method' || shown.length > 1));
    rows.sort((a, b) => {
      const [one, other] = order.down ? [b, a] : [a, b];
      const [x, y] = [one[order.by], other[order.by]];
      return (x > y) - (x < y) || a.start - b.start;
    });
    const head = make('tr');
    for (const [key, text] of heads) {
      const cell = make('th', key === 'label' || key === 'method' ? 'words' : '');
      cell.scope = 'col';
      const isOrder = order.by === key;
      if (isOrder) cell.setAttribute('aria-sort', order.down ? 'descending' : 'ascending');
      const button = make('button', '', text + (isOrder ? (order.down ? ' ▼' : ' ▲') : ''));
      button.type = 'button';
      button.addEventListener('click', () => {
        order = { by: key, down: isOrder ? !order.down : key === 'score' || key === 'tiou' };
        draw(table, { shown, length, caption, play });
        table.querySelector('[aria-sort] button').focus();
      });
      cell.append(button);
      head.append(cell);
    }
    const body = make('tbody');
    for (const row of rows) {
      const line = make('tr');
      for (const [key] of heads) {
        if (key === 'start') {
          const cell = make('td');
          const button = make('button', 'play', clock(row.start, length));
          button.type = 'button';
          button.title = 'play from here';
          cell.append(button);
          line.append(cell);
        } else {
          const text = { end: clock(row.end, length), score: row.told, tiou: row.tiou.toFixed(2) }[key] || row[key];
          line.append(make('td', key === 'label' || key === 'method' ? 'words' : '', text));
        }
      }
      line.addEventListener('click', () => play(row));
      body.append(line);
    }
    if (!rows.length) {
      const cell = make('td', 'words', 'no detections from this score on');
      cell.colSpan = heads.length;
      body.append(make('tr'));
      body.lastChild.append(cell);
    }
    const top = make('thead');
    top.append(head);
    table.replaceChildren(make('caption', '', caption), top, body);
  }

  const quoted = (value) => (/[",\r\n]/.test(value) ? `"${String(value).replace(/"/g, '""')}"` : String(value));

  // videos: a list of what `draw` takes as shown. The marks, such as SYNTHETIC, are a last column.
  function csv(videos) {
    const some = videos.flat();
    const isPair = videos.some((shown) => shown.length > 1);
    const marks = [...new Set(some.flatMap((one) => one.file.marks))].join(' ');
    const lines = [['video-id', 't-start', 't-end', 'label', 'score', ...(isPair ? ['method'] : []),
      ...(marks ? ['note'] : [])]];
    for (const one of some) {
      for (const bar of one.rows) {
        const value = Number(((bar[3] / 10000) * one.file.top).toPrecision(5));
        lines.push([one.video.id, bar[1] / 100, bar[2] / 100, one.file.classes[bar[0]], value,
          ...(isPair ? [one.file.method] : []), ...(marks ? [one.file.marks.join(' ')] : [])]);
      }
    }
    return `${lines.map((cells) => cells.map(quoted).join(',')).join('\r\n')}\r\n`;
  }

  function save(name, text) {
    const link = make('a');
    link.href = URL.createObjectURL(new Blob([text], { type: 'text/csv;charset=utf-8' }));
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }

  return { draw, csv, save };
})();
