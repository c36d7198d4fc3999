from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from parts import postprocessor
from torch import tensor

from psftr.data.windows import Window
from psftr.errors import PsftrError
from psftr.methods.psftr.network import LayerOutputs
from psftr.methods.psftr.postprocess import (
    WindowDetections,
    hard_nms_merge,
    peer_merge,
    soft_nms_merge,
    text_similarity,
)
from psftr.segments import Timeline

NAMES = ("jump", "run")


def window(*, offset=0.0, num_valid=10, size=10, duration_s=100.0, video_id="v"):
    timeline = Timeline(stride=10, fps=10.0, num_steps=100, duration_s=duration_s)  # a row is a second
    return Window(video_id, timeline, offset, float(num_valid), num_valid, size)


def outputs_of(segments_cw, class_logits, actionness):
    actionness = tensor(actionness)
    return LayerOutputs(
        class_logits=tensor(class_logits), segments_cw=tensor(segments_cw), actionness_logits=actionness.logit()
    )


def batch_of(windows, features=None):
    size = windows[0].size
    features = torch.ones(len(windows), size, 2) if features is None else features
    valid = tensor([w.num_valid for w in windows])
    return SimpleNamespace(
        features=features, is_padding=torch.arange(size) >= valid.unsqueeze(1), windows=tuple(windows)
    )


def test_scores_are_class_probability_times_actionness_in_seconds_of_the_video():
    outputs = outputs_of([[[0.5, 0.2], [0.25, 0.1]]], [[[0.0, 0.0], [torch.tensor(3.0).log(), 0.0]]], [[0.5, 0.8]])
    (found,) = postprocessor(roi_weight=0.0).detect(outputs, batch_of([window(offset=20.0)]), torch.eye(2), NAMES)
    # Query 1: 0.8 * 3/4 jump, 0.8 * 1/4 run over [22, 23]; query 0: 0.5 * 1/2 for both over [24, 26].
    assert found.scores.tolist() == pytest.approx([0.6, 0.25, 0.25, 0.2])
    assert found.labels.tolist()[0] == 0
    assert sorted(found.labels.tolist()[1:3]) == [0, 1]
    assert found.labels.tolist()[3] == 1
    expected = [[22.0, 23.0], [24.0, 26.0], [24.0, 26.0], [22.0, 23.0]]
    torch.testing.assert_close(found.segments_s, tensor(expected))
    assert found.class_names == NAMES


def test_a_name_that_fits_raises_the_actionness_of_its_pair():
    log_3 = torch.tensor(3.0).log()
    outputs = outputs_of([[[0.5, 0.2]]], [[[2 * log_3, 0.0]]], [[0.5]])
    changed = {"class_temperature": 2.0, "evidence_weight": 0.5}
    (found,) = postprocessor(roi_weight=0.0, **changed).detect(outputs, batch_of([window()]), torch.eye(2), NAMES)
    # softmax of (log 3, 0): 3/4 and 1/4; sigmoid of 0 + half of (2 log 3, 0): 3/4 and 1/2
    assert found.scores.tolist() == pytest.approx([0.75 * 0.75, 0.25 * 0.5])
    (roi,) = postprocessor(roi_weight=1.0, **changed).detect(outputs, batch_of([window()]), torch.eye(2), NAMES)
    assert roi.scores.tolist() == pytest.approx([0.25, 0.25])  # ROIAlign alone reads nothing of the head
    with pytest.raises(PsftrError, match="class_temperature must be above 0, got 0"):
        postprocessor(class_temperature=0)


def test_what_fits_a_name_of_training_better_is_not_what_is_asked_for():
    log_3 = torch.tensor(3.0).log()
    outputs = outputs_of([[[0.5, 0.2]]], [[[2 * log_3, 0.0]]], [[0.5]])
    seen = tensor([[[4 * log_3, -torch.inf]]])

    def scores(seen_logits, **changes):
        post = postprocessor(roi_weight=0.0, class_temperature=2.0, **changes)
        read = replace(outputs, seen_logits=seen_logits)
        return post.detect(read, batch_of([window()]), torch.eye(2), NAMES)[0].scores.tolist()

    # halves of the logits: 3 and 1 for the names asked for, 9 for the one of training, times its weight
    assert scores(seen, seen_weight=1.0) == pytest.approx([0.5 * 3 / 13, 0.5 * 1 / 13])
    assert scores(seen, seen_weight=1 / 3) == pytest.approx([0.5 * 3 / 7, 0.5 * 1 / 7])
    assert scores(seen, seen_weight=0.0) == scores(None, seen_weight=1.0) == pytest.approx([0.5 * 3 / 4, 0.5 * 1 / 4])
    assert scores(seen[..., 1:], seen_weight=1.0) == pytest.approx([0.5 * 3 / 4, 0.5 * 1 / 4])  # one that is asked for


def test_roi_classification_reads_the_frames_of_the_segment():
    features = torch.zeros(1, 10, 2)
    features[0, :5, 0] = 7.0  # first half looks like "jump"; the norm must not matter
    features[0, 5:, 1] = 0.1
    text = tensor([[2.0, 0.0], [0.0, 0.5]])
    outputs = outputs_of([[[0.25, 0.3], [0.75, 0.3]]], [[[0.0, 0.0], [0.0, 0.0]]], [[0.9, 0.8]])
    batch = batch_of([window()], features)
    roi, head, mixed = (
        postprocessor(roi_weight=w, top_per_window=2).detect(outputs, batch, text, NAMES)[0] for w in (1.0, 0.0, 0.75)
    )
    assert roi.labels.tolist() == [0, 1]
    assert roi.scores.tolist() == pytest.approx([0.9, 0.8])  # cosine 1 against 0, times 100: certain
    assert head.scores.tolist() == pytest.approx([0.45, 0.45])
    # 0.75 * 1 + 0.25 * 0.5 = 0.875
    assert mixed.scores.tolist() == pytest.approx([0.9 * 0.875, 0.8 * 0.875])
    soft = postprocessor(logit_scale=1.0, top_per_window=1).detect(outputs, batch, text, NAMES)[0]
    assert soft.scores.item() == pytest.approx(0.9 * F.softmax(tensor([1.0, 0.0]), 0)[0].item())


def test_reordering_the_names_permutes_the_labels_only():
    generator = torch.Generator().manual_seed(0)
    names, order = ("a", "b", "c"), [2, 0, 1]
    logits = torch.randn(2, 4, 3, generator=generator)
    text = torch.randn(3, 8, generator=generator)
    batch = batch_of([window(), window(offset=10.0)], torch.randn(2, 10, 8, generator=generator))

    def decode(logits, text, names):
        outputs = LayerOutputs(
            class_logits=logits,
            segments_cw=torch.rand(2, 4, 2, generator=torch.Generator().manual_seed(1)),
            actionness_logits=torch.randn(2, 4, generator=torch.Generator().manual_seed(2)),
        )
        return postprocessor(roi_weight=0.5).merge_videos(
            postprocessor(roi_weight=0.5).detect(outputs, batch, text, names)
        )

    one = decode(logits, text, names)["v"]
    other = decode(logits[..., order], text[order], tuple(names[i] for i in order))["v"]
    assert {(d.label, round(d.start_s, 4)): round(d.score, 5) for d in one} == {
        (d.label, round(d.start_s, 4)): round(d.score, 5) for d in other
    }


def test_segments_stay_inside_the_valid_rows():
    # 6 of 10 rows are valid: [0.5, 0.7] is cut at 0.6, [0.7, 0.9] and the empty one disappear, as does what
    # lies before the window.
    cw = [[[0.6, 0.2], [0.8, 0.2], [0.3, 0.0], [0.05, 0.3]]]
    outputs = outputs_of(cw, [[[0.0, 0.0]] * 4], [[0.9, 0.99, 0.98, 0.5]])
    decoder = postprocessor(roi_weight=0.0)
    (found,) = decoder.detect(outputs, batch_of([window(num_valid=6)]), torch.eye(2), NAMES)
    torch.testing.assert_close(found.segments_s[::2], tensor([[5.0, 6.0], [0.0, 2.0]]))
    assert len(found.scores) == 4


def test_only_the_best_pairs_of_a_window_are_kept():
    outputs = outputs_of([[[0.5, 0.2]] * 3], [[[1.0, 0.0]] * 3], [[0.9, 0.8, 0.7]])
    (found,) = postprocessor(roi_weight=0.0, top_per_window=2).detect(
        outputs, batch_of([window()]), torch.eye(2), NAMES
    )
    assert found.labels.tolist() == [0, 0]
    assert found.scores[0] > found.scores[1]


def test_mistakes_are_named():
    outputs = outputs_of([[[0.5, 0.2]]], [[[0.0, 0.0]]], [[0.5]])
    with pytest.raises(PsftrError, match="features have 2 dimensions and text 3"):
        postprocessor().detect(outputs, batch_of([window()]), torch.ones(2, 3), NAMES)
    with pytest.raises(ValueError, match="2 class names for 3 text embeddings"):
        postprocessor().detect(outputs, batch_of([window()]), torch.ones(3, 2), NAMES)
    broken = outputs_of([[[float("nan"), 0.2]]], [[[0.0, 0.0]]], [[0.5]])
    with pytest.raises(PsftrError, match="outputs are not finite"):
        postprocessor().detect(broken, batch_of([window()]), torch.eye(2), NAMES)
    with pytest.raises(PsftrError, match="roi_weight must be at most 1, got 2"):
        postprocessor(roi_weight=2)
    with pytest.raises(PsftrError, match="soft_nms_sigma must be above 0, got 0"):
        postprocessor(soft_nms_sigma=0)


def test_decoding_is_float32_inside_autocast():
    generator = torch.Generator().manual_seed(0)
    batch = batch_of([window()], torch.randn(1, 10, 8, generator=generator))
    outputs = outputs_of([[[0.5, 0.2], [0.3, 0.4]]], [[[0.3, 0.1], [0.0, 0.2]]], [[0.5, 0.7]])
    text = torch.randn(2, 8, generator=generator)
    plain = postprocessor().detect(outputs, batch, text, NAMES)[0].scores
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = postprocessor().detect(outputs, batch, text, NAMES)[0].scores
    assert torch.equal(inside, plain)


def test_text_similarity_ignores_norms():
    assert text_similarity(tensor([[3.0, 0.0]]), tensor([[0.5, 0.0], [9.0, 9.0]])).tolist() == [
        pytest.approx([1.0, 0.5**0.5])
    ]


def found_in(window_, rows):
    """rows of (start_s, end_s, label, score)."""
    return WindowDetections(
        window=window_,
        segments_s=tensor([[start, end] for start, end, _, _ in rows]).reshape(-1, 2),
        labels=tensor([label for _, _, label, _ in rows], dtype=torch.long),
        scores=tensor([score for _, _, _, score in rows]),
        class_names=NAMES,
    )


def spans(detections):
    return [(d.label, round(d.start_s, 3), round(d.end_s, 3), round(d.score, 3)) for d in detections]


def test_windows_merge_in_seconds_class_by_class():
    # Both windows saw [8, 12]; the other class and the distant segment are untouched.
    first = found_in(window(offset=0), [(8.0, 12.0, 0, 0.9), (1.0, 2.0, 0, 0.3)])
    second = found_in(window(offset=5), [(8.0, 12.0, 0, 0.8), (8.0, 12.0, 1, 0.7)])
    merged = spans(soft_nms_merge([first, second], sigma=0.5, max_kept=200))
    # exp(-1 / 0.5) = 0.135: the repeat falls to 0.108.
    assert merged == [
        ("jump", 8.0, 12.0, 0.9), ("run", 8.0, 12.0, 0.7), ("jump", 1.0, 2.0, 0.3), ("jump", 8.0, 12.0, 0.108)
    ]  # fmt: skip
    assert spans(hard_nms_merge([first, second], threshold=0.4, max_kept=200)) == merged[:3]
    assert spans(hard_nms_merge([first, second], threshold=0.4, max_kept=2)) == merged[:2]
    assert spans(postprocessor(max_per_video=2).merge([first, second])) == merged[:2]
    assert spans(postprocessor(merge="nms", nms_threshold=0.4).merge([first, second])) == merged[:3]


def test_detections_are_clipped_to_the_video():
    ends_early = window(offset=95, duration_s=99.3)
    found = found_in(ends_early, [(98.0, 101.0, 0, 0.9), (99.5, 101.0, 0, 0.8), (-1.0, 3.0, 1, 0.7)])
    merged = postprocessor().merge([found])
    assert spans(merged) == [("jump", 98.0, 99.3, 0.9), ("run", 0.0, 3.0, 0.7)]
    assert merged[0].end_s <= 99.3  # not the float32 above it


def test_videos_are_kept_apart_and_repeated_windows_count_once():
    one, two = window(video_id="one"), window(video_id="two", offset=3)
    windows = [
        found_in(one, [(1.0, 2.0, 0, 0.5)]),
        found_in(two, []),
        found_in(one, [(1.0, 2.0, 0, 0.5)]),  # a distributed sampler's padding
        found_in(window(video_id="one", offset=5), [(6.0, 7.0, 0, 0.4)]),
    ]
    merged = postprocessor().merge_videos(windows)
    assert list(merged) == ["one", "two"]
    assert spans(merged["one"]) == [("jump", 1.0, 2.0, 0.5), ("jump", 6.0, 7.0, 0.4)]
    assert merged["two"] == ()
    assert {d.video_id for d in merged["one"]} == {"one"}


def test_the_peers_rule_suppresses_in_window_overlaps_only_and_may_repeat():
    # Windows [0, 10], [8, 18], [16, 26] overlap in [8, 10] and [16, 18].
    windows = [
        found_in(window(offset=0), [(2.0, 4.0, 0, 0.5), (2.0, 4.1, 0, 0.4), (7.0, 9.5, 0, 0.9)]),
        found_in(window(offset=8), [(7.2, 9.5, 0, 0.3), (9.0, 17.0, 0, 0.6)]),
        found_in(window(offset=16), [(20.0, 22.0, 1, 0.2)]),
    ]
    assert spans(peer_merge(windows)) == [
        ("jump", 7.0, 9.5, 0.9),
        ("jump", 9.0, 17.0, 0.6),
        ("jump", 9.0, 17.0, 0.6),  # touches both overlaps
        ("jump", 2.0, 4.0, 0.5),
        ("jump", 2.0, 4.1, 0.4),  # a near copy, outside every overlap
        ("run", 20.0, 22.0, 0.2),
    ]
