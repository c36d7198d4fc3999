"""Where annotations and split lists are published: public repositories, each file pinned by commit and SHA-256."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """One file of a repository at a commit, and the name it gets here."""

    repository: str
    commit: str
    path: str
    sha256: str
    name: str

    def url(self, base_url: str) -> str:
        return f"{base_url.rstrip('/')}/{self.repository}/{self.commit}/{self.path}"


@dataclass(frozen=True, kw_only=True)
class Source:
    """What is published about a data set.

    files: all that `psftr prepare` downloads. annotation_files: names looked for in a folder, best first;
    annotation_sha256: of the one that is published in ActivityNet's own layout. info_file: frame rate and length of
    every video; stride: frames per feature row that it counts. num_videos, num_actions: by subset, as published.
    """

    files: tuple[RemoteFile, ...]
    annotation_files: tuple[str, ...]
    annotation_sha256: str
    info_file: str
    stride: int
    num_videos: Mapping[str, int]
    num_actions: Mapping[str, int]
    num_classes: int


def _pinned(dataset: str) -> tuple[RemoteFile, ...]:
    """The files of a data set in published.sha256: below "# DATASET REPOSITORY COMMIT", lines "SHA-256  PATH"."""
    files = []
    text = resources.files("psftr.data").joinpath("published.sha256").read_text(encoding="utf-8")
    for line in text.splitlines():
        if line.startswith("#"):
            name, repository, commit = line.removeprefix("#").split()
        elif name == dataset:
            sha256, path = line.split()
            *folders, leaf = path.split("/")
            # GAP keeps the lists of a data set in splits/RATIO/DATASET/SIDE/
            local = f"splits/{folders[1]}/{folders[3]}/{leaf}" if folders[0] == "splits" else leaf
            files.append(RemoteFile(repository, commit, path, sha256, local))
    return tuple(files)


THUMOS14 = Source(
    files=_pinned("thumos14"),
    annotation_files=("Thumos14_annotations.json",),
    annotation_sha256="fae6ec673817f218f2f84ebfd0beebb03c67d2add51ab18283102d2321ddd593",
    info_file="Thumos14_info_8frame.json",
    stride=8,
    num_videos={"val": 200, "test": 213},
    num_actions={"val": 3007, "test": 3358},
    num_classes=20,
)

# The layout of BSN's two files is not ActivityNet's own: prepare.py rewrites them.
ACTIVITYNET13 = Source(
    files=_pinned("activitynet13"),
    annotation_files=("activity_net.v1-3.subset.json", "activity_net.v1-3.min.json", "anet_anno_action.json"),
    annotation_sha256="8714e094a4c5346b1c53caf5ff99bf889e6e9e0178937a582350bc2da6885ad1",
    info_file="ActivityNet13_info.json",
    stride=16,
    num_videos={"training": 9649, "validation": 4728, "testing": 4851},
    num_actions={"validation": 7293},
    num_classes=200,
)
