"""`make verify`: the parts of a version's leak report that train, on the code as it is."""

from tasks.strategy.leak_suite import feature_columns, isolated_training, planted_leak, random_walk

FIVE_MINUTES_MS = 300_000


def test_fitted_arrays_do_not_move_with_later_bars():
    check = isolated_training()
    assert check.passed, check.found


def test_directions_of_a_random_walk_are_right_by_chance():
    check = random_walk(feature_columns(FIVE_MINUTES_MS))
    assert check.passed, check.found


def test_planted_answer_is_caught_by_every_check_that_could_see_it():
    check = planted_leak(feature_columns(FIVE_MINUTES_MS))
    assert check.passed, check.found
