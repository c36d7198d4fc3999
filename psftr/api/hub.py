"""save_pretrained, from_pretrained and push_to_hub, by huggingface_hub's own mixin, with a model card of the facts."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from huggingface_hub import ModelCard, ModelHubMixin, snapshot_download

from psftr.checkpoints import CONFIG, WEIGHTS, Saved
from psftr.errors import PsftrError
from psftr.predictions import CHECKPOINT_PEER, MARKS, marks_of

CARD = """\
---
{{ card_data }}
---

# {{ title }}

Finds actions, named in plain words, in untrimmed videos: their times and scores. The class names need not be among
those of its training. Made with psftr {{ facts.code_version }}.
{% for warning in warnings %}

> **{{ warning }}**
{% endfor %}

```python
import psftr
result = psftr.load("hf://{{ repo_id }}").predict("clip.mp4", labels=["high jump", "pole vault"])
```

| | |
|---|---|
{% for topic, told in rows -%}
| {{ topic }} | {{ told }} |
{% endfor %}
It takes features of this encoder only; `psftr` extracts them from a video by itself. No score is stated here: `psftr
evaluate` makes one, on the unseen classes of the split above.
"""


class HubModel(
    ModelHubMixin,
    library_name="psftr",
    tags=["temporal-action-localization", "zero-shot", "video"],
    model_card_template=CARD,
):
    """What a `Model` has of the Hugging Face hub; `Model` says what it holds, and how it is loaded."""

    _hub_mixin_config: ClassVar[dict[str, Any]] = {}  # type: ignore[misc]  # config.json is ours, with all facts
    saved: Saved | None

    @classmethod
    def _load(cls, path: str | os.PathLike[str], **how: Any) -> Any:
        raise NotImplementedError

    @classmethod
    def _from_pretrained(
        cls,
        *,
        model_id: str,
        revision: str | None,
        cache_dir: str | Path | None,
        force_download: bool,
        local_files_only: bool,
        token: str | bool | None,
        **model_kwargs: Any,
    ) -> Any:
        folder: str | Path = Path(model_id)
        if not Path(model_id).is_dir():
            folder = snapshot_download(
                model_id,
                revision=revision,
                cache_dir=cache_dir,
                force_download=force_download,
                local_files_only=local_files_only,
                token=token,
                allow_patterns=[WEIGHTS, CONFIG],
            )
        return cls._load(folder, **model_kwargs)

    def _save_pretrained(self, save_directory: Path) -> None:
        self._trained().write(save_directory)

    def push_to_hub(self, repo_id: str, **how: Any) -> str:
        """Upload weights, facts and model card; returns the commit's address. Arguments as the mixin's."""
        self._trained()
        return super().push_to_hub(repo_id, **{"model_card_kwargs": {"repo_id": repo_id}, **how})

    def generate_model_card(self, *args: Any, **words: Any) -> ModelCard:
        facts = self._trained().facts
        made = {"repo_id": "USER/REPOSITORY", "title": f"{facts['method']}, trained with psftr", **words}
        return ModelCard.from_template(
            card_data=self._hub_mixin_info.model_card_data,
            template_str=self._hub_mixin_info.model_card_template,
            facts=facts,
            rows=[(topic, _cell(told)) for topic, told in card_rows(facts)],
            warnings=card_warnings(facts),
            **made,
        )

    def _trained(self) -> Saved:
        if self.saved is None:
            raise PsftrError("a method without training has no weights to save; load a trained model")
        return self.saved


def card_rows(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What a checkpoint knows about itself, by topic; unknown topics are left out."""
    split, text, training = (facts.get(key) or {} for key in ("split", "text", "training"))
    where = f"{split.get('dataset')}, {split.get('source')} split {split.get('ratio')}/{split.get('index')}"
    counts = ", ".join(f"{training[name]} {name}" for name in ("videos", "actions", "windows") if name in training)
    rows = [
        ("method", facts.get("method")),
        ("encoder of the frames", facts.get("encoder")),
        ("prompt", text.get("prompt")),
        ("trained on", where if split else None),
        ("training data", counts),
        ("checkpoint", facts.get("checkpoint_rule")),
        ("classes seen in training", ", ".join(facts.get("train_classes") or ())),
        ("unseen classes of its split", ", ".join(split.get("unseen") or ())),
    ]
    return [(topic, str(told)) for topic, told in rows if told]


def card_warnings(facts: Mapping[str, Any]) -> list[str]:
    marks = marks_of(str(facts.get("encoder")), synthetic=bool(facts.get("synthetic")))
    told = [f"{mark}: {MARKS[mark]}." for mark in marks]
    if facts.get("checkpoint_rule") == CHECKPOINT_PEER:
        told.append("PEER PROTOCOL: the checkpoint was chosen on the test classes.")
    return told


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", r"\|")
