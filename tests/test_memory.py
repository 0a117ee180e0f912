"""What ZeRO leaves on a rank: the published arithmetic, and what DeepSpeed's settings add to it."""

from dataclasses import replace

import pytest

from fd_scale.memory import (
    CONSTRUCTION,
    REDUCTION,
    STUDENT,
    UPDATE,
    Passes,
    RankMemory,
    Sharding,
    Trained,
    flats,
    gathered,
    rank_memory,
    steady,
)

MODEL = Trained([[600, 200], [200]], largest_module=600)
ZERO3 = Sharding(3, 4, "bf16", reduce_bucket=100, bucket_count=1, prefetch=50, max_live=10_000, sub_group=10_000)


def of(sharding: Sharding, *, trained: Trained = MODEL, saving: bool = False, activations: float = 0.0) -> RankMemory:
    return rank_memory(trained, sharding, Passes(activations, {"activations": 1.0}), {"teacher": 10.0}, 4000.0, saving)


def test_the_states_take_18_bytes_a_parameter_and_each_stage_spreads_more_of_them():
    at = {stage: steady(MODEL, replace(ZERO3, stage=stage)) for stage in (1, 2, 3)}
    assert at[1] == {"weights": 2000, "optimizer": 3000, "gradients": 4000}  # DeepSpeed keeps them whole
    assert at[2] == {"weights": 2000, "optimizer": 3000}
    assert at[3] == {"weights": 500, "optimizer": 3000, "gradients": 1000, "reduce bucket": 200}
    assert sum(at[3].values()) - 200 == 18 * 1000 / 4


def test_fp32_keeps_a_copy_below_stage_3_alone():
    whole, shared = (steady(MODEL, replace(ZERO3, stage=stage, precision="fp32")) for stage in (2, 3))
    assert whole == {"weights": 4000, "optimizer": 3000}
    assert shared == {"weights": 1000, "optimizer": 2000, "gradients": 1000, "reduce bucket": 400}


def test_small_parameters_stay_whole_at_stage_3_and_an_average_is_spread():
    found = steady(replace(MODEL, average=True), replace(ZERO3, persistent_below=200))
    assert found["weights"] == 500 + 2 * 400
    assert found["moving average"] == 1000


def test_sub_groups_bound_what_the_optimizer_updates_at_once():
    assert flats(MODEL, ZERO3) == [200, 50]
    assert flats(MODEL, replace(ZERO3, sub_group=100)) == [150, 50, 50]
    assert flats(MODEL, replace(ZERO3, stage=2)) == [200, 50]
    small, large = (of(replace(ZERO3, sub_group=size)).phases[UPDATE]["optimizer's work space"] for size in (1, 10_000))
    assert (small, large) == (8 * 150, 8 * 200)


def test_what_is_gathered_is_bounded_by_the_model_and_by_the_settings():
    assert gathered(MODEL, ZERO3) == 600 + 50
    assert gathered(MODEL, replace(ZERO3, max_reuse_distance=10_000)) == 1000
    assert gathered(MODEL, replace(ZERO3, max_reuse_distance=10_000, max_live=700)) == 700
    assert gathered(MODEL, replace(ZERO3, max_reuse_distance=10_000, persistent_below=200)) == 600


def test_buckets_are_as_the_configuration_says_whatever_the_model():
    stage2 = replace(ZERO3, stage=2, reduce_bucket=5000, bucket_count=2)
    assert of(stage2).phases[STUDENT]["reduce buckets"] == 2 * 2 * 5000
    assert "reduce buckets" not in of(replace(stage2, stage=1)).phases[STUDENT]


def test_a_full_bucket_is_reduced_when_its_share_of_the_activations_is_gone():
    found = of(ZERO3, activations=1000.0).phases
    assert found[STUDENT]["activations"] == 1000
    assert found[REDUCTION]["activations"] == pytest.approx(900)


def test_the_peak_is_that_of_the_largest_phase_and_a_cpu_holds_more():
    found = of(ZERO3, saving=True)
    assert found.peak == max(sum(terms.values()) for terms in found.phases.values())
    assert found.host == {"copy of a checkpoint": 3000}
    assert found.peak_on_cpu >= found.peak + 3000
    assert of(replace(ZERO3, stage=2), activations=1e9).peak_phase == STUDENT
    # Teachers that are larger than the student's states are most while they are read.
    small = Trained([[10]], 10)
    assert of(ZERO3, trained=small).cpu_phase == CONSTRUCTION
