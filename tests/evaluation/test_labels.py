"""Labels that differ only in spelling."""

from psftr.evaluation.labels import same_labels, told, with_class_names
from psftr.predictions import Detection, Predictions


def test_spelling_does_not_matter_words_do():
    classes = ["BaseballPitch", "High jump", "Putting on makeup"]
    assert same_labels(["baseball pitch", "high-jump", "putting makeup"], classes) == {
        "baseball pitch": "BaseballPitch",
        "high-jump": "High jump",
    }


def test_a_class_name_itself_is_left_alone():
    assert same_labels(["Diving"], ["Diving"]) == {}


def test_two_of_one_spelling_are_not_matched():
    assert same_labels(["high jump", "HighJump"], ["High Jump"]) == {}
    assert same_labels(["high jump"], ["HighJump", "High_Jump"]) == {}
    assert same_labels(["???"], ["!!!"]) == {}


def test_predictions_take_the_class_names():
    found = Predictions({"v": (Detection("v", "baseball pitch", 0, 1, 0.5), Detection("v", "other", 1, 2, 0.4))})
    made, renamed = with_class_names(found, ["BaseballPitch"])
    assert [d.label for d in made.detections["v"]] == ["BaseballPitch", "other"]
    assert told(renamed) == "labels matched by spelling: 'baseball pitch' is 'BaseballPitch'"
    assert with_class_names(found, ["Diving"]) == (found, {})


def test_many_are_counted():
    renamed = {name: name.upper() for name in "abcde"}
    assert told(renamed) == "labels matched by spelling: 'a' is 'A', 'b' is 'B', 'c' is 'C', and 2 more"
