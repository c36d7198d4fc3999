"""The layout of the code holds (tools/check_house.py), and what checks it finds what it should."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def check_house() -> ModuleType:
    spec = importlib.util.spec_from_file_location("check_house", REPOSITORY / "tools" / "check_house.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["check_house"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def house(check_house):
    return check_house.House(REPOSITORY)


@pytest.mark.parametrize("check", ["cycles", "ranks", "door", "private", "defaults"])
def test_the_house_is_in_order(house, check_house, check):
    found = list(check_house.CHECKS[check](house))
    assert not found, "\n".join(found)


SETTINGS = """
@dataclass(frozen=True, kw_only=True)
class Small(Checked):
    size: int = setting(16, "rows")
    rule: str | None = setting(None, "a rule")

@dataclass(frozen=True, kw_only=True)
class Whole(Checked):
    small: Small = group(Small)
    share: float = setting(0.5, "a share")
"""

CASES = {
    "two files": (
        "cycles",
        {"psftr/data/a.py": "def f():\n    from psftr.data import b", "psftr/data/b.py": "from psftr.data.a import f"},
        ["import each other: psftr/data/a.py -> psftr/data/b.py -> psftr/data/a.py"],
    ),
    "types only": (
        "cycles",
        {
            "psftr/data/a.py": "if TYPE_CHECKING:\n    from psftr.data.b import B",
            "psftr/data/b.py": "from psftr.data.a import f",
        },
        [],
    ),
    "upwards": (
        "ranks",
        {"psftr/data/a.py": "if TYPE_CHECKING:\n    from psftr.engine.runs import Run"},
        ["psftr/data/a.py:2: data imports psftr.engine.runs, which is not below it"],
    ),
    "sideways": (
        "ranks",
        {"psftr/api/a.py": "import psftr.bench.b", "psftr/methods/one/a.py": "from psftr.methods.two import b"},
        [
            "psftr/api/a.py:1: api imports psftr.bench.b, which is not below it",
            "psftr/methods/one/a.py:1: a method imports another, psftr.methods.two.b",
        ],
    ),
    "downwards": (
        "ranks",
        {"psftr/data/a.py": "from psftr.errors import E", "psftr/methods/one/a.py": "from psftr.methods import Method"},
        [],
    ),
    "a new room": (
        "ranks",
        {"psftr/attic.py": ""},
        ["psftr/attic.py: attic is a new room; give it a rank in tools/check_house.py"],
    ),
    "hydra below the door": (
        "door",
        {
            "psftr/cli/a.py": "import hydra",
            "psftr/data/a.py": "def f():\n    from hydra.utils import instantiate\n    import_module('omegaconf')",
        },
        [
            "psftr/data/a.py:2: imports hydra.utils; only psftr/cli may",
            "psftr/data/a.py:3: imports omegaconf; only psftr/cli may",
        ],
    ),
    "private names": (
        "private",
        {"psftr/data/a.py": "from psftr.data.b import _x, y\nfrom psftr.data import b\nb._z()\nb.__name__"},
        ["psftr/data/a.py:1: imports _x of psftr.data.b", "psftr/data/a.py:3: uses b._z"],
    ),
    "second defaults": (
        "defaults",
        {
            "psftr/settings.py": SETTINGS,
            "psftr/data/a.py": (
                "def f(x, size=8, *, share=0.5, rule=None, other=3): ...\n"
                "@dataclass\nclass A:\n    rule: str = 'first'\n"
                "parser.add_argument('--size', default=4)\nfacts.get('share', 1.0)\nf(size=2)\n"
            ),
        },
        [
            "psftr/data/a.py:1: size=8 is a second default of a setting",
            "psftr/data/a.py:1: share=0.5 is a second default of a setting",
            "psftr/data/a.py:4: rule='first' is a second default of a setting",
            "psftr/data/a.py:5: size=4 is a second default of a setting",
            "psftr/data/a.py:6: share=1.0 is a second default of a setting",
        ],
    ),
    "a key declared twice": (
        "defaults",
        {
            "psftr/settings.py": SETTINGS,
            "psftr/methods/one/settings.py": (
                "class One(Checked):\n    share: float = setting(0.6, 'again')\n    small: Small = group(Small)"
            ),
        },
        ["settings:share is declared in One and Whole"],
    ),
    "defaults in conf": (
        "defaults",
        {
            "psftr/settings.py": SETTINGS,
            "conf/small/one.yaml": "size: 16\nrule: last\n",
            "conf/run.yaml": "defaults: [small: one]\nshare: 0.25\nsmall: {size: 16}\n",
            "conf/experiment/a.yaml": "# @package _global_\nshare: 0.5\n",
        },
        [
            "conf/experiment/a.yaml: share=0.5 is the default of Whole",
            "conf/run.yaml: small.size=16 is the default of Small",
            "conf/small/one.yaml: small.size=16 is the default of Small",
        ],
    ),
}


@pytest.mark.parametrize(("check", "files", "expected"), CASES.values(), ids=CASES)
def test_it_finds(check_house, tmp_path, monkeypatch, check, files, expected):
    monkeypatch.setattr(check_house, "EXEMPT", {})
    stubs = ["psftr/engine/runs.py", "psftr/bench/b.py", "psftr/methods/two/b.py", "psftr/data/b.py", "psftr/errors.py"]
    for name, text in (dict.fromkeys(stubs, "") | files).items():
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    found = list(check_house.CHECKS[check](check_house.House(tmp_path)))
    assert sorted(found) == sorted(expected)


def test_exemptions_are_few_and_used(check_house, tmp_path, monkeypatch):
    (tmp_path / "psftr").mkdir()
    (tmp_path / "psftr" / "settings.py").write_text(SETTINGS)
    (tmp_path / "psftr" / "files.py").write_text("def f(size=8, share=0.5): ...")
    monkeypatch.setattr(check_house, "EXEMPT", {"psftr/files.py:s*": "other things", "psftr/gone.py:size": "?"})
    found = list(check_house.CHECKS["defaults"](check_house.House(tmp_path)))
    assert found == ["psftr/gone.py:size is exempt in tools/check_house.py but not found"]
