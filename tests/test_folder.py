"""Folders of images: what is found, how it is decoded, what is refused, what is kept."""

from __future__ import annotations

import os
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps
from torchvision.transforms import v2

from fgan import data
from fgan.data import find
from fgan.data.decode import BadImage, Spec, decode
from fgan.disk import files
from fgan.errors import ConfigError, DataError
from fgan.run import config as configs
from fgan.run import loop


@pytest.fixture(autouse=True)
def cache_folder(tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("FGAN_CACHE", str(folder))
    return folder


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "pictures"


def picture(seed: int, width: int = 24, height: int = 16, mode: str = "RGB") -> Image.Image:
    """Smooth enough for JPEG, noisy enough that no two pixels are alike."""
    generator = np.random.default_rng(seed)
    channels = 1 if mode == "L" else 3
    slope = np.linspace(0, 180, width)[None, :, None] + np.linspace(0, 40, height)[:, None, None]
    pixels = slope + generator.integers(0, 36, (height, width, channels))
    return Image.fromarray(pixels.squeeze().astype(np.uint8))


def save(path: Path, image: Image.Image, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path


def fill(folder: Path, count: int = 3, **options: object) -> list[Path]:
    return [save(folder / f"{i:03}.png", picture(i, **options)) for i in range(count)]


def planes(image: Image.Image) -> torch.Tensor:
    """uint8 [C, H, W] of a picture in mode L or RGB."""
    pixels = torch.from_numpy(np.array(image))
    return pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1)


def refusal(folder: Path, **options: object) -> DataError:
    with pytest.raises(DataError) as error:
        data.load(str(folder), **options)
    return error.value


# What is found


def test_a_folder_with_classes(folder):
    save(folder / "b" / "1.png", picture(1))
    save(folder / "a" / "deep" / "2.JPG", picture(2), quality=95)
    save(folder / "0.bmp", picture(3))
    save(folder / ".hidden.png", picture(4))
    save(folder / ".thumbnails" / "5.png", picture(5))
    (folder / "README.txt").write_text("no image")
    source = data.load(str(folder))
    assert (source.name, source.shape, len(source)) == ("pictures", (3, 16, 24), 3)
    assert source.is_images
    assert source.skipped == ()
    expected = [planes(Image.open(folder / p)) for p in ("0.bmp", "a/deep/2.JPG", "b/1.png")]
    assert torch.equal(source.examples, torch.stack(expected))
    assert torch.equal(source.first(2), torch.stack(expected[:2]))
    assert len(source.first(9)) == 3


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("*seed*", ["a/seed1.png", "b/seed2.png"]),
        ("a/*", ["a/other.png", "a/seed1.png"]),
        ("*.png", ["a/other.png", "a/seed1.png", "b/seed2.png"]),
        ("seed?.png", ["a/seed1.png", "b/seed2.png"]),
    ],
)
def test_patterns(folder, pattern, names):
    for i, name in enumerate(["a/seed1.png", "a/other.png", "b/seed2.png"]):
        save(folder / name, picture(i))
    assert [file.path for file in find.find_images(folder, pattern).images] == names
    assert len(data.load(str(folder), pattern=pattern)) == len(names)


def test_a_pattern_that_nothing_matches(folder):
    fill(folder)
    error = refusal(folder, pattern="*seed*")
    assert "*seed*" in error.problem
    assert "--pattern" in error.problem
    assert "000.png" in error.fix


@pytest.mark.parametrize("files", [[], ["notes.txt", "a.npy"]])
def test_no_images(folder, files):
    folder.mkdir()
    for name in files:
        (folder / name).write_text("x")
    error = refusal(folder)
    assert str(folder) in error.problem
    assert error.exit_code == 3


def test_links(folder, tmp_path):
    """Each real file counts once; loops end; what a link leads out to is found."""
    fill(folder, 2)
    save(tmp_path / "elsewhere" / "far.png", picture(7))
    (folder / "again.png").symlink_to(folder / "000.png")
    (folder / "loop").symlink_to(folder, target_is_directory=True)
    (folder / "out").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (tmp_path / "elsewhere" / "back").symlink_to(folder, target_is_directory=True)
    assert [f.path for f in find.find_images(folder)[0]] == ["000.png", "001.png", "out/far.png"]
    assert len(data.load(str(folder))) == 3


@pytest.mark.parametrize("stream", ["never", "always"])
def test_links_to_nowhere_and_pipes_are_bad_files(folder, stream):
    fill(folder, 2)
    (folder / "nowhere.png").symlink_to(folder / "gone.png")
    (folder / "self.png").symlink_to(folder / "self.png")
    os.mkfifo(folder / "pipe.png")
    error = refusal(folder, stream=stream)
    assert "3 of the 5" in error.problem
    assert all(name in error.problem for name in ("nowhere.png", "self.png", "pipe.png"))
    assert len(data.load(str(folder), stream=stream, skip_bad=True)) == 2


# How it is decoded


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize(("width", "height"), [(96, 64), (64, 96), (64, 64), (16, 16), (20, 12)])
@pytest.mark.parametrize("resize", ["crop", "stretch"])
def test_resizing_as_torchvision(folder, mode, width, height, resize):
    image = picture(3, width, height, mode)
    path = save(folder / "a.png", image)
    steps = {"crop": [v2.Resize(32), v2.CenterCrop(32)], "stretch": [v2.Resize((32, 32))]}
    expected = planes(v2.Compose(steps[resize])(image)).int()
    got = torch.from_numpy(
        decode(str(path), Spec(1 if mode == "L" else 3, 32, resize)).copy()
    ).int()
    if width == 20 and resize == "crop":  # torchvision rounds the longer side to 53 for 53.3
        assert (got - expected).float().abs().mean() < 4
    else:
        assert torch.equal(got, expected)
    assert got.float().std() > 20


def test_a_large_jpeg_is_decoded_small(folder):
    """JPEG's own scaling comes first; what remains to Pillow's filter differs little."""
    for width, height in ((1024, 768), (256, 192)):
        image = picture(3, width // 4, height // 4).resize((width, height))
        path = save(folder / "a.jpg", image, quality=95)
        expected = planes(Image.open(path).resize((32, 32), Image.Resampling.BILINEAR))
        got = torch.from_numpy(decode(str(path), Spec(3, 32, "stretch")).copy())
        assert (got.int() - expected.int()).abs().max() <= 4


def test_a_strip_costs_no_memory(folder):
    path = save(folder / "strip.png", Image.new("L", (200_000, 2), 77))
    assert (decode(str(path), Spec(1, 64, "crop")) == 77).all()


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation(folder, suffix, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 100} | ({"lossless": True} if suffix == "webp" else {})
    path = save(folder / f"a.{suffix}", picture(1, 24, 8), exif=exif, **options)
    upright = ImageOps.exif_transpose(Image.open(path))
    source = data.load(str(folder))
    assert source.shape == ((3, 24, 8) if orientation >= 5 else (3, 8, 24))
    assert torch.equal(source.examples[0], planes(upright))


def test_an_orientation_in_xmp(folder):
    xmp = (
        b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF '
        b'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description '
        b'xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/></rdf:RDF></x:xmpmeta>'
    )
    path = save(folder / "a.jpg", picture(1, 24, 8), xmp=xmp)
    source = data.load(str(folder))
    assert source.shape == (3, 24, 8)
    assert torch.equal(source.examples[0], planes(ImageOps.exif_transpose(Image.open(path))))


def test_what_a_png_says_after_its_pixels_is_not_heard(folder):
    path = save(folder / "a.png", picture(1, 24, 8))
    exif = Image.Exif()
    exif[0x0112] = 6
    body = b"eXIf" + exif.tobytes()[6:]
    chunk = (len(body) - 4).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")
    content = path.read_bytes()
    path.write_bytes(content[:-12] + chunk + content[-12:])  # before the end
    assert data.load(str(folder)).shape == (3, 8, 24)


def test_names_that_are_no_utf8(folder, tmp_path):
    fill(folder, 4)
    strange = folder / os.fsdecode(b"caf\xe9\n.png")
    strange.write_bytes(b"")
    with pytest.raises(DataError, match=r"caf\\udce9\\n\.png is empty"):
        data.load(str(folder))
    small = {"steps": 1, "batch_size": 2, "gen_hidden": (4,), "disc_hidden": (4,)}
    options = configs.resolve(small, data=str(folder), skip_bad=True)
    run = loop.run(options, run_dir=tmp_path / "run").run
    assert (run.path / "skipped.txt").read_text() == "caf\\udce9\\n.png\tis empty\n"
    with pytest.raises(ConfigError, match="UTF-8"):
        configs.resolve(small, data=os.fsdecode(b"\xe9"))


def test_a_folder_is_known_by_its_own_name(folder):
    fill(folder / "v2", 3)
    (folder / "latest").symlink_to("v2")
    assert len(data.load(str(folder), pattern="v2/*")) == 3
    assert len(data.load(str(folder))) == 3


def test_a_cut_cache_changes_nothing_of_what_is_loaded(folder):
    fill(folder, 4)
    data.load(str(folder))
    loaded = data.load(str(folder))  # from the cache
    before = loaded.examples.clone()
    for kept in Path(os.environ["FGAN_CACHE"], "folders").iterdir():
        os.truncate(kept, 0)
    assert torch.equal(loaded.examples, before)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_an_orientation_of_the_wrong_form(folder):
    path = save(folder / "a.jpg", picture(1), exif=b"Exif\0\0MM\0\x2a\0\0\0\x08\0\x05broken")
    assert torch.equal(data.load(str(folder)).examples[0], planes(Image.open(path)))


def with_alpha(mode: str) -> Image.Image:
    image = picture(1).convert(mode)
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    return image


def over_white(image: Image.Image) -> torch.Tensor:
    rgba = planes(image.convert("RGBA")).double()
    alpha = rgba[3] / 255
    return rgba[:3] * alpha + 255 * (1 - alpha)


def test_alpha_is_laid_over_white(folder):
    for mode, channels in (("RGBA", 3), ("LA", 1)):
        image = with_alpha(mode)
        path = save(folder / f"{mode}.png", image)
        got = torch.from_numpy(decode(str(path), Spec(channels, 0, "crop")).copy()).double()
        assert got.shape[0] == channels
        assert (got - over_white(image)[:channels]).abs().max() <= 1.01


def test_palettes(folder):
    plain = picture(1).quantize(16)
    clear = plain.copy()
    clear.info["transparency"] = 3
    for name, image in (("a.png", plain), ("b.gif", plain)):
        path = save(folder / name, image)
        got = torch.from_numpy(decode(str(path), Spec(3, 0, "crop")).copy())
        assert torch.equal(got, planes(image.convert("RGB")))
    path = save(folder / "c.png", clear, transparency=3)
    got = torch.from_numpy(decode(str(path), Spec(3, 0, "crop")).copy())
    hidden = torch.from_numpy(np.array(plain) == 3)
    assert hidden.any()
    assert (got[:, hidden] == 255).all()
    assert torch.equal(got[:, ~hidden], planes(plain.convert("RGB"))[:, ~hidden])


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.pgm"])
def test_grey_of_16_bits(folder, name):
    values = np.linspace(0, 65535, 24 * 16).round().astype(np.uint16).reshape(16, 24)
    path = save(folder / name, Image.fromarray(values))
    got = decode(str(path), Spec(1, 0, "crop"))
    assert np.array_equal(got[0], np.round(values / 257))
    assert data.load(str(folder)).shape == (1, 16, 24)


def test_what_is_clear_in_grey_of_16_bits_lies_on_white(folder):
    values = np.arange(24, dtype=np.uint16).reshape(4, 6) * 257
    path = save(folder / "a.png", Image.fromarray(values), transparency=3 * 257)
    wanted = np.where(values == 3 * 257, 255, values // 257)
    assert np.array_equal(decode(str(path), Spec(1, 0, "crop"))[0], wanted)


def test_cmyk(folder):
    path = save(folder / "a.jpg", picture(1).convert("CMYK"), quality=95)
    for channels in (1, 3):
        got = torch.from_numpy(decode(str(path), Spec(channels, 0, "crop")).copy())
        expected = Image.open(path).convert("RGB").convert("L" if channels == 1 else "RGB")
        assert torch.equal(got, planes(expected))


def test_floats_are_refused(folder):
    path = save(folder / "a.tif", Image.fromarray(np.ones((4, 4), np.float32)))
    with pytest.raises(BadImage, match="floating-point"):
        decode(str(path), Spec(1, 0, "crop"))


def test_channels_as_asked(folder):
    save(folder / "a.png", picture(1, mode="L"))
    save(folder / "b.png", picture(2))
    grey, colour = data.load(str(folder), channels=1), data.load(str(folder), channels=3)
    assert (grey.shape, colour.shape) == ((1, 16, 24), (3, 16, 24))
    assert torch.equal(colour.examples[0], grey.examples[0].expand(3, -1, -1))
    assert torch.equal(grey.examples[1], planes(picture(2).convert("L")))


# What is refused


def damaged(folder: Path) -> dict[str, Path]:
    """One file of each kind of damage, beside good ones."""
    fill(folder, 2, width=64, height=64)
    good = {
        suffix: save(folder / f"good.{suffix}", picture(9, 64, 64)).read_bytes()
        for suffix in ("png", "jpg", "gif", "bmp", "webp", "tif")
    }
    contents = {f"cut.{suffix}": c[: len(c) * 2 // 3] for suffix, c in good.items()}
    contents |= {"text.png": b"hello, this is no picture", "zero.png": b"", "zero.jpg": b""}
    # A PNG whose header claims 20000 x 20000, and one a little above the limit.
    for name, side in (("vast.png", 20000), ("large.png", 11600)):
        content = bytearray(good["png"])
        content[16:24] = side.to_bytes(4, "big") * 2
        content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
        contents[name] = bytes(content)
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return {name: folder / name for name in contents}


@pytest.mark.parametrize("stream", ["never", "always"])
def test_damaged_files(folder, stream):
    bad = damaged(folder)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        error = refusal(folder, stream=stream)
        assert f"{len(bad)} of the {len(bad) + 8} images" in error.problem
        assert sum(name in error.problem for name in bad) == 5
        assert f"and {len(bad) - 5} more" in error.problem
        assert "--skip-bad" in error.fix
        source = data.load(str(folder), stream=stream, skip_bad=True)
    assert warned == []  # Pillow's own do not leak
    reasons = dict(source.skipped)
    assert sorted(reasons) == sorted(bad)
    assert len(source) == 8
    assert "pixels" in reasons["vast.png"]
    assert "pixels" in reasons["large.png"]
    assert reasons["zero.png"] == "is empty"
    assert reasons["text.png"] == "is not an image"
    names = sorted(set(os.listdir(folder)) - set(bad))
    expected = [planes(Image.open(folder / name).convert("RGB")) for name in names]
    assert torch.equal(source.first(8), torch.stack(expected))


def test_nothing_but_damage(folder):
    folder.mkdir()
    for name in "abcdefg":
        (folder / f"{name}.png").write_bytes(b"")
    error = refusal(folder, skip_bad=True)
    assert "7 of the 7" in error.problem
    assert "None is left" in error.fix


def test_all_cut_short(folder):
    """Good headers, and nothing behind them."""
    for path in fill(folder):
        path.write_bytes(path.read_bytes()[:100])
    for stream in ("never", "always", "never"):
        assert "3 of the 3" in refusal(folder, skip_bad=True, stream=stream).problem


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may read everything")
def test_unreadable_files(folder):
    paths = fill(folder)
    paths[1].chmod(0)
    assert "001.png cannot be read: Permission denied" in refusal(folder).problem
    paths[1].chmod(0o600)  # leaves size and time alone; the verdict must not stick
    assert len(data.load(str(folder))) == 3


def test_a_mixture_of_grey_and_colour(folder):
    for i in range(8):
        save(folder / f"grey{i}.png", picture(i, mode="L"))
    save(folder / "colour.png", picture(9))
    error = refusal(folder)
    assert "8 grey images (grey0.png" in error.problem
    assert "and 3 more" in error.problem
    assert "1 in colour (colour.png)" in error.problem
    assert "--channels" in error.fix


def test_images_of_several_sizes(folder):
    fill(folder, 4)
    for i in range(7):
        save(folder / f"odd{i}.png", picture(i, 30 + i, 20))
    fill(folder, 9)
    error = refusal(folder)
    assert "odd0.png 30 x 20" in error.problem
    assert "odd5" not in error.problem
    assert "and 2 more" in error.problem
    assert "--image-size" in error.fix
    assert data.load(str(folder), image_size=8).shape == (3, 8, 8)


# What is kept


def test_the_second_start_decodes_nothing(folder, cache_folder):
    fill(folder, 5)
    seen = []
    told = []
    first = data.load(
        str(folder), image_size=8, progress=lambda *n: seen.append(n), notify=told.append
    )
    assert str(cache_folder) in told[0]
    assert seen[-1] == (5, 5)
    assert [done for done, _ in seen] == [1, 2, 3, 4, 5]
    seen.clear()
    second = data.load(str(folder), image_size=8, progress=lambda *n: seen.append(n))
    assert seen == []
    assert torch.equal(first.examples, second.examples)
    (kept,) = (cache_folder / "folders").glob("*.pixels")
    # What is taken from there are the pixels that it holds.
    assert kept.read_bytes() == first.examples.numpy().tobytes()


def decoded(folder: Path, **options: object) -> bool:
    """Whether loading had to decode."""
    seen = []
    data.load(str(folder), progress=lambda *n: seen.append(n), **options)
    return bool(seen)


@given(
    before=st.lists(st.tuples(st.text("abc", min_size=1, max_size=3), st.integers(0, 3)),
                    min_size=1, max_size=5, unique_by=lambda f: f[0]),
    after=st.lists(st.tuples(st.text("abc", min_size=1, max_size=3), st.integers(0, 3)),
                   min_size=1, max_size=5, unique_by=lambda f: f[0]),
)  # fmt: skip
def test_a_manifest_tells_any_two_folders_apart(before, after):
    def listing(files):
        return [find.Found(name, size, 7) for name, size in sorted(files)]

    same = sorted(before) == sorted(after)
    assert (find.manifest(listing(before)) == find.manifest(listing(after))) == same


CHANGES = {
    "added": lambda f: save(f / "new.png", picture(8)),
    "removed": lambda f: (f / "001.png").unlink(),
    "renamed": lambda f: (f / "001.png").rename(f / "005.png"),
    "moved": lambda f: (f / "sub").mkdir() or (f / "001.png").rename(f / "sub" / "001.png"),
    "rewritten": lambda f: save(f / "001.png", picture(8)),
    "touched": lambda f: os.utime(f / "001.png", ns=(1, 1)),
    "lengthened": lambda f: (f / "001.png").write_bytes((f / "001.png").read_bytes() + b"x"),
}


@settings(max_examples=12)
@given(st.lists(st.sampled_from(sorted(CHANGES)), min_size=1, max_size=2, unique=True), st.data())
def test_every_change_is_noticed(tmp_path_factory, names, drawn):
    folder = tmp_path_factory.mktemp("pictures")
    stream = drawn.draw(st.sampled_from(["never", "always"]))
    fill(folder)
    data.load(str(folder), stream=stream)
    assert not decoded(folder, stream=stream)
    for name in names:
        if name in ("added", "rewritten") or (folder / "001.png").exists():
            CHANGES[name](folder)
            assert decoded(folder, stream=stream)
            assert not decoded(folder, stream=stream)
    files = sorted(folder.rglob("*.png"), key=lambda p: p.relative_to(folder).as_posix())
    expected = torch.stack([planes(Image.open(path)) for path in files])
    assert torch.equal(data.load(str(folder), stream=stream).first(99), expected)


def test_each_way_of_reading_is_kept_apart(folder):
    fill(folder, 4)
    ways = [{}, {"image_size": 8}, {"channels": 1}, {"image_size": 8, "resize": "stretch"},
            {"pattern": "00[12]*"}]  # fmt: skip
    first = [data.load(str(folder), **way).examples for way in ways]
    assert not any(decoded(folder, **way) for way in ways)
    for way, examples in zip(ways, first, strict=True):
        assert torch.equal(data.load(str(folder), **way).examples, examples)
    assert not torch.equal(first[1], first[3])


def test_what_was_skipped_is_kept_too(folder):
    fill(folder)
    (folder / "bad.png").write_bytes(b"")
    skipped = data.load(str(folder), skip_bad=True).skipped
    assert skipped == (("bad.png", "is empty"),)
    again = data.load(str(folder), skip_bad=True)
    assert (again.skipped, len(again)) == (skipped, 3)
    assert "bad.png" in refusal(folder).problem  # not let through by what is kept
    assert "bad.png" in refusal(folder, stream="always").problem


DAMAGE = {
    "empty": lambda c: b"",
    "cut short": lambda c: c[:-50],
    "a header alone": lambda c: c[:200],
    "another byte": lambda c: c[:-50] + bytes([c[-50] ^ 1]) + c[-49:],
    "another number": lambda c: c.replace(b'"shape":[3]', b'"shape":[4]'),
    "no format": lambda c: b"\xff" * len(c),
    "of another folder": lambda c: c.replace(b'"manifest\\": \\"', b'"manifest\\": \\"0')[:-1],
    "another verdict": lambda c: c.replace(b"[[3, 16, 24], []", b"[[3, 24, 16], []"),
    "no verdict": lambda c: c.replace(b'"verdict"', b'"VERDICT"'),
}


def check_damage(folder: Path, kept: Path, damage: str) -> None:
    expected = data.load(str(folder)).examples.clone()
    content = kept.read_bytes()
    changed = DAMAGE[damage](content)
    assert changed != content
    kept.write_bytes(changed)
    assert decoded(folder)
    assert kept.read_bytes() == content
    assert torch.equal(data.load(str(folder)).examples, expected)


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_cache_is_made_anew(folder, cache_folder, damage):
    fill(folder)
    data.load(str(folder))
    (kept,) = (cache_folder / "folders").glob("*.safetensors")
    check_damage(folder, kept, damage)


@pytest.mark.parametrize(
    "damage", ["empty", "cut short", "a header alone", "another byte", "no format"]
)
def test_damaged_pixels_are_decoded_anew(folder, cache_folder, damage):
    fill(folder)
    data.load(str(folder))
    (kept,) = (cache_folder / "folders").glob("*.pixels")
    check_damage(folder, kept, damage)


def test_a_cache_that_cannot_be_written(folder, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("FGAN_CACHE", str(tmp_path / "file"))
    fill(folder)
    told = []
    for stream in ("never", "always"):
        assert len(data.load(str(folder), stream=stream, notify=told.append)) == 3
    kept = [text for text in told if "are not kept" in text]
    assert len(kept) == 2
    assert all("cannot be written" in text for text in kept)


def test_writing_leaves_nothing_half_done(folder, cache_folder, monkeypatch):
    fill(folder)
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("full")))
    told = []
    data.load(str(folder), notify=told.append)
    assert "full" in told[0]
    assert len(told) == 1
    assert list((cache_folder / "folders").iterdir()) == []


def test_where_the_cache_is(monkeypatch, tmp_path):
    assert files.cache_folder() == Path(os.environ["FGAN_CACHE"])
    monkeypatch.delenv("FGAN_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert files.cache_folder() == tmp_path / "fgan"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert files.cache_folder() == Path.home() / ".cache" / "fgan"


@pytest.mark.parametrize("count", [1, 150])
def test_progress_counts_up_to_the_end(folder, count):
    for i in range(count):
        save(folder / f"{i}.png", Image.new("L", (2, 2), i))
    seen = []
    source = data.load(str(folder), progress=lambda *n: seen.append(n))
    done = [n for n, _ in seen]
    assert done == sorted(set(done))
    assert seen[-1] == (count, count)
    order = sorted(range(count), key=lambda i: f"{i}.png")
    assert source.examples[:, 0, 0, 0].tolist() == order


def test_an_interrupt_ends_the_reading(folder):
    fill(folder, 40)
    done = []

    def progress(*_):
        done.append(1)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        data.load(str(folder), progress=progress)
    assert len(done) == 1
    assert decoded(folder)  # and nothing was kept of it
