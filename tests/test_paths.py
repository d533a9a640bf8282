"""Paths in configurations mean the same from every folder; what is not there is named."""

from __future__ import annotations

import tomllib

import numpy as np
import pytest

from fgan.run import config

SMALL = ["--steps", 2, "--batch-size", 8, "--gen-hidden", 4, "--disc-hidden", 4, "--quiet"]


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder with images in it, another one to be in, and a run of them by a relative path."""
    images = np.random.default_rng(0).integers(256, size=(16, 4, 4), dtype="uint8")
    for name in ("project", "elsewhere"):
        (tmp_path / name).mkdir()
    np.save(tmp_path / "project/images.npy", images)
    monkeypatch.chdir(tmp_path / "project")
    return tmp_path


def last(run, step=2):
    return (run / f"checkpoints/step-{step:07d}.safetensors").read_bytes()


def test_a_configuration_is_good_in_every_folder(fgan, project, monkeypatch):
    monkeypatch.chdir(project / "project")
    assert fgan("train", "images.npy", *SMALL, "--run-dir", "one")[0] == 0
    one = project / "project/one"
    said = tomllib.loads((one / "config.toml").read_text())
    assert said["data"] == str(project / "project/images.npy")
    monkeypatch.chdir(project / "elsewhere")
    assert fgan("train", "--config", one / "config.toml", "--run-dir", "two", "-q")[0] == 0
    assert last(one) == last(project / "elsewhere/two")
    # A copy of the file, and the run itself, likewise.
    (project / "elsewhere/copy.toml").write_bytes((one / "config.toml").read_bytes())
    assert fgan("train", "--config", "copy.toml", "--run-dir", "three", "-q")[0] == 0
    assert fgan("train", "--resume", one, "--steps", 3, "-q")[0] == 0
    assert (one / "checkpoints/step-0000003.safetensors").exists()


def test_data_that_are_not_there_are_named_by_where_they_were_looked_for(
    fgan, project, monkeypatch
):
    monkeypatch.chdir(project / "project")
    fgan("train", "images.npy", *SMALL, "--run-dir", "one")
    (project / "project").rename(project / "moved")
    monkeypatch.chdir(project / "moved")
    code, out, err = fgan("train", "--config", "one/config.toml", "--run-dir", "two", "-q")
    assert (code, out) == (3, "")
    assert f"There is nothing at {project / 'project/images.npy'}" in err
    assert "as DATA" in err
    args = ["images.npy", "--config", "one/config.toml", "--run-dir", "two", "-q"]
    assert fgan("train", *args)[0] == 0
    said = tomllib.loads((project / "moved/two/config.toml").read_text())
    assert said["data"] == str(project / "moved/images.npy")
    code, _, err = fgan("train", "mnsit")
    assert code == 3
    assert "did you mean mnist?" in err


def test_paths_in_a_file_start_from_its_folder(project, monkeypatch):
    file = project / "elsewhere/own.toml"
    file.write_text('data = "faces"\ndata_root = ""\n')
    for folder in (project, project / "project"):
        monkeypatch.chdir(folder)
        resolved = config.resolve(file="../elsewhere/own.toml" if folder != project else file)
        assert resolved.data.endswith("elsewhere/faces")
        assert (folder / resolved.data).parent.samefile(project / "elsewhere")
    file.write_text('data = "celeba"\ndata_root = "../sets"\n')
    resolved = config.resolve(file=file)
    assert (resolved.data, resolved.data_root) == ("celeba", str(project / "elsewhere/../sets"))
    # Folders may be called like data sets.
    file.write_text('data = "mnist"\ndata_root = "mnist"\ninit_from = "ring"\n')
    resolved = config.resolve(file=file)
    assert (resolved.data, resolved.data_root) == ("mnist", str(project / "elsewhere/mnist"))
    assert resolved.init_from == str(project / "elsewhere/ring")
    # The command line's start from the folder one is in; names are no paths.
    monkeypatch.chdir(project)
    assert config.resolve(file=file, data_root="sets").data_root == str(project / "sets")
    for name, meant in (("mnist", "mnist"), ("./mnist", str(project / "mnist"))):
        assert config.resolve(data=name).data == meant
    monkeypatch.setenv("HOME", str(project))
    assert config.resolve(data="~/faces").data == str(project / "faces")


def test_a_link_and_two_dots_lead_where_the_system_says(project):
    (project / "far/deep").mkdir(parents=True)
    (project / "far/images.npy").write_bytes((project / "project/images.npy").read_bytes())
    (project / "project/link").symlink_to(project / "far/deep")
    meant = config.resolve(data="link/../images.npy").data
    (project / "project/images.npy").unlink()  # where a path cut short would lead
    assert np.load(meant).shape == (16, 4, 4)
