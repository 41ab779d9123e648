import pytest

from benchmarks.environment import environment


def test_a_package_that_is_not_there_is_told(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(RuntimeError, match=r"no-such-package==1\.0"):
        environment(tmp_path / "none", "no-such-package==1.0")
    assert not (tmp_path / "none" / "ready").exists()


def test_an_environment_that_is_there_is_used_again(tmp_path) -> None:
    (tmp_path / "ready").touch()
    assert environment(tmp_path, "no-such-package==1.0") == tmp_path / "bin"
