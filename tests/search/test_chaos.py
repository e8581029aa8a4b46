"""The short form of benchmarks/chaos.py: workers, drivers, the server and the disk, in one study of two workers."""

from benchmarks._hurt_study import results, tiny, weights
from benchmarks.chaos import run, undisturbed


def test_a_study_that_is_killed_all_over_loses_nothing(tmp_path):
    study = tiny(search__trials=5, train__epochs=6)
    calm = undisturbed(tmp_path / "calm", study, jobs=2)
    home, chaos, found = run(tmp_path / "hurt", study, jobs=2, kills=6, seed=1, say=lambda line: None)
    assert found == []
    assert all(chaos.done[kind] for kind in ("worker", "driver", "server", "torn line"))
    assert results(home) == results(calm) and weights(home) == weights(calm)
