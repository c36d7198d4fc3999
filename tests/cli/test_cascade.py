"""`psftr cascade` through the front door: the synthetic world, a hostile server, tiny models on a real video."""

import json
from pathlib import Path

import pytest
from front_door import psftr

from psftr.predictions import read_predictions

NEED_EXTRA = "needs the extra psftr[mllm]"


def stages_of(folder):
    return json.loads((folder / "stages.json").read_text())


# --- CLIP backend


@pytest.fixture(scope="module")
def clip_run(workplace):
    done = psftr("cascade", "split.index=1", "out=cascade-1", "figures=false", cwd=workplace)
    return done, workplace / "cascade-1"


def test_cascade_stands_above_the_baseline_in_one_table_under_both_ways_of_scoring(clip_run):
    done, folder = clip_run
    ours = json.loads((folder / "evaluation.json").read_text())["mAP"]["average"]["mean"]
    baseline = json.loads((folder / "baseline" / "evaluation.json").read_text())["mAP"]["average"]["mean"]
    assert ours > 1.1 * baseline > 0
    table = done.stdout.split("mean over splits, %")[1]
    assert table.index("\ncascade ") < table.index("\nclip_baseline ")
    assert "NOT COMPARABLE" in done.stdout
    own = json.loads((folder / "per_video.json").read_text())
    assert set(own) == {"cascade", "clip_baseline"}


def test_predictions_say_where_they_come_from_and_every_detection_has_its_trace(clip_run):
    _, folder = clip_run
    predictions, stages = read_predictions(folder / "predictions.json"), stages_of(folder)
    assert (predictions.provenance.method, predictions.provenance.checkpoint_rule) == (
        "cascade",
        "none (training-free)",
    )
    assert stages["version"] == "psftr-stages-1"
    assert set(stages["videos"]) == set(predictions.detections)
    for video_id, found in predictions.detections.items():
        video = stages["videos"][video_id]
        assert [(d.label, d.score) for d in found] == [(t["label"], t["score"]) for t in video["detections"]]
        plans = {c["label"]: c for c in video["classes"]}
        for d, traced in zip(found, video["detections"]):
            assert traced["segment"] == pytest.approx([d.start_s, d.end_s], abs=1e-3)
            assert traced["runs"][0]["segment"][0] == traced["segment"][0]
            assert len(traced["stages"]) == len(plans[d.label]["stages"]) == len(plans[d.label]["curves"])
            for stretch in (row for stage in traced["stages"] for row in stage):
                assert stretch["confidence"] >= stages["threshold"] - 1e-3
                assert d.start_s - 1e-3 <= stretch["segment"][0] < stretch["segment"][1] <= d.end_s + 0.3


def test_the_stage_file_it_wrote_gives_the_same_predictions(clip_run, workplace):
    _, folder = clip_run
    files = [f"stages={folder / 'stages.yaml'}", f"stages_text={folder / 'stages.h5'}"]
    psftr("cascade", "split.index=1", "out=again", "baseline=false", *files, cwd=workplace)
    again = read_predictions(workplace / "again" / "predictions.json")
    assert again.detections == read_predictions(folder / "predictions.json").detections


def test_observed_behaviour_finds_all_classes_and_scores_nothing(workplace):
    psftr("cascade", "split.index=1", "out=compat", "compat=true", "baseline=false", cwd=workplace)
    predictions = read_predictions(workplace / "compat" / "predictions.json")
    found = [d for rows in predictions.detections.values() for d in rows]
    assert {d.score for d in found} == {1.0}
    assert {d.label for d in found} - set(predictions.provenance.split["unseen"])


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["backend=clop"], "did you mean 'clip'?"),
        (["backend=server"], "give videos_dir=DIR with <video id>.mp4, or backend=clip"),
        (["videos=[a.mp4]"], "belong together"),
        (["videos=[a.mp4]", "labels=[jump]"], "a.mp4: no such video file"),
        (["candidates=some"], "candidates=some is unknown"),
        (["stages=none.yaml"], "stage file none.yaml not found"),
        (["reconstruction.threshold=7"], "reconstruction.threshold must be at most 1, got 7.0"),
        (["videos=[a.mp4]", "labels=[123]"], "labels must be text, got 123"),
        (["videos=[a.mp4]", "labels=[null]"], "labels needs a value, got null"),
        (["videos=[a.mp4]", "labels=[high jump,HighJump]"], "labels 'high jump' and 'HighJump' are the same in words"),
        (["backend=qwen", "backend.frame_size=0"], "backend.frame_size must be at least 32, got 0"),
        (["backend=qwen", "backend.dtype=floaty"], "backend.dtype=floaty is unknown, did you mean 'float32'?"),
        (["backend=server", "backend.concurrency=0"], "backend.concurrency must be at least 1, got 0"),
        (["backend=server", "backend@planner=deepseek", "planner.budget=-1"], "planner.budget must be at least 0"),
        (
            ["planner.budget=9", "backend@planner=deepseek"],
            "backend=clip asks no other model: leave out backend@planner",
        ),
        (["compat=true", "reconstruction.gap_s=2"], "compat=true sets reconstruction.gap_s=0.0, but 2.0 was given"),
        (["record=a.json"], "backend=clip asks no questions: leave out record=FILE"),
        (["dataset.name=synthetic", "stages=few.yaml"], "no stage plan for"),
        (["backend=replay", "videos_dir=."], "none of the"),
        (["reconstruction.treshold=0.7"], "did you mean 'reconstruction.threshold'?"),
    ],
)
def test_bad_input_is_one_line(workplace, arguments, complaint):
    (workplace / "few.yaml").write_text("Diving: {stages: [{description: people dive, is_key: true}]}")
    done = psftr("cascade", *arguments, cwd=workplace, check=False)
    assert done.returncode == 2
    assert complaint in done.stderr
    assert done.stderr.count("\n") == 1


def test_help_has_an_example(workplace):
    done = psftr("cascade", "--help", cwd=workplace)
    assert "usage: psftr cascade" in done.stdout
    assert "backend=clip" in done.stdout


# --- tiny models on a real video


@pytest.mark.parametrize("kind", ["qwen", "llava"])
def test_tiny_models_run_end_to_end_on_a_real_video_and_replay(kind, shared_data, tmp_path):
    pytest.importorskip("transformers", reason=NEED_EXTRA)
    pytest.importorskip("diskcache", reason=NEED_EXTRA)
    pytest.importorskip("av", reason="needs the extra psftr[video]")
    from tiny_mllm import save

    save(kind, tmp_path / "weights")
    video = shared_data / "videos" / "v_GGSY1Qvo990.mp4"
    common = [f"videos=[{video}]", "labels=[clean and jerk]", "frames.filter_frames=2", "frames.caption_frames=2"]
    model = [
        "backend.model=weights",
        "backend.max_tokens=4",
        "backend.cache=cache",
        "device=cpu",
        "record=answers.json",
        "questions.filter=all",
    ]
    done = psftr("cascade", *common, f"backend={kind}", *model, "out=run", cwd=tmp_path)
    stages = stages_of(tmp_path / "run")
    (trace,) = stages["videos"].values()
    (one,) = trace["classes"]
    # random weights know no JSON: asked twice, then the name and one stage, and both are counted
    (counts,) = stages["counts"].values()
    assert counts["unusable"] == {"caption": 1, "stages": 1}
    assert one["is_fallback"]
    assert one["stages"] == [{"description": "people are clean and jerk", "is_key": True}]
    assert 36 <= len(one["curves"][0]) <= 42
    assert len({round(p, 2) for p in one["curves"][0]}) > 2
    assert "unusable: caption 1, stages 1" in done.stdout
    (tmp_path / "plans.yaml").write_text("clean and jerk: {stages: [{description: people jump, is_key: true}]}")
    known = [*common, f"backend={kind}", *model, "stages=plans.yaml"]
    psftr("cascade", *known, "out=known", cwd=tmp_path)
    replayed = [
        "backend=replay",
        "backend.file=answers.json",
        "questions.filter=all",
        "stages=plans.yaml",
        "out=replayed",
    ]
    psftr("cascade", *common, *replayed, cwd=tmp_path)
    videos = [stages_of(tmp_path / name)["videos"] for name in ("known", "replayed")]
    assert [one["curves"] for one in videos[0][video.stem]["classes"]] == [
        c["curves"] for c in videos[1][video.stem]["classes"]
    ]
    answer = json.loads((tmp_path / "answers.json").read_text())
    assert video.stem not in json.dumps(answer)


def test_own_videos_with_untrained_clip(shared_data, tmp_path):
    pytest.importorskip("av", reason="needs the extra psftr[video]")
    video = shared_data / "videos" / "v_GGSY1Qvo990.mp4"
    (tmp_path / "plans.yaml").write_text(
        "clean and jerk:\n  stages:\n    - {description: people lift a bar, is_key: true}\n"
        "    - {description: people drop a bar, is_key: false}\n"
    )
    arguments = [
        f"videos=[{video}]",
        "labels=[clean and jerk,chess]",
        "stages=plans.yaml",
        "extract.stride=30",
        "out=run",
    ]
    tiny = Path(__file__).resolve().parents[1] / "tiny_clip.json"
    psftr(
        "cascade", *arguments, f"encoder.model={tiny}", "encoder.pretrained=random", "encoder.device=cpu", cwd=tmp_path
    )
    provenance = read_predictions(tmp_path / "run" / "predictions.json").provenance
    assert provenance.features["encoder"].endswith(":random-seed0")
    (trace,) = stages_of(tmp_path / "run")["videos"].values()
    counts = {c["label"]: len(c["stages"]) for c in trace["classes"]}
    assert counts.items() <= {"clean and jerk": 2, "chess": 1}.items()
    assert counts


def test_a_name_that_is_no_candidate_goes_to_the_nearest_by_text_embedding():
    from psftr.methods.cascade.build import nearest_candidate
    from psftr.methods.cascade.settings import NearestSettings

    tiny = str(Path(__file__).resolve().parents[1] / "tiny_clip.json")
    settings = NearestSettings(model=tiny, pretrained="random", min_cosine=0.999)
    nearest = nearest_candidate(settings, ("HighJump", "Diving"), prompt="prompt3")
    assert nearest("high jump") == "HighJump"  # the same sentence, so cosine 1
    assert nearest_candidate(NearestSettings(), ("HighJump",), prompt="prompt3") is None


# --- stages for other methods


def test_proposals_of_another_method_are_rescored_beside_the_originals(workplace):
    psftr("evaluate", "method=clip_baseline", "split.index=1", "out=proposals", "figures=false", cwd=workplace)
    file = "proposals=proposals/predictions.json"
    done = psftr("cascade", file, "split.index=1", "out=rescored", "figures=false", cwd=workplace)
    given = read_predictions(workplace / "proposals" / "predictions.json")
    found = read_predictions(workplace / "rescored" / "predictions.json")
    assert found.provenance.method == f"{given.provenance.method}+cascade"
    assert found.provenance.config["rescore"]["blend"] == 0.5
    spans = [{(v, d.label, d.start_s, d.end_s) for v, r in p.detections.items() for d in r} for p in (given, found)]
    assert spans[0] == spans[1]
    assert "clip_baseline+cascade is" in done.stdout
    other = psftr("cascade", file, "split.index=2", "out=wrong", cwd=workplace, check=False)
    assert other.returncode == 2
    assert "not for" in other.stderr or "no stage plan" in other.stderr


def test_class_texts_with_stages_serve_any_verb_that_takes_texts(workplace):
    from psftr.features.text import load_text

    psftr("cascade", "write_text=texts/stages-text.h5", cwd=workplace)
    text = load_text(workplace / "texts" / "stages-text.h5")
    own = load_text(workplace / "data" / "synthetic" / "text.h5")
    assert sorted(text.names) == sorted(own.names)
    assert (text.encoder, text.synthetic) == (own.encoder, True)
    assert text.prompt == "synthetic x 0.25 + stages x 0.75"
    arguments = ["method=clip_baseline", "out=with-stages", "figures=false"]
    psftr("evaluate", *arguments, "text.embeddings=texts/stages-text.h5", cwd=workplace)
    assert read_predictions(workplace / "with-stages" / "predictions.json").provenance.text["prompt"] == text.prompt
