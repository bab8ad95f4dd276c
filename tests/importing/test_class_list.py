"""Which classes a data set has, which are unseen, and what their prompts say."""

import pytest

from zsseg.stages.errors import DatasetError
from zsseg.stages.importing.class_list import class_list


def test_classes_of_the_labels_come_first_and_those_without_a_pixel_are_unseen() -> None:
    found = class_list(["road", "Sky", "bus"], ["cone", "sky", "bus"], pixels=[5, 3, 0])
    assert found.classes == ("road", "Sky", "bus", "cone")
    assert found.unseen == ("cone", "bus")
    assert found.prompts == {}


def test_several_names_name_the_class_that_has_one_of_them() -> None:
    found = class_list(["road", "car"], ["automobile|Car"], pixels=[1, 1])
    assert (found.classes, found.unseen) == (("road", "car"), ())
    assert found.prompts == {"car": "automobile|Car"}


def test_labels_named_by_the_user_with_several_names_are_one_class() -> None:
    found = class_list(["road", "car|van"], ["road", "car|van", "cone|pylon"], pixels=[1, 0])
    assert found.classes == ("road", "car|van", "cone|pylon")
    assert found.unseen == ("car|van", "cone|pylon")
    assert found.prompts == {}


def test_identifiers_become_words_unless_that_makes_two_classes_one() -> None:
    assert class_list(["traffic_light", "a--b"], [], pixels=[1, 1]).prompts == {
        "traffic_light": "traffic light",
        "a--b": "a b",
    }
    assert class_list(["traffic_light", "traffic light"], [], pixels=[1, 1]).prompts == {}


def test_names_that_cannot_be_told_apart_are_refused() -> None:
    with pytest.raises(DatasetError, match="cannot be told apart"):
        class_list(["car", "van"], ["car|van"], pixels=[1, 1])
    with pytest.raises(DatasetError, match="one class, 'car'"):
        class_list(["car"], ["car"], pixels=[1])
