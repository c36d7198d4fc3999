"""The report page as a person sees it: in Chromium, at three widths, light and dark."""

import time
from fractions import Fraction
from pathlib import Path

import pytest
from browser import browser, why_missing
from clips import write_clip
from report_world import SPLITS, predictions, world

from psftr.api.result import Result
from psftr.evaluation.report_page import write_report_page
from psftr.predictions import Detection, Predictions, Provenance, read_predictions

LABELS = ("high jump", "pole vault", "跳高")
WIDTHS = (360, 768, 1280)


def result(rows: dict[str, list[tuple]], *, duration_s: float = 20.0, **more) -> Result:
    found = {v: tuple(Detection(v, *row) for row in sorted(own, key=lambda row: -row[3])) for v, own in rows.items()}
    made = Provenance(
        method="clip_baseline",
        checkpoint_rule="none (training-free)",
        config={"labels": list(LABELS), "threshold": None},
        features={"encoder": "open_clip:ViT-B-32:random-seed0", "dim": 512, "identity": "x", "synthetic": False},
    )
    return Result(
        predictions=Predictions(found, made), labels=LABELS, durations_s=dict.fromkeys(rows, duration_s), **more
    )


# of 0.8 half is 0.4: three are shown in "a", one in "b"; nothing is ever found of the third label
ROWS = {
    "a": [("high jump", 2, 6, 0.8), ("high jump", 10, 10.4, 0.5), ("pole vault", 4, 9, 0.4), ("high jump", 1, 3, 0.39)],
    "b": [("pole vault", 12, 15, 0.6), ("high jump", 3, 5, 0.1)],
}


@pytest.fixture(scope="module")
def tab():
    if why_missing():
        pytest.skip(why_missing())
    with browser() as opened:
        yield opened


@pytest.fixture(scope="module")
def two_splits(tmp_path_factory) -> Path:
    files = {f"split{k}.json": predictions(k) for k in (0, 1)}
    return write_report_page(tmp_path_factory.mktemp("splits") / "report.html", files, annotations=world())


@pytest.fixture(scope="module")
def two_methods(tmp_path_factory) -> Path:
    """Two files of one split; the second one's detections begin a second later."""
    later = predictions(method="other")
    moved = {
        v: tuple(Detection(v, d.label, d.start_s + 1, d.end_s + 1, d.score / 2) for d in rows)
        for v, rows in later.detections.items()
    }
    files = {"ours.json": predictions(), "theirs.json": Predictions(moved, later.provenance)}
    return write_report_page(tmp_path_factory.mktemp("methods") / "report.html", files, annotations=world())


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> Path:
    """As `psftr predict` writes it, with a video that Chromium can always play."""
    import numpy as np

    folder = tmp_path_factory.mktemp("found")
    frames = [np.full((48, 64, 3), 5 * k, dtype=np.uint8) for k in range(40)]
    times_s = [k / 2 for k in range(40)]
    (folder / "clips").mkdir()
    clip = write_clip(folder / "clips" / "a.webm", frames, times_s=times_s, codec="libvpx", tick=Fraction(1, 1000))
    return result(ROWS, files={"a": clip}).to_report(folder / "report.html")


@pytest.fixture(scope="module")
def truth(tmp_path_factory) -> Path:
    """As `psftr predict --ground-truth` writes it."""
    from psftr.data.annotations import Action, Annotations, Video

    own = {"a": (Action(2, 6, "HighJump"), Action(10, 14, "HighJump")), "b": (Action(3, 9, "PoleVault"),)}
    videos = {v: Video(v, "test", 20.0, 25.0, actions) for v, actions in own.items()}
    return result(ROWS).to_report(tmp_path_factory.mktemp("truth") / "report.html", annotations=Annotations(videos))


# Text that can be seen, with its colour and what lies behind it, as sRGB in [0, 1] with alpha.
SEEN = """
const parse = (text) => {
  const numbers = text.match(/-?[\\d.]+(e-?\\d+)?/g).map(Number);
  return text.startsWith('color(') ? [...numbers.slice(0, 3), numbers[3] ?? 1]
    : [numbers[0] / 255, numbers[1] / 255, numbers[2] / 255, numbers[3] ?? 1];
};
const over = (top, below) => [0, 1, 2].map((i) => top[i] * top[3] + below[i] * (1 - top[3])).concat(1);
const light = ([r, g, b]) => {
  const [x, y, z] = [r, g, b].map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
  return 0.2126 * x + 0.7152 * y + 0.0722 * z;
};
const behind = (element) => {
  const layers = [];
  for (let e = element; e; e = e.parentElement) layers.push(parse(getComputedStyle(e).backgroundColor));
  return layers.reverse().reduce((below, top) => over(top, below), [1, 1, 1, 1]);
};
const contrast = (a, b) => {
  const [x, y] = [light(a), light(b)].sort((p, q) => q - p);
  return (x + 0.05) / (y + 0.05);
};
const texts = () => {
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const seen = [];
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim()) continue;
    if (element.closest('script, style, title, option, noscript, [hidden], :disabled')) continue;
    const range = document.createRange();
    range.selectNodeContents(walker.currentNode);
    const box = range.getBoundingClientRect();
    if (!box.width || !element.checkVisibility()) continue;
    const style = getComputedStyle(element);
    const colour = parse(element.closest('svg') ? style.fill : style.color);
    const ground = behind(element);
    seen.push({ text: walker.currentNode.data.trim(), contrast: contrast(over(colour, ground), ground) });
  }
  return seen;
};
const boxes = (selector) => [...document.querySelectorAll(selector)].filter((e) => e.checkVisibility())
  .map((e) => [e, e.getBoundingClientRect()]).filter(([, box]) => box.width && box.height);
const crossing = (selector) => {
  const all = boxes(selector);
  const found = [];
  all.forEach(([a, p], i) => all.slice(i + 1).forEach(([b, q]) => {
    if (a.contains(b) || b.contains(a)) return;
    const wide = Math.min(p.right, q.right) - Math.max(p.left, q.left);
    const high = Math.min(p.bottom, q.bottom) - Math.max(p.top, q.top);
    const name = (e) => `${e.className || e.id || e.tagName} ${e.textContent.slice(0, 20)}`;
    if (wide > 0.6 && high > 0.6) found.push(`${name(a)} / ${name(b)}`);
  }));
  return found;
};
"""


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_everything_can_be_read_and_nothing_lies_on_anything(tab, two_splits, two_methods, found, truth, width, dark):
    for path in (two_methods, found, truth, two_splits):
        tab.open(path, width=width, height=900 if width > 500 else 780, dark=dark)
        assert tab.run("return document.documentElement.scrollWidth") == width
        wide = (
            "return Math.max(...[...document.querySelectorAll('body *')].filter((e) => !e.closest('.scroll, select'))"
        )
        assert tab.run(wide + ".map((e) => e.getBoundingClientRect().right))") <= width
        faint = tab.run(SEEN + "return texts().filter((one) => one.contrast < 4.5)")
        assert faint == [], path
        assert tab.run(SEEN + "return texts().length") > 60
        # bars of a row with the scores beside them; times on the axes; parts of the page; controls
        parts = ".glance > *, #cards > *, .tool, #summary, #rows, #told, #line .legend, #player, #list, .keys, .of-file"
        selectors = ["#rows .lane", "#rows .lanes .bar, #rows .lanes .score", "#rows .ticks span", ".card .ticks span"]
        selectors += [".card .bar, .card .score", "#rows .name, #rows .lanes", ".tool > *", ".glance svg text", parts]
        for selector in selectors:
            assert tab.run(SEEN + f"return crossing('{selector}')") == [], (path, selector)
        assert tab.console() == []


def test_the_story_is_above_the_fold(tab, two_methods, truth, found):
    for path in (two_methods, truth, found):
        tab.open(path, width=1280, height=900)
        bottoms = tab.run(SEEN + "return boxes('.result table, .glance svg, .card').map(([, box]) => box.bottom)")
        assert len(bottoms) == 4
        assert max(bottoms) <= 900, path
        assert tab.run("return document.querySelector('#rows').getBoundingClientRect().top") < 900  # not at the 3,500th
        rows = "document.querySelector('#rows').getBoundingClientRect().bottom"
        facts = (
            "[...document.querySelectorAll('.of-file details, #results details')].filter((e) => e.checkVisibility())"
        )
        folded = tab.run(f"return {facts}.map((e) => !e.open && e.getBoundingClientRect().top > {rows})")
        assert folded
        assert all(folded)
    tab.open(two_methods, width=1280, height=900)
    words = tab.run("return [...document.querySelectorAll('.card')].map((e) => e.innerText.replace(/\\s+/g, ' '))")
    assert words[0].startswith(
        "Best video: t2 AP 50.0 % with all detections, 2 detections shown, 1 of 2 actions found by what is shown"
    )


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_the_surer_the_darker_is_true_and_in_dark_mode_it_says_brighter(tab, found, dark):
    tab.open(found, dark=dark)
    told = tab.run("return document.querySelector('#line .legend').innerText")
    assert ("the surer, the brighter" if dark else "the surer, the darker") in told
    bars = tab.run(
        SEEN + "return [...document.querySelectorAll('#rows .found')].map((e) => [Number(e.dataset.at),"
        "light(parse(getComputedStyle(e).backgroundColor))])"
    )
    lightness = [value for _, value in sorted(bars)]  # best score first
    assert lightness == sorted(lightness, reverse=dark)
    assert len(set(lightness)) == 3


def test_scores_stand_on_bars_and_every_searched_label_has_a_row(tab, found):
    tab.open(found)
    rows = tab.run(
        "return [...document.querySelectorAll('#rows .row')].slice(1).map((e) => e.innerText.split(/\\s*\\n\\s*/))"
    )
    assert rows == [["high jump", "0.80", "0.50"], ["pole vault", "0.40"], ["跳高", "nothing from 0.4 on"]]
    family = tab.run("return getComputedStyle(document.querySelector('#rows .name')).fontFamily")
    assert "Noto Sans CJK" in family
    assert "Hiragino" in family


MOVE = "const s = document.getElementById('least'); s.value = {}; s.dispatchEvent(new Event('input'));"
BARS = "return document.querySelectorAll('#rows .found').length"


def test_the_filter_moves_bars_and_table_together(tab, found):
    tab.open(found)
    rows = "return document.querySelectorAll('#detections tbody tr').length"
    assert (tab.run(BARS), tab.run(rows)) == (3, 3)
    tab.run(MOVE.format(0))
    assert (tab.run(BARS), tab.run(rows)) == (4, 4)
    # 0.8 is the highest score, the slider is its square root: 0.5 lies at 791
    tab.run(MOVE.format(780))
    assert (tab.run(BARS), tab.run(rows)) == (2, 2)
    assert tab.run("return document.getElementById('least').getAttribute('aria-valuetext')") == "score 0.487"
    tab.run(MOVE.format(1000))
    assert tab.run(BARS) == 1
    assert "1 of 4 detections" in tab.run("return document.getElementById('summary').textContent")


TICKS = "return [...document.querySelectorAll('#rows .ticks span')].map((e) => e.textContent)"


def test_zoom_by_key_button_and_slider(tab, found):
    tab.open(found, width=1280)
    wide = "return document.querySelector('#rows .found[data-at=\"0\"]').getBoundingClientRect().width"
    assert tab.run(TICKS)[:3] == ["0 s", "2 s", "4 s"]
    before = tab.run(wide)
    tab.run("document.querySelector('#rows .found[data-at=\"0\"]').focus()")
    tab.press("+")
    assert tab.run(wide) == pytest.approx(2 * before, abs=1)
    assert tab.run("return document.activeElement.dataset.at") == "0", "the bar keeps the focus"
    assert tab.run(TICKS) == [f"{k} s" for k in range(2, 13)]  # 10 of 20 seconds, around the bar's middle: from 2 to 12
    assert "from 2 s to 12 s" in tab.run("return document.getElementById('summary').textContent")
    tab.run("const s = document.getElementById('place'); s.value = 1000; s.dispatchEvent(new Event('input'));")
    assert tab.run(TICKS)[-1] == "20 s"
    tab.run("document.getElementById('closer').click()")
    tab.press("0")
    assert tab.run(wide) == pytest.approx(before, abs=1)
    assert tab.run("return document.getElementById('place').disabled") is True


@pytest.mark.parametrize(
    ("duration_s", "width", "ticks"),
    [
        (27.77, 1280, [f"{k} s" for k in range(0, 28, 2)]),
        (27.77, 360, ["0 s", "10 s", "20 s"]),
        (200.0, 768, ["0:00", "0:30", "1:00", "1:30", "2:00", "2:30", "3:00"]),
        (9000.0, 768, ["0:00:00", "0:30:00", "1:00:00", "1:30:00", "2:00:00", "2:30:00"]),
    ],
)
def test_ticks_are_round_and_bars_never_vanish(tab, tmp_path, duration_s, width, ticks):
    rows = {"a": [("high jump", duration_s - 0.04, duration_s, 0.9), ("high jump", 5, 5.04, 0.8)]}
    tab.open(result(rows, duration_s=duration_s).to_report(tmp_path / "p.html"), width=width)
    assert tab.run(TICKS) == ticks
    lane = "document.querySelector('#rows .of-found').getBoundingClientRect()"
    sizes = tab.run("return [...document.querySelectorAll('#rows .found')].map((e) => e.getBoundingClientRect())")
    assert min(box["width"] for box in sizes) >= 2
    assert max(box["right"] for box in sizes) <= tab.run(f"return {lane}.right") + 0.1
    told = tab.run("return document.querySelector('#rows .found').getAttribute('aria-label')")
    assert ("0:00:05 to 0:00:05.04" if duration_s > 3600 else "5") in told


def test_click_plays_the_video_from_there(tab, found):
    tab.open(found)
    state = "const v = document.querySelector('video'); return v ? [v.readyState, v.currentTime, v.paused] : null"
    tab.run("document.querySelector('video').muted = true")
    tab.run("document.querySelector('#rows .found[data-start=\"1000\"]').click()")
    _until(lambda: tab.run(state)[1] >= 10)
    _, at_s, is_paused = tab.run(state)
    assert 10 <= at_s < 14
    assert not is_paused
    tab.run("document.querySelector('#detections tbody tr').click()")  # the first by time: high jump, from 2 s
    _until(lambda: 2 <= tab.run(state)[1] < 6)
    assert tab.run("return document.querySelector('#rows [aria-current]').dataset.start") == "200"
    assert tab.run("return document.querySelector('#rows .playhead').hidden") is False


def _until(holds) -> None:
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_the_table_sorts_and_is_saved_as_a_file_that_psftr_reads(tab, found, tmp_path):
    tab.open(found)
    tab.devtools("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    column = "return [...document.querySelectorAll('#detections tbody tr')].map((e) => e.lastChild.textContent)"
    assert tab.run(column) == ["0.8", "0.4", "0.5"]  # by time
    tab.run("[...document.querySelectorAll('#detections th button')].at(-1).click()")
    assert tab.run(column) == ["0.8", "0.5", "0.4"]
    assert tab.run("return document.activeElement.textContent") == "score ▼"
    tab.requests()
    tab.run("document.getElementById('export-all').click()")
    saved = tmp_path / "detections.csv"
    _until(saved.exists)
    assert not [address for address in tab.requests() if not address.startswith("blob:")]
    back = read_predictions(saved).detections
    assert [(d.label, d.start_s, d.end_s, d.score) for d in back["a"]] == [
        ("high jump", 2, 6, 0.8), ("high jump", 10, 10.4, 0.5), ("pole vault", 4, 9, 0.4)]  # fmt: skip
    assert len(back["b"]) == 1
    assert "UNTRAINED ENCODER" in saved.read_text(encoding="utf-8")


def test_two_methods_are_drawn_over_each_other(tab, two_methods):
    tab.open(two_methods)
    starts = "return [...document.querySelectorAll('#rows .{}')].map((e) => [Number(e.dataset.start), e.title])"
    # the first file shows scores from 0.45 (half of 0.9), the second from 0.225
    assert [start for start, _ in tab.run(starts.format("found:not(.second)"))] == [1000, 5000]
    second = tab.run(starts.format("second"))
    assert [start for start, _ in second] == [1100, 5100]
    assert second[0][1] == "swim: detection of other, 11 to 21 s, score 0.45, tIoU with its ground truth 0.82"
    assert tab.run("return document.querySelector('#line .legend').innerText").split("\n")[1:3] == [
        "psftr: the surer, the darker", "other: the same"]  # fmt: skip
    tab.run("const c = document.getElementById('partner'); c.value = ''; c.dispatchEvent(new Event('change'));")
    assert tab.run(starts.format("second")) == []
    assert tab.run("return document.getElementById('second-key').checkVisibility()") is False


def test_the_average_is_in_sight_on_a_phone(tab, two_splits):
    tab.open(two_splits, width=400, height=780)
    cells = "return [...document.querySelectorAll('table')].filter((t) => t.checkVisibility()).flatMap((t) => {"
    cells += "const i = [...t.querySelectorAll('thead th')].findIndex((h) => h.textContent === 'Avg');"
    cells += "return i < 0 ? [] : [...t.rows].map((r) => r.cells[i]?.getBoundingClientRect().right || 0) })"
    rights = tab.run(cells)
    assert len(rights) > 8
    assert max(rights) <= 400


def test_the_confusion_matrix_has_titles(tab, two_splits):
    tab.open(two_splits)
    titles = tab.run("return [...document.querySelectorAll('.matrix')][0].querySelectorAll('[title]').length")
    assert titles == 3 + 2 + 2 * 3  # columns, rows, cells
    cell = tab.run("return document.querySelector('.matrix .own').title")
    assert cell == "1 of 2 actions of swim have their own label"
    axes = tab.run("return [...document.querySelectorAll('.matrix')][0].querySelectorAll('.axis').length")
    assert axes == 2


def test_the_banner_stays_in_sight(tab, two_splits):
    tab.open(two_splits)
    tab.run("window.scrollTo(0, document.documentElement.scrollHeight)")
    box = tab.run("return document.querySelector('.banner').getBoundingClientRect()")
    assert box["top"] == 0
    assert box["height"] < 60


def test_the_page_loads_without_errors_and_without_network(tab, two_splits):
    tab.requests()
    tab.open(two_splits)
    assert tab.run("return document.querySelectorAll('#video option').length") == 2
    assert tab.run("return [...document.querySelectorAll('.of-file')].map((part) => part.hidden)") == [False, True]
    assert tab.console() == []
    assert tab.requests() == [two_splits.resolve().as_uri()]


def test_keys_walk_bars_and_videos(tab, two_splits):
    tab.open(two_splits)
    focus = "return document.activeElement.getAttribute('aria-label')"
    tab.run("document.querySelector('#rows [tabindex=\"0\"]').focus()")
    assert tab.run(focus) == "swim: ground truth, 10 to 20 s"
    tab.press("Right")
    assert tab.run(focus) == "swim: ground truth, 50 to 70 s"
    tab.press("Down")
    assert tab.run(focus) == "swim: detection, 50 to 55 s, score 0.5, tIoU with its ground truth 0.25"
    assert tab.run("return document.getElementById('told').textContent") == tab.run(focus)
    tab.press("Left", "Up")
    assert "ground truth, " in tab.run(focus)
    tab.press("j")
    assert tab.run("return document.getElementById('video').selectedIndex") == 1
    tab.press("k")
    assert tab.run("return document.getElementById('video').selectedIndex") == 0


def test_files_are_switched(tab, two_splits):
    tab.open(two_splits)
    tab.run("const c = document.getElementById('file'); c.value = '1'; c.dispatchEvent(new Event('change'));")
    assert tab.run("return [...document.querySelectorAll('.of-file')].map((part) => part.hidden)") == [True, False]
    assert tab.run("return document.querySelector('#video option').text") == "t0 (2 actions, AP 50.0)"
    assert tab.run("return document.querySelectorAll('#rows .ignored').length") == 1
    assert SPLITS[1][1][0] in tab.run("return document.querySelector('#rows .name:not(:empty)').textContent")


def test_a_video_that_cannot_be_played_is_named(tab, tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"no video")
    tab.open(result({"a": ROWS["a"]}, files={"a": tmp_path / "a.mp4"}).to_report(tmp_path / "p.html"))
    _until(lambda: "cannot play a.mp4" in tab.run("return document.getElementById('player').textContent"))
    tab.run("document.querySelector('#rows .found').click()")
    assert tab.run("return document.getElementById('told').textContent").startswith("high jump: detection")
