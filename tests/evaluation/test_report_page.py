"""The report page: what it says, that it is one file, and how it behaves in a browser."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from report_world import predictions, world

from psftr.data.annotations import read_annotations
from psftr.data.splits import read_published_split
from psftr.errors import PsftrError
from psftr.evaluation.report_page import write_report_page
from psftr.evaluation.rules import protocol_of
from psftr.predictions import CHECKPOINT_PEER, Detection, Predictions, read_predictions


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


def titles(page: Page) -> list[str]:
    found = re.findall(r"<(caption|figcaption|h[123]|summary)>(.*?)</", page.source)
    assert len(found) > 10
    return [title for _, title in found]


def test_numbers_stand_beside_what_they_are(two_splits):
    page = Page(two_splits)
    # synthetic protocol: one banner says so for every number, and stays in sight
    assert "SYNTHETIC : made from simulated features" in page.text
    assert not [title for title in titles(page) if "SYNTHETIC" in title]
    assert [file["marks"] for file in page.data] == [["SYNTHETIC"]] * 2  # for the exported table
    for fact in ("checkpoint last", "external classifier none", "0.30 0.40 0.50 0.60 0.70", "50/50, published"):
        assert fact in page.text
    assert "paper, Table" not in page.text


def test_a_mark_that_not_all_files_have_stays_with_its_numbers(tmp_path):
    training = {"videos": 2, "classes": 1, "held_out_classes": ["run"], "validation": "2 videos of the class run"}
    files = {"a": predictions(0), "b": predictions(1, training=training)}
    page = Page(write_report_page(tmp_path / "p.html", files, annotations=world()))
    captions = re.findall(r"<caption>(.*?)</caption>", page.source)
    assert sum(caption.startswith("[TRAINED ON 1 OF 2 SEEN CLASSES] ") for caption in captions) >= 3
    assert not [title for title in titles(page) if "SYNTHETIC" in title]


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
    assert re.findall(r"<td>(.*?)</td>", row) == ["50.00 ± 0.00", *["50.00"] * 5, "2 of 10"]  # the average first


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


def test_a_run_with_held_out_classes_has_a_banner(tmp_path):
    training = {"videos": 2, "classes": 1, "held_out_classes": ["run"], "validation": "2 videos of the class run"}
    files = {"a": predictions(training=training)}
    page = Page(write_report_page(tmp_path / "p.html", files, annotations=world()))
    assert "TRAINED ON 1 OF 2 SEEN CLASSES : some of the seen classes were held out" in page.text
    assert not [title for title in titles(page) if "TRAINED ON" in title]
    assert "2 unseen classes, 2 seen, of them 1 trained on (held out: run)" in page.text
    assert "training videos: 2, classes: 1; validation: 2 videos of the class run" in page.text


def test_training_that_no_run_has_counted_is_unknown(tmp_path):
    files = {f"split{k}.json": predictions(k, training=None) for k in (0, 1)}
    page = Page(write_report_page(tmp_path / "p.html", files, annotations=world()))
    assert "the paper's Figure 5" not in page.text
    assert '<th scope="row">0</th><td>50.00</td><td>-</td><td>2</td>' in page.source


def test_untrained_encoder_is_a_banner(tmp_path):
    features = {"encoder": "open_clip:ViT-B-32:random-seed0", "dim": 512, "identity": "x", "synthetic": False}
    page = Page(write_report_page(tmp_path / "p.html", {"a": predictions(features=features)}))
    assert "UNTRAINED ENCODER" in page.text


def test_unscored_annotations_are_drawn_all_the_same(tmp_path):
    path = write_report_page(tmp_path / "p.html", {"a": predictions(1)}, annotations=world(), is_scored=False)
    video = Page(path).data[0]["videos"][0]
    assert video["t"] == [1, 1000, 2000, 1, 5000, 7000]


def test_peer_predictions_have_a_banner(tmp_path):
    files = {"a": predictions(checkpoint_rule=CHECKPOINT_PEER)}
    page = Page(write_report_page(tmp_path / "p.html", files, annotations=world()))
    assert "PEER PROTOCOL : the peers' rules" in page.text
    assert not [title for title in titles(page) if "PEER" in title]


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


def test_copied_videos_lie_beside_the_page(tmp_path):
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "t 0.mp4").write_bytes(b"one")
    (tmp_path / "far" / "other.mp4").write_bytes(b"of no detection")
    found = {"a": Predictions({"t 0": (Detection("t 0", "a", 0, 5, 0.5),)})}
    for _ in range(2):  # the second time there is nothing to copy
        path = write_report_page(tmp_path / "out" / "p.html", found, videos_dir=tmp_path / "far", copy_videos=True)
        assert [video["src"] for video in Page(path).data[0]["videos"]] == ["videos/t%200.mp4"]
        assert [file.name for file in (tmp_path / "out" / "videos").iterdir()] == ["t 0.mp4"]
    assert (tmp_path / "out" / "videos" / "t 0.mp4").read_bytes() == b"one"


def test_videos_are_found_through_a_link_to_the_pages_folder(tmp_path):
    (tmp_path / "real" / "deep").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "real" / "deep")
    (tmp_path / "v.mp4").write_bytes(b"")
    found = {"a": Predictions({"v": (Detection("v", "a", 0, 5, 0.5),)})}
    path = write_report_page(tmp_path / "link" / "p.html", found, sources={"v": tmp_path / "v.mp4"})
    assert Page(path).data[0]["videos"][0]["src"] == "../../v.mp4"


def test_two_files_of_one_split_are_two_methods(tmp_path):
    page = Page(write_report_page(tmp_path / "p.html", {"a": predictions(), "b": predictions()}, annotations=world()))
    assert [(file["method"], file["with"]) for file in page.data] == [("a", [1]), ("b", [0])]
    assert re.findall(r'<th scope="row">(\w), 50/50</th>', page.source) == ["a", "b"]


def test_files_of_different_splits_are_not_drawn_over_each_other(two_splits):
    assert [file["with"] for file in Page(two_splits).data] == [[], []]


def test_timelines_hold_every_searched_label_of_the_test_and_no_other_subset(tmp_path):
    """Without a class split everything found is shown, annotated or not; videos for training are not."""
    rows = {v: (Detection(v, label, 0, 5, 0.5),) for v, label in (("t0", "jump"), ("v_run_a", "run"), ("new", "wave"))}
    protocol = protocol_of(Predictions({}), subset="validation", tious=(0.5,))
    page = Page(
        write_report_page(tmp_path / "p.html", {"a": Predictions(rows)}, annotations=world(), protocol=protocol)
    )
    videos = {video["id"]: len(video["p"]) // 4 for video in page.data[0]["videos"]}
    assert videos == {"new": 1, "t0": 1, "t1": 0, "t2": 0, "t3": 0}
    assert "wave" in page.data[0]["classes"]


def test_every_video_is_scored_by_itself(tmp_path):
    page = Page(write_report_page(tmp_path / "p.html", {"a": predictions()}, annotations=world()))
    # of two actions one is found at every tIoU, the other at none
    assert [video["ap"] for video in page.data[0]["videos"]] == [50.0, 50.0]


def test_errors():
    with pytest.raises(PsftrError, match="give at least one file"):
        write_report_page("p.html", {})
    twice = {"a": predictions(), "b": predictions(), "c": predictions(1)}
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
