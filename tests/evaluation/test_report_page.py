"""The report page: what it says, that it is one file, and how it behaves in a browser."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from browser import browser, why_missing

from psftr.data.annotations import Action, Annotations, Video, read_annotations
from psftr.data.splits import read_published_split
from psftr.errors import PsftrError
from psftr.evaluation.report_page import write_report_page
from psftr.evaluation.rules import protocol_of
from psftr.predictions import CHECKPOINT_PEER, Detection, Predictions, Provenance, read_predictions

CLASSES = ("jump", "run", "swim", "throw")
SPLITS = {0: (("jump", "run"), ("swim", "throw")), 1: (("swim", "throw"), ("jump", "run"))}


def world() -> Annotations:
    """Four test videos of 100 s, in each two actions of one class; two training videos of each class."""
    videos = [
        Video(f"t{k}", "validation", 100.0, 25.0, (Action(10, 20, name), Action(50, 70, name)))
        for k, name in enumerate(CLASSES)
    ]
    videos += [Video(f"v_{name}_{n}", "training", 50.0, 25.0, (Action(0, 5, name),)) for name in CLASSES for n in "ab"]
    return Annotations(videos={v.video_id: v for v in videos}, ignored={"t0": (Action(80, 90, "Ambiguous"),)})


def predictions(split: int = 0, *, synthetic: bool = False, **changes) -> Predictions:
    """The first action of each video found exactly, the second badly, and one thing where nothing is."""
    seen, unseen = SPLITS[split]
    found = {}
    for k, name in enumerate(CLASSES):
        if name in unseen:
            rows = ((name, 10, 20, 0.9), (name, 50, 55, 0.5), (name, 85, 95, 0.1), (unseen[0], 30, 40, 0.2))
            found[f"t{k}"] = tuple(Detection(f"t{k}", *row) for row in rows)
    stated = {"dataset": "synthetic", "source": "published", "ratio": 50, "index": split, "seen": seen,
              "unseen": unseen}  # fmt: skip
    features = {"encoder": "words", "dim": 4, "identity": "words-1", "synthetic": synthetic}
    training = {"videos": 4, "classes": 2, "names": seen, "actions": 4, "windows": 4, "held_out_classes": []}
    made = {"method": "psftr", "checkpoint_rule": "last", "split": stated, "features": features, "training": training}
    return Predictions(found, Provenance(**{**made, **changes}))


class Page(HTMLParser):
    """Text, tags and the data of a page; fails on tags that are not closed."""

    VOID = ("meta", "input", "br", "link")

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.tags: list[tuple[str, dict]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(self.source)
        assert self.open == []
        self.text = " ".join(" ".join(self.words).split())
        self.data = json.loads(re.search(r'id="data">(.*?)</script>', self.source, re.S)[1])

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"script", "style"} & set(self.open):
            self.words.append(data)


@pytest.fixture(scope="module")
def two_splits(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    files = {f"split{k}.json": predictions(k) for k in (0, 1)}
    return write_report_page(folder / "report.html", files, annotations=world())


def test_numbers_stand_beside_what_they_are(two_splits):
    page = Page(two_splits)
    # synthetic protocol: every number says so
    assert "SYNTHETIC : made from simulated features" in page.text
    for table in re.findall(r"<caption>(.*?)</caption>", page.source):
        assert table.startswith("[SYNTHETIC]"), table
    for title in re.findall(r"<figcaption>(.*?)</figcaption>", page.source):
        assert title.startswith("[SYNTHETIC]"), title
    for fact in ("checkpoint last", "external classifier none", "0.30 0.40 0.50 0.60 0.70", "50/50, published"):
        assert fact in page.text
    assert "paper, Table" not in page.text


def test_every_split_is_listed_the_missing_ones_too(two_splits):
    page = Page(two_splits)
    assert page.text.count("MISSING") >= 8
    assert "By class split" in page.text
    assert "the paper's Figures 7 and 8" in page.text
    assert "the paper's Figure 5" in page.text
    assert [file["classes"] for file in page.data] == [["swim", "throw"], ["Ambiguous", "jump", "run"]]
    parts = [attrs["data-file"] for tag, attrs in page.tags if attrs.get("class") == "of-file"]
    assert parts == ["0", "1"]


def test_map_on_the_page_is_the_evaluation(two_splits):
    # Each class: 2 actions; found exactly 0.9 (true everywhere); [50, 55] of [50, 70] has tIoU 0.25: never true. AP 0.5
    # for the class whose own detections come first; `unseen[0]` is also named in the other video, below in score.
    page = Page(two_splits)
    row = re.search(r'<th scope="row">psftr, 50/50</th>(.*?)</tr>', page.source)[1]
    assert re.findall(r"<td>(.*?)</td>", row) == ["50.00"] * 5 + ["50.00 ± 0.00", "2 of 10"]


def test_timeline_data_is_what_was_found_and_annotated(tmp_path):
    page = Page(write_report_page(tmp_path / "p.html", {"a": predictions(1)}, annotations=world()))
    (file,) = page.data
    assert file["classes"] == ["Ambiguous", "jump", "run"]
    video = file["videos"][0]
    assert (video["id"], video["d"], video["t"]) == ("t0", 10000, [1, 1000, 2000, 1, 5000, 7000])
    assert video["p"][:4] == [1, 1000, 2000, 10000]
    assert video["p"][4:8] == [1, 5000, 5500, round(10000 * 0.5 / 0.9)]
    assert video["x"] == [0, 8000, 9000]
    assert file["top"] == 0.9


def test_page_is_one_file_that_asks_for_nothing(two_splits):
    page = Page(two_splits)
    assert not [tag for tag, attrs in page.tags if "src" in attrs or tag in ("link", "img", "iframe")]
    assert "url(" not in page.source
    assert "http" not in page.source.replace("http-equiv", "")
    policy = next(a["content"] for tag, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")


def test_names_cannot_break_the_page(tmp_path):
    nasty = '</script><img src=x onerror=alert(1)> & "x"'
    found = {"v</script>": (Detection("v</script>", nasty, 0, 5, 0.5),)}
    page = Page(write_report_page(tmp_path / "p.html", {nasty: Predictions(found)}, title=nasty))
    assert page.data[0]["classes"] == [nasty]
    assert not [tag for tag, _ in page.tags if tag == "img"]


def test_without_ground_truth_the_page_says_so(tmp_path):
    page = Page(write_report_page(tmp_path / "p.html", {"a.json": predictions()}, durations_s={"t2": 120.0}))
    assert "no ground truth with these labels was given" in page.text
    assert "mAP" not in page.text
    assert [video["d"] for video in page.data[0]["videos"]] == [12000, 9500]  # the second: end of its last detection


def test_a_run_with_held_out_classes_is_marked_everywhere(tmp_path):
    training = {"videos": 2, "classes": 1, "held_out_classes": ["run"], "validation": "2 videos of the class run"}
    files = {"a": predictions(training=training)}
    page = Page(write_report_page(tmp_path / "p.html", files, annotations=world()))
    assert "TRAINED ON 1 OF 2 SEEN CLASSES : some of the seen classes were held out" in page.text
    for table in re.findall(r"<caption>(.*?)</caption>", page.source):
        assert table.startswith("[SYNTHETIC, TRAINED ON 1 OF 2 SEEN CLASSES] "), table
    assert "2 unseen classes, 2 seen, of them 1 trained on (held out: run)" in page.text
    assert "training videos: 2, classes: 1; validation: 2 videos of the class run" in page.text


def test_training_that_no_run_has_counted_is_unknown(tmp_path):
    files = {f"split{k}.json": predictions(k, training=None) for k in (0, 1)}
    page = Page(write_report_page(tmp_path / "p.html", files, annotations=world()))
    assert "the paper's Figure 5" not in page.text
    assert '<th scope="row">0</th><td>-</td><td>2</td>' in page.source


def test_untrained_encoder_is_a_banner(tmp_path):
    features = {"encoder": "open_clip:ViT-B-32:random-seed0", "dim": 512, "identity": "x", "synthetic": False}
    page = Page(write_report_page(tmp_path / "p.html", {"a": predictions(features=features)}))
    assert "UNTRAINED ENCODER" in page.text


def test_unscored_annotations_are_drawn_all_the_same(tmp_path):
    path = write_report_page(tmp_path / "p.html", {"a": predictions(1)}, annotations=world(), is_scored=False)
    video = Page(path).data[0]["videos"][0]
    assert video["t"] == [1, 1000, 2000, 1, 5000, 7000]


def test_peer_predictions_are_marked_everywhere(tmp_path):
    files = {"a": predictions(checkpoint_rule=CHECKPOINT_PEER)}
    page = Page(write_report_page(tmp_path / "p.html", files, annotations=world()))
    assert "PEER PROTOCOL : the peers' rules" in page.text
    assert "[SYNTHETIC, PEER PROTOCOL] AP in percent" in page.text


def test_many_detections_are_cut_to_the_best_and_counted(tmp_path, monkeypatch):
    monkeypatch.setattr("psftr.evaluation.report_timelines.MOST_DETECTIONS", 20)
    rows = tuple(Detection("v", "a", k, k + 1, 1 - k / 100) for k in range(50))
    page = Page(write_report_page(tmp_path / "p.html", {"a": Predictions({"v": rows, "w": ()})}))
    video = page.data[0]["videos"][0]
    assert len(video["p"]) == 4 * 10
    assert video["cut"] == 40
    assert max(video["p"][1::4]) == 900


def test_videos_beside_the_page_are_offered(tmp_path):
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "t 0.mp4").write_bytes(b"")
    (tmp_path / "clips" / "t1.txt").write_bytes(b"")
    found = {name: (Detection(name, "a", 0, 5, 0.5),) for name in ("t 0", "t1")}
    page = Page(write_report_page(tmp_path / "p.html", {"a": Predictions(found)}, videos_dir=tmp_path / "clips"))
    assert [video.get("src") for video in page.data[0]["videos"]] == ["clips/t%200.mp4", None]


def test_errors():
    with pytest.raises(PsftrError, match="give at least one file"):
        write_report_page("p.html", {})
    twice = {"a": predictions(), "b": predictions()}
    with pytest.raises(PsftrError, match="split 0 evaluated more than once"):
        write_report_page("p.html", twice, annotations=world())


def test_protocol_of_a_file():
    assert protocol_of(predictions()).dataset == "synthetic"
    assert protocol_of(predictions(checkpoint_rule=CHECKPOINT_PEER)).is_peer
    assert protocol_of(predictions(), dataset="thumos14").test_subset == "test"
    own = protocol_of(Predictions({}), subset="mine", tious=(0.5,))
    assert (own.dataset, own.test_subset, own.tious) == ("custom", "mine", (0.5,))


def test_real_thumos14_page_is_small_and_has_the_papers_rows(shared_data, tmp_path):
    """FreeZAD's detections against the whole of THUMOS14, on published split 0."""
    annotations = read_annotations(shared_data / "thumos14/Thumos14_annotations.json")
    found = read_predictions(shared_data / "oracle/freezad_thumos14_75_25_split0_pred.csv")
    split = read_published_split(shared_data / "thumos14/splits", ratio=75, index=0)
    path = write_report_page(
        tmp_path / "p.html",
        {"freezad": found},
        annotations=annotations,
        protocol=protocol_of(found, dataset="thumos14"),
        splits={"freezad": split},
    )
    page = Page(path)
    assert path.stat().st_size < 3_000_000
    assert "below the line: as printed" in page.text
    assert "PSFTR, 75/25 (paper, Table 1)" in page.text
    assert "not stated (the file says nothing about its origin)" in page.text


@pytest.fixture(scope="module")
def tab():
    if why_missing():
        pytest.skip(why_missing())
    with browser() as opened:
        yield opened


VISIBLE = "return document.querySelectorAll('#rows .found').length"


def test_browser_loads_the_page_without_errors_and_without_network(tab, two_splits):
    tab.requests()
    tab.open(two_splits)
    assert tab.run("return document.querySelectorAll('#video option').length") == 2
    assert tab.run("return [...document.querySelectorAll('.of-file')].map((part) => part.hidden)") == [False, True]
    assert tab.console() == []
    assert tab.requests() == [two_splits.resolve().as_uri()]


def test_browser_filters_by_score(tab, two_splits):
    tab.open(two_splits)
    move = "const s = document.getElementById('least'); s.value = {}; s.dispatchEvent(new Event('input'));"
    tab.run(move.format(0))
    assert tab.run(VISIBLE) == 4
    # 0.9 is the highest score, the slider is its square root: 0.5 lies at 745, 0.2 at 471
    tab.run(move.format(500))
    assert tab.run(VISIBLE) == 2
    assert tab.run("return document.getElementById('least').getAttribute('aria-valuetext')") == "score 0.225"
    tab.run(move.format(1000))
    assert tab.run(VISIBLE) == 1
    assert "1 of 4 detections" in tab.run("return document.getElementById('summary').textContent")


def test_browser_keyboard_walks_bars_and_videos(tab, two_splits):
    tab.open(two_splits)
    focus = "return document.activeElement.getAttribute('aria-label')"
    tab.run("document.querySelector('#least').focus()")
    tab.press("Tab")
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


def test_browser_switches_between_files(tab, two_splits):
    tab.open(two_splits)
    tab.run("const c = document.getElementById('file'); c.value = '1'; c.dispatchEvent(new Event('change'));")
    assert tab.run("return [...document.querySelectorAll('.of-file')].map((part) => part.hidden)") == [True, False]
    assert tab.run("return document.querySelector('#video option').text") == "t0 (2 actions)"
    assert tab.run("return document.querySelectorAll('#rows .ignored').length") == 1


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_browser_at_phone_width(tab, two_splits, dark):
    tab.open(two_splits, width=360, height=780, dark=dark)
    assert tab.run("return document.documentElement.scrollWidth") == 360
    widest = "return Math.max(...[...document.querySelectorAll('body *')].filter((e) => !e.closest('.scroll, select'))"
    assert tab.run(widest + ".map((e) => e.getBoundingClientRect().right))") <= 360
    background = tab.run("return getComputedStyle(document.body).backgroundColor")
    assert background == ("rgb(20, 24, 28)" if dark else "rgb(255, 255, 255)")


def test_browser_seeks_a_video_that_is_there(tab, tmp_path):
    from clips import numbered_clip

    numbered_clip(tmp_path / "t0.mp4", count=50, fps=25, container_options={"movflags": "faststart"})
    rows = (Detection("t0", "a", 1.0, 1.5, 0.9), Detection("t0", "a", 0.2, 0.4, 0.5))
    path = write_report_page(tmp_path / "p.html", {"a": Predictions({"t0": rows})})
    tab.open(path)
    ready = "const v = document.querySelector('video'); return v ? v.readyState : -1"
    for _ in range(50):
        if tab.run(ready) != 0:
            break
    state = tab.run(ready)
    if state == -1:  # this build of the browser has no decoder for it: the page must say so
        assert "cannot play t0.mp4" in tab.run("return document.getElementById('player').textContent")
        pytest.skip("this browser plays no H.264; the page says so")
    tab.run("document.querySelectorAll('#rows .bar')[1].click()")
    assert tab.run("return document.querySelector('video').currentTime") == pytest.approx(1.0)
