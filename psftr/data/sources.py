"""Where annotations and split lists are published: public repositories, pinned by commit and by SHA-256."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


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


_GAP = ("Run542968/GAP", "e188a16379582a2587ce5adee35a7485ddd5896c")
_BSN = ("wzmsltw/BSN-boundary-sensitive-network", "f13707fbc362486e93178c39f9c4d398afe2cb2f")


def _split_lists(pins: str, directory: str) -> tuple[RemoteFile, ...]:
    """Lines "train_75_test_25/train", each followed by the SHA-256 of its ten lists, as files of GAP's repository."""
    files, folder, index = [], "", 0
    for line in pins.split():
        if "/" in line:
            folder, index = line, 0
            continue
        ratio, side = folder.split("/")
        name = f"split_{index}.list"
        path = f"splits/{ratio}/{directory}/{side}/{name}"
        files.append(RemoteFile(*_GAP, path, line, f"splits/{folder}/{name}"))
        index += 1
    return tuple(files)


# SHA-256 of the published lists, split_0.list to split_9.list of each folder.
_THUMOS14_SPLITS = """
train_75_test_25/train
58e9b772abf6c63da909c8870d4401334d6297cdf6b38fe4c562dfd324055f49
265a5f01ddd2865f8011cc55a46d7cff053bf12f1516e318f558c30c43484a53
3750e0293bb4e7876ff32b582e9c93f92fc3c3b5bb69bb838ea185f7b0ce1801
32c2d8aa859638cb7db022ef84cf82b34427601a9513431c894409bee5faaab4
e84255d77164967d389569139ba3815ae3b31eebf25a5456ce1f7e7abf91f0fc
a6e80c72e813a7a65c585e35965062e17dbf85a4f484e41607ea53add241c620
b2b5831a11a968d9abd225e28a86e86150dfc7487cad74d3e015d16fbbfdd6fa
d4349451bba146e6f61895b842fcef14455f6506e945f94fb827b27922e895b6
6090f9038cc9a83b7a7e3fe112294d7f3cfd3309d21f11740637289b45687c00
524743c2cd7fced542e808aa56cb7aaeccb24accf16d5c887462516956d860b6
train_75_test_25/test
6870794e48e556d535cd90d0228a438141b9bc2e32592b60d2922b1aa95422e8
67db3de6d9d140b9506448190a65941cfa89dade05568f544265ac27863a11a0
1aa8b4d633f927cad9019a27b114368075c2be512599326b33d36440e140299b
c742bcad905c146ffb902bbd9c9829c4ddc6bb4922e263a4099b957901e52c66
913328eef06e0de2fdf8a15c2543696833c3f69ef65792ee36dd50a38f00d660
dd6ec44bed98e40691bf1aa6cdcfadfd9ba24e80a6baea2c6ab5e0b0e8fb61f5
b78efcc21cce487efc0b68ce573e98bd9b6fba99150584a4d27c49cbc3f6edbe
4ab7d71e60a09317185fff4ebb96720611c661a1892a83741d418b215d400877
ea515ff63e6acad671e40d4967865e928c43dcfb2d50b63b378179c58bb2fe5d
a6fdf23743ce562816f04d9cc4205dba5fc6860dffcae0454ad695ad62e0dce4
train_50_test_50/train
0b38f087da31720f7da9177d92a6222bf17ebb669c889693f5b937589c8954d7
4e855c3545bfdd1074ff999b5f96d579e4a88cb2dd859575160e62675a7b2c67
fdbfccec16c1aee95f89cebed6dd519546c02ae05294070387982f740f61a85a
a7c2768e464dd6461f5c77ea1844df3b1d338738f231fe3a822a1029a83f6e0a
d60ea3e56ea68359b6a46ef3a4e45f20e03799f11bcde2bf1fa7022e953bcd36
3c0afdf11eb482448974d9226480a686aa91a0f6d2f56bcb922bf729141b9240
a870a6fe15d6560cd26b5ddc44c0b0701e328f1e099590073482217a160270ec
8d8df1eea9b195686940bfe31b0eda26be12681ce334eecf15d118b289e57632
3da0e28c168a33ec2de292c1d9697e7f705269394f37b23b0acf968f5109e3ba
379ef172e00d6cba4e5ed3cd894a4ade4d0256f0422d005d5bc90cda72995fa4
train_50_test_50/test
26cc49a8a56b2c8b65d7e224652b772bbabc0c37205aa13aa39b3702376c496e
8383b1f25203941e54daa6d87db96bb146e034814745dbd708f93b7e59dc0303
99a6f246a35d84eb3ce1a4878c5dab6d3a0a8472ec9891fa6325ec73a493ebba
5a3c296af91590f7474fefbf5572ba2746ae2253175edbcf909da6356750f974
bcee282d594d29e344bd3d252ccd8fd419401b6cd05a5e612e96f108f5ed4142
f0157305dcf3f8b3b82f13616fa25f887c11ad49509a9cacc22205d8c2a7a69d
8cf37df68fa5ac06d603d6f862db674fd08ae79b456416678fe2cb586197b810
16bcbe5407bed7b8d7908bb9280d3d01cfaf7335e325e1dfd8211b399a17495d
67c39be0db7e948075838e01348a2dcb77c6d4a495eb7214ac98b647e901f4ae
c46f3cd0de268309eaf8d315c905e022226e9fcd4822208a0d87aa31661d5c2a
"""

_ACTIVITYNET13_SPLITS = """
train_75_test_25/train
9db83d6994cd44700c2e4444b5fb0eb21ffcf1fcc3af9d5132ea59376e93c57e
700cfe92b25e3e3c3e7a320fd13a3d665bfe7a9a4e8de2ae7108540d3a9de2f1
32b8f7ab78b5d083d42a23b4f8f1683eb32bbc775fe25bcf70d4960f2a23a18e
3263a2dc0b80ffa1764fa0d201597d8a27da1ff9613b5e6545a7b315c4fc47a1
bb6cd3f300c8733e5ef6b44f81d4c888f7ea39340e9af8c3817ba711ea156d92
cfbcbfd32491edfdae2ceda269033619f5be1cec92975dfa6ae1e359d2c640e7
65399444b07c526cb304bf4b4a89f4d9f115ed27d650cedc0f371cddffd669f4
d149baeb88c33f1eb2a0252a8272e07144661d10a0620b92ad832b49b44e4547
9af93d7850948a1d8b9129e8e1caef7eb232a28f7ee4e0cad2d0c9cc8a22ce3c
67ae79d3a41eb7e560b352b924342e3819b39ee84b6af73f929ecb362d574ecf
train_75_test_25/test
cef36b213b7220fdcfadaa214ba5d643ffec8ef4fc82925779d34c7def3ad415
f1ae4e5aa855d7565fba6ab9f07924a1504617471d527ce47796f99baa7c6ba1
aec7f46d371306fdf5e673f30b20eb265f8355e30cdb25734e0d388aa5bee673
1c1f11a9acd3ca54e8291176c183e11e410b90c768ae752710816c26f1795fb6
8565d105b5006c7e3a24ee4af1e1c53333ae5d1dcfeeb51b92e901f61b90d4a6
5ca1911d5e37d0ee154ce5c9905339c253e3b51aa07aba2f21f26239c16ca18b
7c1638d76248bfc2fbfc67a043395ac5841219e59baa7079ac0bb8f10b6a154f
91ed386e7aebb849d986419897f4ab45026dde88f7195f934fcaee17604aff55
6614aeb8591421ee0c1f6621d9c1f9bc4a04fba69593488928b06102cd2e6987
ac2a77aadd43f97128ee181cd1ed03197d4ae49f240d972e8846a3ebc7f2883b
train_50_test_50/train
bfd58856f9aa77d545ccd4b9372c61da5f5f4b836aecd3f9171459d8fb79da90
1e8aed968e748a366a4c7c0c905d91783e36ea44d07a7a5af2493788f1773dfe
55f7d666e90b1556959aa23b55461416f02617947bbbf0ffebd46a6cf2047e16
1c06f6de106d904c695f3c0c31417d045b30be1fb9626524bbddf1886fef87a2
bd3b916dcc50ba170e2b141f2bc4ff20bbb735f32893e0396d8f2598206b89e6
fa8460f93849a81dd4be6d35272fa38e4e1350727b14a0d9e869ab4ec7afa974
04f07292fad51e9da4b6a3f532166ef08b2811a573419fe8108c585bd829c70a
bf13274d33d5f21cf932c0560a41d92e20f9bfc7d7dd56bc527b5e87dcceedeb
8ab67ef8d2440097e37c0b4a9f01088dcc23e003b12ba88b6c966aff05e05433
5f44a0992e6b5025bac6b4fee46a140956612398662dbe08436744663c564dc8
train_50_test_50/test
d9ddf64fd007629aad6a94e98167efe27b39d7a37c2105cd6637a057070f19a8
7dcc8a5f92488f47bb8068ec206653e0d5ef26498b4a08ccb7716c9a1c4eb022
8615a935ae2c553693b84291c5ff20ece20a8e572fcc119c7fde1e4f574c993a
68acba0affcae6ed5fccbda86d5c5ebbacfa1202e3bf16196c31e791f3dd7986
7869f935f6405b1ed6b419e25c3be55acae9f4c06bc1252ef56b9b7099e0c8c0
228d8be47b9e3f49613a851d793284b071bb0923b6c27c6cfcf48c9499adc77d
232886793fb36907f421f4e21a5d8fd2ca42eb36e35a78a814b371d4194cfc02
f5b82de5d940b2cf8e09a4b7764a883573ba2f61a839de58cbee9097d9e3a9d3
fae4acd2ab58b76007d2d54f8c78ffd33132f44bc911c0f41623da92958e07b8
8a7356f1e2a068ff74f4dd0d2fd7b51895e2a914d58a8fed72a772d059a40b2a
"""

THUMOS14 = Source(
    files=(
        RemoteFile(
            *_GAP,
            "data/Thumos14/Thumos14_annotations.json",
            "fae6ec673817f218f2f84ebfd0beebb03c67d2add51ab18283102d2321ddd593",
            "Thumos14_annotations.json",
        ),
        RemoteFile(
            *_GAP,
            "data/Thumos14/CLIP/Thumos14_info_8frame.json",
            "a47418255dc5a5fb8468787c7ee76d10a0d4badc1c4d52c3670b5ab2f7cea680",
            "Thumos14_info_8frame.json",
        ),
        *_split_lists(_THUMOS14_SPLITS, "THUMOS14"),
    ),
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
    files=(
        RemoteFile(
            *_BSN,
            "data/activitynet_annotations/anet_anno_action.json",
            "fa1433d2408f7985dd8f5914f292944794230ee2279633ad6013f16d7f9725e7",
            "anet_anno_action.json",
        ),
        RemoteFile(
            *_BSN,
            "data/activitynet_annotations/video_info_new.csv",
            "13086bc4e870e2be4e71895847f077e9a97566231c3ef429bf46881796235d92",
            "video_info_new.csv",
        ),
        RemoteFile(
            *_GAP,
            "data/ActivityNet13/CLIP/ActivityNet13_info.json",
            "541c0cd69a65cda323c530d3c82fa8eb0b598cb21d9427df641fdee41c9c4f01",
            "ActivityNet13_info.json",
        ),
        *_split_lists(_ACTIVITYNET13_SPLITS, "ActivityNet"),
    ),
    annotation_files=("activity_net.v1-3.subset.json", "activity_net.v1-3.min.json", "anet_anno_action.json"),
    annotation_sha256="8714e094a4c5346b1c53caf5ff99bf889e6e9e0178937a582350bc2da6885ad1",
    info_file="ActivityNet13_info.json",
    stride=16,
    num_videos={"training": 9649, "validation": 4728, "testing": 4851},
    num_actions={"validation": 7293},
    num_classes=200,
)
