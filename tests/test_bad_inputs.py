"""Wrong inputs to every command: one error, one fix, the exit code of its kind, nothing left.

The rows are in the folder that `place` makes: a run of points and one of images, files that
are no runs and no data, and links.
"""

from __future__ import annotations

import json
import os
import re
import shutil

import numpy as np
import pytest

from fgan.disk import sealed
from fgan.run import config, loop

TINY = {"steps": 2, "batch_size": 8, "gen_hidden": (4,), "disc_hidden": (4,), "sample_every": 0}


def forged(path, **changes):
    """A checkpoint with other facts and a checksum that is right: made by somebody."""
    content = path.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    facts = json.loads(header["__metadata__"][sealed.KEY])
    for name, value in changes.items():
        where = facts["config"] if name in facts["config"] and name != "data" else facts
        where[name] = value
    header["__metadata__"][sealed.KEY] = sealed.facts_text(facts)
    text = json.dumps(header).encode()
    return b"".join(sealed.seal(len(text).to_bytes(8, "little") + text + content[end:])[1])


# Runs with one checkpoint that says something impossible, by the name of the run.
FORGED = {
    "system": {"arch": "os:system"},
    "module": {"optimizer": "fgan.disk.rundir:create"},
    "wide": {"gen_hidden": [2**40]},
    "no-config": {"config": None},
    "listed": {"config": ["lr", 1]},
    "shape": {"data_shape": [-1, 28, 28]},
    "shapes": {"data_shape": "28"},
    "huge": {"data_shape": [1, 2**40, 2**40]},
    "where": {"step": "soon"},
    "before": {"step": -5},
    "backs": {"rollbacks": 1e300},
    "others": {"data": {"names": 3}},
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("inputs")
    points = loop.run(config.resolve(TINY, data="ring", threads=1), run_dir=place / "points").run
    loop.run(config.resolve(TINY, data="mnist", threads=1), run_dir=place / "pictures")
    saved = points.checkpoint_path(2)
    for name, changes in FORGED.items():
        (place / name / "checkpoints").mkdir(parents=True)
        (place / name / "checkpoints" / saved.name).write_bytes(forged(saved, **changes))
    shutil.copytree(points.path, place / "damaged")
    flipped = bytearray(saved.read_bytes())
    flipped[-1] ^= 1
    (place / "damaged" / "checkpoints" / saved.name).write_bytes(flipped)
    (place / "flipped.safetensors").write_bytes(flipped)
    np.save(place / "nan.npy", np.full((20, 4, 4), np.nan, dtype=np.float32))
    np.save(place / "whole.npy", np.zeros((20, 4, 4), dtype=np.int64))
    np.save(place / "flat.npy", np.zeros((20, 4), dtype=np.uint8))
    np.save(place / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    np.save(place / "few.npy", np.arange(0, 6400, 20).astype(np.uint8).reshape(20, 4, 4))
    (place / "empty.npy").write_bytes(b"")
    (place / "text.txt").write_text("hello")
    (place / "folder").mkdir()
    (place / "broken.toml").write_text("lr = = 1")
    (place / "typo.toml").write_text("learning_rate = 1\n")
    (place / "kind.toml").write_text('lr = "fast"\n')
    (place / "long.toml").write_text(f"lr = {10**400}\nsave_every = {10**400}\n")
    (place / "table.toml").write_text("[train]\nlr = 1\n")
    if hasattr(os, "symlink"):
        (place / "link.png").symlink_to("nowhere")
        (place / "link-to-text.npz").symlink_to("text.txt")
    return place


def rows(code, text):
    """``words : what the error names``, a row a line."""
    pairs = (line.rsplit(" : ", 1) for line in text.strip().splitlines())
    return {args.strip(): (code, word.strip()) for args, word in pairs}


BAD = {
    **rows(
        2,
        """
        train : DATA
        train "" : DATA
        train ring extra words : extra words
        train --nonsense : --nonsense
        train mnist --steps : --steps
        train --recipe mnist-dcgn : mnist-dcgan
        train --recipe faces-mlp : DATA
        train --resume absent --recipe mnist-dcgan : --recipe
        train --resume points --run-dir other : --run-dir
        train --resume= : --resume
        train mnist --arch vit : --arch
        train mnist --arch vit --steps 5 : --arch
        train mnist --arch os:system : --arch
        train mnist --arch dcgan --image-size 48 : --image-size
        train mnist --arch dcgan --gen-hidden 8 : --gen-hidden
        train ring --arch dcgan : --arch
        train mnist --image-size -1 : --image-size
        train mnist --channels 2 : --channels
        train mnist --pattern "" : --pattern
        train mnist --resize fold : --resize
        train mnist --stream maybe : --stream
        train mnist --keep 1 : --keep
        train mnist --grid 0 : --grid
        train mnist --log-every 0 : --log-every
        train mnist --sample-every -1 : --sample-every
        train mnist --save-every soon : --save-every
        train mnist --save-every 0s : --save-every
        train mnist --on-nonfinite hope : --on-nonfinite
        train mnist --lr nan : --lr
        train mnist --lr inf : --lr
        train mnist --lr -1 : --lr
        train mnist --lr fast : --lr
        train mnist --disc-lr 0 : --disc-lr
        train mnist --betas 0.5 : --betas
        train mnist --betas a,b : --betas
        train mnist --betas 0.5,1 : --betas
        train mnist --optimizer sgd --betas 0.5,0.9 : --betas
        train mnist --loss best : --loss
        train mnist --optimizer best : --optimizer
        train mnist --order random : --order
        train mnist --order simultaneous --disc-steps 2 : --order
        train mnist --share-fakes --same-z : --share-fakes
        train mnist --r1 -1 : --r1
        train mnist --clip-disc inf : --clip-disc
        train mnist --dropout 1 : --dropout
        train mnist --ema 1 : --ema
        train mnist --z-dim 0 : --z-dim
        train mnist --gen-hidden 1,x : --gen-hidden
        train mnist --gen-hidden 0 : --gen-hidden
        train mnist --batch-size 0 : --batch-size
        train mnist --batch-size 60001 : --batch-size
        train few.npy : --batch-size
        train mnist --steps 0 : --steps
        train mnist --steps 3 --epochs 1 : --epochs
        train mnist --epochs nan : --epochs
        train mnist --seed -1 : --seed
        train mnist --seed 99999999999999999999999 : --seed
        train mnist --threads 99999 : --threads
        train mnist --dtype float16 : --dtype
        train mnist --chunk-steps 2000 : --chunk-steps
        train mnist --device tpu : --device
        train mnist --device cpu:1 : --device
        train mnist --device cuda:x : --device
        train ring --lr-schedule sine : --lr-schedule
        train ring --lr-warmup soon : --lr-warmup
        train ring --seeds 5-2 : --seeds
        train ring --seeds 0-3 --seed 1 : --seeds
        train ring --image-size 32 : --image-size
        train mnist --pattern * --skip-bad --stream never : --skip-bad
        train ring --device mps : --device
        train --resume points --pattern * : --pattern
        train --resume points --features 8 --override : --features
        bench mnist --sample-stats batch : --sample-stats
        train ring --sweep nonsense=1 : --sweep
        train ring --sweep lr=fast : --sweep
        train ring --sweep b1=0.5 --optimizer sgd : sgd
        train ring --seeds 0-1 --on-nonfinite rollback : rollback
        train --config broken.toml : broken.toml
        train --config typo.toml : learning_rate
        train --config kind.toml : kind.toml
        train --config table.toml : table.toml
        train --config long.toml : save_every
        train --config long.toml --save-every 5 : lr
        sample : RUN
        sample points extra : extra
        sample points -n 0 : -n
        sample points -n many : --num
        sample points --seed -1 : --seed
        sample points --seed 99999999999999999999999 : --seed
        sample points --device tpu : --device
        sample points --out many : PNG
        sample pictures --out x.jpg : .jpg
        sample pictures --out x.NPY : .npy
        sample points --nonsense : --nonsense
        sample points --member x : --member
        sample points --member 1 : --member
        inspect : PATH
        inspect points points : points
        inspect points --yaml : --yaml
        recipes mnist : mnist
        recipes --json : --json
        doctor mnist : mnist
        doctor --yaml : --yaml
        bench --compare imperativ : imperative
        bench --compare imperative --loss hinge : --loss
        bench --repeats 2 : --repeats
        bench --seconds 0 : --seconds
        bench --batch-size 0 : --batch-size
        bench --recipe mnist-mlp-smal : mnist-mlp-small
        bench faces : --image-size
        bench --plot bench.doc : --plot
        explode : explode
        --nonsense : --nonsense
        """,
    ),
    **rows(
        3,
        """
        train cifar : cifar10
        train folder : folder
        train text.txt : text.txt
        train nan.npy : nan.npy
        train whole.npy : whole.npy
        train flat.npy : flat.npy
        train objects.npy : objects.npy
        train empty.npy : empty.npy
        train mnist --data-root absent : absent
        """,
    ),
    **rows(
        2,
        """
        train --resume points --steps 9 --dtype float64 --override : another --dtype: points
        train --resume points --steps 9 --gen-hidden 9 --override : another --gen-hidden: points
        train mnist --batch-size 1 --steps 1 : --batch-norm none
        """,
    ),
    **rows(
        4,
        """
        train --resume absent : absent
        train --resume text.txt : text.txt
        train --resume folder : folder
        train --resume damaged : step-0000002.safetensors
        train --resume system : arch
        train --resume module : optimizer
        train --resume wide : gen-hidden
        train --resume no-config : step-0000002.safetensors
        train --resume listed : step-0000002.safetensors
        train --resume where : step-0000002.safetensors
        train --resume before : step-0000002.safetensors
        train --resume backs : step-0000002.safetensors
        train --resume others --steps 9 : others
        sample absent : absent
        sample folder : folder
        sample text.txt : text.txt
        sample points/config.toml : config.toml
        sample damaged : step-0000002.safetensors
        sample flipped.safetensors : flipped.safetensors
        sample system : arch
        sample module : optimizer
        sample no-config : step-0000002.safetensors
        sample shape : shape
        sample shapes : shape
        sample huge : shape
        inspect absent : absent
        inspect folder : folder
        """,
    ),
    **rows(
        5,
        """
        train mnist --device cuda:99 : cuda
        train mnist --device cpu --dtype tf32 : tf32
        sample points --device cuda:99 : cuda
        bench --device cuda:99 : cuda
        """,
    ),
    **rows(
        7,
        """
        train --config absent.toml : absent.toml
        bench --config absent.toml : absent.toml
        train --config folder : folder
        train ring --run-dir text.txt : text.txt
        train ring --run-dir text.txt/run : text.txt
        train ring --run-dir points : points
        sample pictures --out text.txt : text.txt
        sample pictures --out folder : folder
        sample pictures --out . : --out
        sample pictures --out absent/x.png : absent
        sample pictures --out text.txt/x.png : text.txt
        """,
    ),
}
if os.name != "nt":
    BAD |= rows(
        7,
        """
        train ring --run-dir /proc/none : /proc/none
        sample pictures --out /dev/null : /dev/null
        sample pictures --out link.png : link.png
        sample pictures --out link-to-text.npz : link-to-text.npz
        """,
    )


def test_there_are_rows_for_every_command_and_every_kind():
    verbs = {args.split()[0] for args in BAD}
    assert {"train", "sample", "inspect", "recipes", "doctor"} <= verbs
    assert {code for code, _ in BAD.values()} == {2, 3, 4, 5, 7}
    assert len(BAD) > 100


def everything(folder):
    """What is there, and since when; a lock that comes and goes touches a folder."""
    return {
        str(path.relative_to(folder)): None if path.is_dir() else path.lstat().st_mtime_ns
        for path in folder.rglob("*")
    }


@pytest.mark.parametrize("args", BAD)
def test_bad_input_ends_in_one_error_and_one_fix(fgan, place, monkeypatch, args):
    monkeypatch.chdir(place)
    before = everything(place)
    code, out, err = fgan(*[word.replace('""', "") for word in args.split()])
    expected, word = BAD[args]
    assert code == expected, err
    assert out == ""
    assert re.fullmatch(r"error: [^\n]+\nfix: [^\n]+\n", err), err
    assert word.lower() in err.lower()
    assert everything(place) == before


DAMAGED = {
    "text.txt": "not a checkpoint",
    "flipped.safetensors": "checksum",
    "damaged": "checksum",
    "points/config.toml": "not a checkpoint",
}


@pytest.mark.parametrize("path", DAMAGED)
def test_inspecting_damage_shows_it_and_ends_as_an_error(fgan, place, monkeypatch, path):
    monkeypatch.chdir(place)
    code, out, err = fgan("inspect", path)
    assert code == 4
    assert "verdict: " in out
    assert "verdict: intact" not in out
    assert re.fullmatch(r"error: [^\n]+\nfix: [^\n]+\n", err), err
    assert DAMAGED[path] in err


def test_what_is_there_is_never_replaced(fgan, place, monkeypatch):
    monkeypatch.chdir(place)
    for out in ("link.png", "link-to-text.npz", "text.txt", "folder", "few.npy"):
        assert fgan("sample", "pictures", "-n", 4, "--out", out)[0] == 7
    assert os.readlink("link.png") == "nowhere"
    assert not os.path.exists("nowhere")
    assert (place / "text.txt").read_text() == "hello"
    assert list((place / "folder").iterdir()) == []


def test_sampling_takes_the_newest_intact_checkpoint_and_says_what_it_passed_over(fgan, tmp_path):
    run = loop.run(config.resolve(TINY, data="mnist", save_every=1), run_dir=tmp_path / "r").run
    assert fgan("sample", run.checkpoint_path(1), "-n", 4, "--out", "one.npz")[0] == 0
    assert fgan("sample", "r", "-n", 4, "--out", "two.npz")[::2] == (0, "")
    newest = run.checkpoint_path(2)
    newest.write_bytes(newest.read_bytes()[:-1])
    code, out, err = fgan("sample", "r", "-n", 4, "--out", "three.npz")
    assert (code, out) == (0, "three.npz\n")
    assert re.fullmatch(r"Passed over: .*step-0000002.safetensors is damaged: .*\n", err)
    one, two, three = ((tmp_path / f"{n}.npz").read_bytes() for n in ("one", "two", "three"))
    assert one == three != two


def test_a_folder_of_samples_has_ordinary_permissions(fgan, tmp_path):
    loop.run(config.resolve(TINY, data="mnist"), run_dir=tmp_path / "r")
    assert fgan("sample", "r", "-n", 2, "--out", "many")[0] == 0
    (tmp_path / "plain").mkdir()
    assert (tmp_path / "many").stat().st_mode == (tmp_path / "plain").stat().st_mode
    assert sorted(p.name for p in tmp_path.iterdir()) == ["many", "plain", "r"]
