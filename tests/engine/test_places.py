"""How many trainings run at a time, and where."""

from dataclasses import replace

import pytest

from psftr.engine import places
from psftr.engine.places import VISIBLE, has_room, jobs_beside, on_gpus, plan, prepare
from psftr.engine.trainer import Ranks
from psftr.errors import PsftrError
from psftr.settings import TrainerSettings, TrainSettings


def trainings(count: int = 10, **trainer) -> list[TrainSettings]:
    settings = TrainSettings(trainer=TrainerSettings(**{"accelerator": "cpu", **trainer}))
    return [replace(settings, split=replace(settings.split, index=number)) for number in range(count)]


@pytest.fixture
def eight_cores(monkeypatch):
    monkeypatch.setattr(places, "cores", lambda: 8)
    monkeypatch.setattr("os.cpu_count", lambda: 8)


@pytest.fixture
def three_gpus(monkeypatch, eight_cores):
    def check(common):
        count = 3 if common.trainer.devices == "auto" else int(common.trainer.devices)
        return Ranks(
            on_this_machine=count if count > 1 else 0, num_ranks=count, is_first=True, accelerator="cuda"
        )  # fmt: skip

    monkeypatch.setattr(places, "check_trainer", check)
    monkeypatch.setattr(places, "visible_gpus", lambda: ["0", "1", "2"])
    monkeypatch.setattr(places.torch.cuda, "is_available", lambda: True)


@pytest.mark.parametrize(("threads", "slots"), [(1, 8), (2, 4), (3, 2), (5, 1), (16, 1)])
def test_jobs_times_threads_are_no_more_than_the_cores(eight_cores, threads, slots):
    assert len(plan(trainings(threads=threads), asked="auto").slots) == slots


def test_without_a_number_of_threads_one_training_takes_pytorchs_choice(eight_cores, monkeypatch):
    monkeypatch.setattr(places.torch, "get_num_threads", lambda: 4)
    assert len(plan(trainings(), asked="auto").slots) == 2


def test_no_more_slots_than_jobs_and_as_many_as_asked_for(eight_cores):
    assert len(plan(trainings(3, threads=1), asked="auto").slots) == 3
    assert len(plan(trainings(threads=1), asked=1).slots) == 1
    assert len(plan(trainings(threads=8), asked=9).slots) == 9


def test_trainings_on_several_devices_run_one_after_the_other(eight_cores):
    assert len(plan(trainings(threads=1, devices=2), asked="auto").slots) == 1
    with pytest.raises(PsftrError, match=r"hydra.launcher.jobs=4: these trainings choose their devices themselves"):
        plan(trainings(threads=1, devices=2), asked=4)


def test_gpus_are_taken_in_turns(three_gpus):
    way = plan(trainings(), asked="auto")
    assert [slot[VISIBLE] for slot in way.slots] == ["0", "1", "2", "0", "1", "2"]  # eight cores: two for each GPU
    assert way.asks_for_room
    assert not way.may_fork
    asked = plan(trainings(), asked=4)
    assert [slot[VISIBLE] for slot in asked.slots] == ["0", "1", "2", "0"]
    assert not asked.asks_for_room
    assert len(plan(trainings(devices=2), asked="auto").slots) == 1


def test_a_gpu_gets_another_job_once_those_it_has_leave_room_for_one():
    asked = []

    def room(used: int, beside: list[int], settled: set[int]) -> bool:
        def memory(device: str) -> tuple[int, int]:
            asked.append(device)
            return used, 80

        return has_room("1", beside, has_settled=settled.__contains__, memory=memory)

    assert room(80, [], set())
    assert not room(10, [4], set())  # its first epoch is not over
    assert asked == []
    assert room(32, [4], {4})  # 48 free for 1.5 * 32
    assert not room(33, [4], {4})
    assert room(44, [4, 5], {4, 5})  # 36 free for 1.5 * 22
    assert asked == ["1"] * 3


def test_jobs_beside_are_those_of_the_same_gpu():
    slots = on_gpus(["0", "1"], each=2)
    assert jobs_beside(2, slots, {0: 7, 1: 8, 3: 9}) == [7]


def test_the_driver_is_asked_for_memory(tmp_path, monkeypatch):
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\nif [ $1 = --id=3 ]; then echo '1200, 81559'; else echo 'No devices were found'; fi\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert places.gpu_memory("3") == (1200, 81559)
    with pytest.raises(PsftrError, match=r"GPU 4 \(No devices were found\): say hydra.launcher.jobs=N"):
        places.gpu_memory("4")
    tool.unlink()
    with pytest.raises(PsftrError, match="nvidia-smi, which knows the free memory of a GPU, is not there"):
        places.gpu_memory("3")


def test_the_gain_from_bfloat16_is_measured_once_for_all(tmp_path, monkeypatch):
    monkeypatch.setattr(places, "measured_gain", float)
    settings = [replace(one, data_root=str(tmp_path)) for one in trainings(2, threads=3)]
    fixed = trainings(1, threads=5, precision="32-true")
    assert prepare([*settings, replace(fixed[0], data_root=str(tmp_path))], forked=True) == {3: 3.0}
    assert (tmp_path / "synthetic" / "features.h5").is_file()  # built before two trainings could meet in it
