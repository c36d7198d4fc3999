"""A table of mistakes, each made at the front door: one line, exit status 2, quickly, and nothing left behind."""

from __future__ import annotations

import contextlib
import json
import pickle
import resource
import shlex
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from clips import numbered_clip
from front_door import psftr
from parts import save_tiny
from tiny_model import ENCODER, tiny_identity

from psftr.data.annotations import Action, Annotations, Video, write_annotations

MOST_S = 2.0  # of the CPU, which other work on the machine does not add to
PREDICT = "predict videos --labels 'high jump' 'pole vault' $ENC"
EXTRACT = "extract videos --out f.h5 $ENC"
REPORT = "report other.json --annotations truth.json"
EVALUATE = "evaluate predictions=other.json annotations=truth.json"

# (what is typed, what the line says)
MISTAKES = [
    # predict: what to look for
    ("predict videos", "say what to look for"),
    (f"{PREDICT} --labels-file names.txt", "say what to look for"),
    ("predict videos --labels '' $ENC", "no labels to look for"),
    ("predict videos --labels a a $ENC", "labels given twice: a"),
    ("predict videos --labels-file videos/clip_a.mp4 $ENC", "videos/clip_a.mp4 is not a text file in UTF-8"),
    ("predict videos --labels-file latin.txt $ENC", "latin.txt is not a text file in UTF-8"),
    ("predict videos --labels-file nowhere.txt $ENC", "nowhere.txt: no such file"),
    ("predict videos --labels-file none.txt $ENC", "none.txt holds no label"),
    ("predict videos --labels-file folder $ENC", "folder"),
    # predict: where
    ("predict --labels x videos", "no videos: name video files"),
    ("predict nowhere.mp4 --labels x $ENC", "video nowhere.mp4 not found"),
    ("predict bad.mp4 --labels x $ENC", "bad.mp4: not readable as a video"),
    ("predict folder --labels x $ENC", "folder folder holds no video"),
    ("predict @nowhere.txt --labels x $ENC", "nowhere.txt: no such file"),
    ("predict @none.txt --labels x $ENC", "no videos given"),
    ("predict @bin.json --labels x $ENC", "bin.json is not a text file in UTF-8"),
    ("predict https://example.org/clip.mp4 --labels x $ENC", "download it first"),
    ("predict '' --labels x $ENC", "'' is not a video file"),
    ("predict videos --features x.h5 --labels x $ENC", "give videos, or features in place of them"),
    ("predict --features nowhere.h5 --labels x $ENC", "nowhere.h5: no feature store there"),
    ("predict --features afile --labels x $ENC", "afile: not readable as HDF5"),
    ("predict --features videos --labels x $ENC", "videos: no .h5 or .hdf5 file in this directory"),
    ("predict videos --videos clip_a --labels x $ENC", "--videos chooses among the videos of --features STORE"),
    # predict: with what
    ("predict videos --labels x --checkpoint nowhere", "nowhere: no such run folder, model folder or checkpoint"),
    ("predict videos --labels x --checkpoint run.json", "run.json: not readable as a checkpoint"),
    ("predict videos --labels x --checkpoint folder", "folder: no model.safetensors"),
    ("predict videos --labels x --checkpoint other.ckpt", "other.ckpt: not a checkpoint of psftr"),
    ("predict videos --labels x --checkpoint evil.ckpt", "evil.ckpt: not readable as a checkpoint"),
    ("predict videos --labels x --checkpoint videos/clip_a.mp4", "videos/clip_a.mp4: not readable as a checkpoint"),
    ("predict videos --labels x --checkpoint hf://user", "hf://user is not a repository"),
    ("predict videos --labels x --checkpoint model", "give its JSON file with --model FILE"),
    ("predict videos --labels x --checkpoint model --device tpu", "device 'tpu' is unknown; try cpu or cuda"),
    ("predict videos --labels x --checkpoint model --device mps", "device 'mps' cannot be used on this machine"),
    ("predict videos --labels x --checkpoint model --device meta", "device 'meta' cannot be used on this machine"),
    (f"{PREDICT} --device cuda:99", "device 'cuda:99'"),
    ("predict videos --labels x --model ViT-B-99", "open_clip has no model 'ViT-B-99'; nearest: "),
    ("predict videos --labels x --model nowhere.json --pretrained random", "model layout nowhere.json not found"),
    ("predict videos --labels x --model truth.json --pretrained random", "truth.json is not an open_clip model layout"),
    (f"{PREDICT} --pretrained afile", "weights afile do not load into tiny_clip"),
    (f"{PREDICT} --prompt 'a film'", "neither a preset (none, prompt1"),
    (f"{PREDICT} --prompt '{{}} {{}}'", "nor a template with exactly one {}"),
    (f"{PREDICT} --text nowhere.h5", "text embeddings nowhere.h5 not found"),
    (f"{PREDICT} --text afile", "afile cannot be read as HDF5 text embeddings"),
    # predict: numbers, ground truth, output
    (f"{PREDICT} --threshold 2", "--threshold must be at most 1, got 2"),
    (f"{PREDICT} --threshold -1", "--threshold must be at least 0, got -1"),
    (f"{PREDICT} --threshold nan", "--threshold must be at least 0, got nan"),
    (f"{PREDICT} --threshold x", "--threshold must be a number, got 'x'"),
    (f"{PREDICT} --stride 0", "--stride must be at least 1, got 0"),
    (f"{PREDICT} --stride 1.5", "--stride must be a whole number, got '1.5'"),
    (f"{PREDICT} --max-per-video 0", "--max-per-video must be at least 1, got 0"),
    (f"{PREDICT} --treshold 0.5", "no flag --treshold, did you mean '--threshold'?"),
    (f"{PREDICT} --out", "--out needs a value"),
    (f"{PREDICT} --out ''", "--out is empty; name a folder"),
    (f"{PREDICT} --out afile", "--out afile: afile is a file; name a folder"),
    (f"{PREDICT} --out afile/sub", "--out afile/sub: afile is a file; name a folder"),
    (f"{PREDICT} --ground-truth nowhere.json", "nowhere.json: no such file"),
    (f"{PREDICT} --ground-truth empty.json", "empty.json: not valid JSON"),
    (f"{PREDICT} --ground-truth videos/clip_a.mp4", "videos/clip_a.mp4: not valid JSON"),
    (f"{PREDICT} --ground-truth negative.json", "negative.json: video 'clip_a' has an action before its start: -5"),
    # report
    ("report", "PREDICTIONS, --annotations is missing"),
    ("report other.json", "--annotations is missing"),
    ("report other.json --anotations truth.json", "no flag --anotations, did you mean '--annotations'?"),
    ("report nowhere.json --annotations truth.json", "nowhere.json: no such file"),
    ("report folder --annotations truth.json", "folder"),
    ("report bin.json --annotations truth.json", "bin.json: not valid JSON"),
    ("report empty.json --annotations truth.json", "empty.json: not valid JSON"),
    ("report list.json --annotations truth.json", 'list.json: no "results" object'),
    ("report truth.json --annotations truth.json", 'truth.json: no "results" object'),
    ("report nan.json --annotations truth.json", "nan.json: clip_a, detection 1: segment [0.0, nan]"),
    ("report triple.json --annotations truth.json", "triple.json: clip_a, detection 1"),
    ("report stranger.json --annotations truth.json", "they belong to different data"),
    ("report nothing.json --annotations truth.json", "they belong to different data"),
    ("report header.csv --annotations truth.json", "header.csv: the header names video, start but not"),
    ("report words.csv --annotations truth.json", "words.csv row 2: t-end is 'one', not a number"),
    ("report other.json other.json --annotations truth.json", "given twice; give each once"),
    ("report other.json --annotations nowhere.json", "nowhere.json: no such file"),
    ("report other.json --annotations bad.json", "bad.json: not valid JSON"),
    ("report other.json --annotations list.json", 'list.json: no "database" object'),
    ("report other.json --annotations bin.json", "bin.json: not valid JSON"),
    ("report other.json --annotations negative.json", "has an action before its start"),
    (f"{REPORT} --out folder", "--out folder is a folder; name the page's file, such as folder/report.html"),
    (f"{REPORT} --out afile/x.html", "--out afile: afile is a file"),
    (f"{REPORT} --figures afile", "--figures afile: afile is a file; name a folder"),
    (f"{REPORT} --videos-dir nowhere", "--videos-dir nowhere: no such folder"),
    (f"{REPORT} --tious 1.5", "--tious must be at most 1, got 1.5"),
    (f"{REPORT} --tious 0", "--tious must be above 0, got 0"),
    (f"{REPORT} --tious x", "--tious must be a number, got 'x'"),
    (f"{REPORT} --tious nan", "--tious must be above 0, got nan"),
    (f"{REPORT} --tious 0.5 0.5", "must rise"),
    (f"{REPORT} --subset nope", "no video is in subset 'nope'; there are 'test'"),
    (f"{REPORT} --dataset thmos14", "thmos14"),
    (f"{REPORT} --dataset thumos14 --subset test", "--dataset sets subset and tIoUs"),
    (f"{REPORT} --split nowhere.yaml", "nowhere.yaml: no such split file"),
    (f"{REPORT} --split bad.yaml", "bad.yaml: not valid YAML"),
    (f"{REPORT} --split split.yaml --splits-dir x", "give --split FILE or --splits-dir DIR, not both"),
    (f"{REPORT} --splits-dir nowhere --index 0", "no published splits at nowhere/train_75_test_25"),
    (f"{REPORT} --splits-dir x", "--splits-dir needs --index"),
    (f"{REPORT} --index 0", "--index needs --splits-dir DIR"),
    (f"{REPORT} --index -1 --splits-dir x", "--index must be at least 0, got -1"),
    (f"{REPORT} --ratio 100 --splits-dir x --index 0", "--ratio must be below 100, got 100"),
    (f"{REPORT} --stages nowhere.json", "nowhere.json: no such file"),
    (f"{REPORT} --stages truth.json", "truth.json has version None"),
    (f"{REPORT} --stages a b", "--stages needs one file for each of the 1 predictions files"),
    # extract
    ("extract", "VIDEO, --out is missing"),
    ("extract videos", "--out is missing"),
    ("extract videos --ouut f.h5", "no flag --ouut, did you mean '--out'?"),
    ("extract nowhere.mp4 --out f.h5 $ENC", "video nowhere.mp4 not found"),
    ("extract https://example.org/clip.mp4 --out f.h5 $ENC", "download it first"),
    ("extract folder --out f.h5 $ENC", "folder folder holds no video"),
    ("extract @nowhere.txt --out f.h5 $ENC", "nowhere.txt: no such file"),
    ("extract @none.txt --out f.h5 $ENC", "no video in @none.txt"),
    (f"{EXTRACT} --out ''", "--out is empty"),
    (f"{EXTRACT} --out afile", "afile is a file that does not end in .h5"),
    (f"{EXTRACT} --out afile/f.h5", "--out afile: afile is a file; name a folder"),
    (f"{EXTRACT} --stride 0", "--stride must be at least 1, got 0"),
    (f"{EXTRACT} --stride x", "--stride must be a whole number, got 'x'"),
    (f"{EXTRACT} --batch-size 0", "--batch-size must be at least 1, got 0"),
    (f"{EXTRACT} --workers -1", "--workers must be at least 1, got -1"),
    (f"{EXTRACT} --seed -1", "--seed must be at least 0, got -1"),
    (f"{EXTRACT} --dtype int8", "--dtype int8 is unknown; choose float16, float32"),
    (f"{EXTRACT} --precision fp17", "--precision fp17 is unknown; choose auto, fp32, bf16"),
    (f"{EXTRACT} --precision bf17", "did you mean 'bf16'?"),
    (f"{EXTRACT} --projection mid", "--projection mid is unknown; choose post, pre"),
    (f"{EXTRACT} --decoder ffmpeg", "--decoder ffmpeg is unknown; choose pyav, torchcodec"),
    (f"{EXTRACT} --device gpu", "device 'gpu' is unknown; try cpu or cuda"),
    (f"{EXTRACT} --shard 1/2", "--shard needs a folder as --out, got the file f.h5"),
    (f"{EXTRACT} --out f --shard 3/2", "shard '3/2' is not i/n"),
    (f"{EXTRACT} --model ViT-B/17", "open_clip has no model 'ViT-B/17'"),
    (f"{EXTRACT} --pretrained nowhere.pt", "neither 'random', nor a file, nor a tag"),
    # prepare
    ("prepare", "dataset is missing"),
    ("prepare thmos14", "dataset thmos14 is unknown, did you mean 'thumos14'?"),
    ("prepare thumos14 --from nowhere --out t", "--from nowhere: no such folder"),
    ("prepare thumos14 --from folder --out t", "folder lacks Thumos14_annotations.json"),
    ("prepare thumos14 --from folder --out afile", "--out afile: afile is a file; name a folder"),
    ("prepare thumos14 --base-url nonsense --out t", "'nonsense'"),
    ("prepare thumos14 --features folder --out t", "--features needs --encoder NAME"),
    ("prepare thumos14 --features folder --simulate-features --encoder x", "exclude each other"),
    ("prepare thumos14 --encoder x", "--encoder needs --features DIR"),
    ("prepare thumos14 --limit 3", "--limit needs --simulate-features"),
    ("prepare thumos14 --simulate-features --limit 0", "--limit must be at least 1, got 0"),
    ("prepare thumos14 --num-train 3", "--num-train is for `psftr prepare synthetic`"),
    ("prepare thumos14 --stride 0 --features folder --encoder x", "--stride must be at least 1, got 0"),
    ("prepare synthetic --out t --dim 8", "--dim must be at least 64, got 8"),
    ("prepare synthetic --out t --num-test 0", "--num-test must be at least 1, got 0"),
    ("prepare synthetic --out t --seed -1", "--seed must be at least 0, got -1"),
    ("prepare synthetic --out t --from folder", "--from is for real data sets"),
    ("prepare synthetic --out t --limit 3", "--limit is for real data sets"),
    ("prepare synthetic --out afile", "--out afile: afile is a file; name a folder"),
    # bench
    ("bench", "WHAT is missing"),
    ("bench op", "WHAT op is unknown, did you mean 'ops'?"),
    ("bench ops --rounds 0", "--rounds must be at least 1, got 0"),
    ("bench ops --threads x", "--threads must be a whole number, got 'x'"),
    ("bench ops --device nonsense", "device 'nonsense' is unknown"),
    ("bench train-step --precision fp17", "--precision fp17 is unknown; choose fp32, bf16"),
    ("bench extract nowhere.mp4 $ENC", "video nowhere.mp4 not found"),
    ("bench ap --quick --json folder", "--json folder is a folder; name a file"),
    ("bench ap --quick --json afile/x.json", "--json afile: afile is a file"),
    # evaluate, of a predictions file
    ("evaluate predictions=other.json", "predictions=FILE needs annotations=FILE"),
    ("evaluate predictions=nowhere.json annotations=truth.json", "nowhere.json: no such file"),
    ("evaluate predictions=other.json annotations=nowhere.json", "nowhere.json: no such file"),
    ("evaluate predictions=bin.json annotations=truth.json", "bin.json: not valid JSON"),
    ("evaluate predictions=nan.json annotations=truth.json", "nan.json: clip_a, detection 1: segment [0.0, nan]"),
    ("evaluate predictions=stranger.json annotations=truth.json", "they belong to different data"),
    ("evaluate predictions=words.csv annotations=truth.json", "words.csv row 2: t-end is 'one', not a number"),
    ("evaluate predictions=other.json annotations=negative.json", "has an action before its start"),
    (f"{EVALUATE} subset=nope", "no video is in subset 'nope'; there are 'test'"),
    (f"{EVALUATE} tious=[1.5]", "1.5"),
    (f"{EVALUATE} tious=[0]", "0"),
    (f"{EVALUATE} tious=0.5", "tious must be a list of a number, got 0.5"),
    (f"{EVALUATE} tious=[]", "tious"),
    (f"{EVALUATE} protocol=pear", "protocol=pear is unknown, did you mean 'peer'?"),
    (f"{EVALUATE} split.kind=file", "split.file"),
    (f"{EVALUATE} split.kind=file split.file=nowhere.yaml", "nowhere.yaml: no such split file"),
    (f"{EVALUATE} out=afile", "afile"),
    (f"{EVALUATE} run=x", "run"),
    (f"{EVALUATE} frobnicate=1", "no config key 'frobnicate'"),
    ("evaluate", "nothing given: say one of run=DIR"),
    ("evaluate folder", "cannot read the override 'folder': write key=value, such as run=folder"),
    ("evaluate run=nowhere", "no folder nowhere: give a run or a multirun folder"),
    ("evaluate method=foo", "no configuration 'method=foo'; method is one of: "),
    # train: settings
    ("train frobnicate", "cannot read the override 'frobnicate': write key=value"),
    ("train trainer.max_epoch=3", "no config key 'trainer.max_epoch', did you mean 'trainer.max_epochs'?"),
    ("train epochs=10", "no config key 'epochs', did you mean 'trainer.max_epochs'?"),
    ("train lr=0.1", "no config key 'lr', did you mean 'optimizer.lr'?"),
    ("train batch_size=4", "no config key 'batch_size', did you mean 'data.batch_size'?"),
    ("train +foo=1", "no config key 'foo'"),
    ("train method=psfrt", "did you mean 'psftr'?"),
    ("train dataset=thmos14", "no configuration 'dataset=thmos14', did you mean 'thumos14'?"),
    ("train data.batch_size=0", "data.batch_size must be at least 1, got 0"),
    ("train data.workers=-1", "data.workers must be at least 0, got -1"),
    ("train data.val_fraction=1", "data.val_fraction must be below 1, got 1"),
    ("train trainer.max_epochs=0", "trainer.max_epochs must be at least 1, got 0"),
    ("train trainer.max_epochs=1.5", "trainer.max_epochs=1.5: Value '1.5' of type 'float' could not be converted"),
    ("train trainer.threads=0", "trainer.threads must be at least 1, got 0"),
    ("train trainer.ema_decay=2", "trainer.ema_decay must be below 1, got 2"),
    ("train trainer.gradient_clip=0", "trainer.gradient_clip must be above 0, got 0"),
    ("train trainer.progress=bar", "progress=bar is unknown, did you mean 'bars'?"),
    ("train optimizer.lr=-1", "optimizer.lr must be above 0, got -1"),
    ("train optimizer.lr=fast", "optimizer.lr=fast: Value 'fast' of type 'str' could not be converted to Float"),
    ("train split.kind=foo", "kind=foo is unknown; choose published, random, file"),
    ("train split.ratio=100", "split.ratio must be below 100, got 100"),
    ("train checkpoint.rule=best", "rule=best is unknown; choose last, best-seen-val"),
    ("train protocol=pear", "protocol=pear is unknown, did you mean 'peer'?"),
    ("train seed=-1", "seed must be at least 0, got -1"),
    # train: what Lightning would refuse
    ("train trainer.precision=fp17", "Lightning cannot train with trainer.precision=fp17: Precision 'fp17' is invalid"),
    ("train trainer.accelerator=foo", "Lightning cannot train with trainer.accelerator=foo"),
    ("train trainer.strategy=foo", "Lightning cannot train with trainer.strategy=foo"),
    ("train trainer.accelerator=cpu trainer.devices=0", "trainer.devices=0"),
    ("train trainer.accelerator=cpu trainer.devices=x", "trainer.devices=x"),
    ("train trainer.accelerator=cpu trainer.devices=9999", "trainer.devices=9999: that many processes"),
    ("train resume=nowhere", "nothing to resume in nowhere"),
    ("train resume=folder trainer.max_epochs=3", "resume takes its configuration from the folder"),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with something of every kind in it."""
    folder = tmp_path_factory.mktemp("place")
    (folder / "videos").mkdir()
    (folder / "folder").mkdir()
    for name, count in (("clip_a", 60), ("clip_b", 40)):
        numbered_clip(folder / "videos" / f"{name}.mp4", count=count)
    save_tiny(folder / "model", tiny_identity(), config={"window": {"size": 16}})
    actions = (Action(0.2, 1.0, "high jump"), Action(1.2, 2.0, "pole vault"))
    early = (Action(-5.0, 1.0, "high jump"), *actions)
    for name, annotated in (("truth", actions), ("negative", early)):
        videos = {video: Video(video, "test", 2.4, 25.0, annotated) for video in ("clip_a", "clip_b")}
        write_annotations(folder / f"{name}.json", Annotations(videos))
    detection = {"segment": [0, 1], "label": "high jump", "score": 0.5}
    files = {
        "other.json": json.dumps({"results": {"clip_a": [detection]}}),
        "stranger.json": json.dumps({"results": {"clip_x": [detection]}}),
        "triple.json": json.dumps({"results": {"clip_a": [{**detection, "segment": [0, 1, 2]}]}}),
        "nan.json": json.dumps({"results": {"clip_a": [{**detection, "segment": [0, float("nan")]}]}}),
        "nothing.json": json.dumps({"results": {}}),
        "list.json": "[1]",
        "empty.json": "",
        "bad.json": "{",
        "run.json": "{}",
        "header.csv": "video,start\n1,2\n",
        "words.csv": "video-id,t-start,t-end,label,score\nclip_a,0,one,high jump,0.5\n",
        "names.txt": "high jump\n",
        "none.txt": "# nothing\n",
        "bad.yaml": "a: [",
        "split.yaml": "seen: [high jump]\nunseen: [pole vault]\n",
        "afile": "x",
        "bad.mp4": "no video",
    }
    for name, text in files.items():
        (folder / name).write_text(text)
    (folder / "latin.txt").write_bytes("café\n".encode("latin-1"))
    (folder / "bin.json").write_bytes(bytes(range(256)))
    torch.save({"a": 1}, folder / "other.ckpt")
    (folder / "evil.ckpt").write_bytes(pickle.dumps(np.array([object()])))
    warm = (["predict", "bad.mp4", "--labels", "x", *ENCODER], ["evaluate"], ["train", "trainer.strategy=foo"])
    for arguments in warm:  # imports are not the mistakes' time
        psftr(*arguments, cwd=folder, check=False)
    return folder


def contents(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


@pytest.mark.parametrize(("typed", "told"), MISTAKES, ids=[typed for typed, _ in MISTAKES])
def test_a_mistake_costs_one_line(place, typed, told):
    arguments = shlex.split(typed.replace("$ENC", shlex.join(ENCODER)))
    before, started = contents(place), time.process_time()
    done = psftr(*arguments, cwd=place, check=False)
    took = time.process_time() - started
    assert done.returncode == 2, done.stdout
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith(f"psftr {arguments[0]}: error: ")
    assert told in done.stderr
    assert "weights_only" not in done.stderr, "never PyTorch's advice to load unsafely"
    assert contents(place) == before
    assert took < MOST_S


@contextlib.contextmanager
def full_disk(most: int):
    """No file may grow past `most` bytes: what a full disk does to a program, without filling one."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)


@pytest.mark.parametrize(
    ("typed", "most"),
    [
        ("extract videos --out full.h5 $ENC", 100),
        ("extract videos --out full $ENC", 100),
        ("predict videos --labels 'high jump' --out full $ENC", 100),
        ("predict --features kept --labels 'high jump' --out full $ENC", 100),
        ("predict --features kept --labels 'high jump' --out full $ENC", 10_000),  # the picture does not fit
        (f"{REPORT} --out full/report.html", 100),
        ("prepare synthetic --out full --num-train 4 --num-test 4", 100),
        ("prepare synthetic --out full --num-train 4 --num-test 4", 20_000),  # the annotations fit, features do not
    ],
)
def test_a_full_disk_is_one_line_and_never_a_success(place, typed, most, capfd):
    if "kept" in typed and not (place / "kept").exists():
        psftr("extract", "videos", "--out", "kept", *ENCODER, cwd=place)
    arguments = shlex.split(typed.replace("$ENC", shlex.join(ENCODER)))
    with full_disk(most):
        done = psftr(*arguments, cwd=place, check=False)
    assert not (place / "full").exists() or not typed.startswith("prepare")
    shutil.rmtree(place / "full", ignore_errors=True)
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith(f"psftr {arguments[0]}: error: ")
    assert "File too large" in done.stderr
    assert capfd.readouterr() == ("", ""), "what HDF5 prints by itself"
