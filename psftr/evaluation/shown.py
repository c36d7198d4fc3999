"""Which detections are shown first: one threshold for page, subtitles, pictures and the printed table."""

from __future__ import annotations

from psftr.predictions import Predictions

SHARE_OF_BEST = 0.5
MOST_ON_AVERAGE = 10  # detections per video


def shown_from(predictions: Predictions) -> float:
    """The least score that is shown.

    It is the threshold that the file was made with, if it says so. Else it is half the file's best score, or more where
    more than `MOST_ON_AVERAGE` detections per video would be left.
    """
    made = predictions.provenance
    stated = made.config.get("threshold") if made and "labels" in made.config else None
    if isinstance(stated, int | float):
        return float(stated)
    scores = sorted((d.score for found in predictions.detections.values() for d in found), reverse=True)
    limit = MOST_ON_AVERAGE * len(predictions.detections)
    if not scores:
        return 0.0
    least = SHARE_OF_BEST * scores[0] if scores[0] > 0 else scores[-1]
    return max(least, scores[limit - 1]) if len(scores) > limit else least


def threshold_text(predictions: Predictions, asked: float | None = None) -> str:
    """The words that go with it: "shown: those with a score of 0.42 or more (…)". asked: in place of the rule."""
    made = predictions.provenance
    stated = asked is not None or (made and "labels" in made.config and made.config.get("threshold") is not None)
    why = "--threshold" if stated else f"half the best, or {MOST_ON_AVERAGE} per video if that is fewer"
    least = shown_from(predictions) if asked is None else asked
    return f"shown: those with a score of {least:.3g} or more ({why})"
