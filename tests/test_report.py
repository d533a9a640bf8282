"""The report has the numbers of the runs, and in a real browser its controls do their work."""

from __future__ import annotations

import html
import json
import math
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from fgan.disk.rundir import RunDir
from fgan.errors import ConfigError, DeviceError, RunError
from fgan.run import loop, report
from fgan.run.config import resolve
from fgan.run.diagnose import Verdict
from fgan.run.latents import slerp
from fgan.run.report import charts, curves, judged, latents, page, pictures
from fgan.run.report.recorded import read

extra = pytest.mark.skipif(
    not report.is_available(), reason="the extra is not installed: pip install '.[report]'"
)
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)
SMALL = {
    "gen_hidden": (4,), "disc_hidden": (4,), "batch_size": 8, "log_every": 1, "sample_every": 2,
    "grid": 4, "report": False,
}  # fmt: skip
IMAGES = {"data": "mnist", "steps": 4, **SMALL}
POINTS = {"data": "ring", "steps": 4, **{k: v for k, v in SMALL.items() if k != "grid"}}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs that differ in their rates, and a population of two seeds."""
    folder = tmp_path_factory.mktemp("runs")
    kinds = {
        "one": IMAGES,
        "other": IMAGES | {"lr": 0.002},
        "population": POINTS | {"seeds": (3, 5)},
    }
    for name, options in kinds.items():
        loop.run(resolve(**options), run_dir=folder / name)
    return folder


def line(step, metric="coverage", name="value", value=0.5, **more):
    return {
        "step": step, "checkpoint": f"step-{step:07d}.safetensors", "seed": 0, "samples": 100,
        "against": "train", "data": "0", "metric": metric, "protocol": "1: k = 5",
        "values": {name: value}, "intervals": {}, "fgan": "0", **more,
    }  # fmt: skip


def written(run, *lines):
    RunDir(run).evaluations.write_text("".join(json.dumps(each) + "\n" for each in lines))


def refuse(sentence):
    raise AssertionError(sentence)


def test_a_curve_has_the_numbers_of_the_log(runs):
    own, log = curves.make([read(runs / "one", refuse)]), RunDir(runs / "one").read_metrics()
    assert [curve.label for curve in own] == ["one"]
    for name in ("step", "gen_loss", "d_fake", "term_r1"):
        expected = [row[name] for row in log]
        # Six digits are kept.
        for got, number in zip(own[0].columns[name], expected, strict=True):
            assert got is number is None or math.isclose(got, number, rel_tol=5e-6), name


def test_curves_are_named_by_what_differs(runs):
    both = [read(runs / name, refuse) for name in ("one", "other")]
    assert [curve.label for curve in curves.make(both)] == ["lr 0.001", "lr 0.002"]
    alike = [both[0], both[0]]
    assert [curve.label for curve in curves.make(alike)] == ["one", "one"]
    population = curves.make([read(runs / "population", refuse)])
    assert [curve.label for curve in population] == ["seed 3", "seed 5"]
    assert [curve.members[0].number for curve in population] == [0, 1]


def test_what_follows_from_the_loss_is_not_said():
    settings = [resolve(data="mnist", loss=loss) for loss in ("relativistic", "non_saturating")]
    written_ones = [{**vars(each)} for each in settings]
    assert written_ones[0]["r1"] != written_ones[1]["r1"]
    assert curves.differences(written_ones) == ["loss"]
    assert curves.differences([{"log_every": 1}, {"log_every": 2}]) == ["log_every"]


def test_many_members_become_settings(tmp_path):
    run = RunDir(tmp_path / "many")
    run.make()
    run.config.write_text('seeds = "0-5"\nsweep = ["lr=0.1,0.2"]\n')
    rows = [
        {"step": s, "member": i, "lr": 0.1 if i < 6 else 0.2, "gen_loss": i * s if i != 1 else None}
        for s in (1, 2)
        for i in range(12)
    ]
    run.append_metrics(*rows)
    own = curves.make([read(run.path, lambda sentence: None)])
    assert [curve.label for curve in own] == ["lr 0.1, 6 members", "lr 0.2, 6 members"]
    assert own[0].columns["gen_loss"] == [14 / 5, 28 / 5]  # member 1 has no number
    assert (own[0].low["gen_loss"], own[0].high["gen_loss"]) == ([0, 0], [5, 10])
    assert [list(chart.columns) for chart in charts.of(own, [None])] == [["gen_loss"]]


def test_a_long_curve_is_averaged(monkeypatch):
    monkeypatch.setattr(curves, "_MOST_POINTS", 2)
    rows = [{"step": s, "seconds": t, "x": s} for s, t in ((1, 5.0), (2, 9.0), (3, 1.0), (4, 2.0))]
    # The third line is of a process that resumed the run.
    expected = {"step": [2, 4], "seconds": [9, 11], "x": [1.5, 3.5]}
    assert curves._columns(rows) == expected


def test_the_last_evaluation_counts(runs):
    run = runs / "population"
    written(
        run,
        line(2, member=0, value=0.9),
        line(4, member=0, value=0.25, intervals={"value": [0.2, 0.3]}),
        line(4, member=0, value=0.5, intervals={"value": [0.4, 0.6]}),
        line(4, member=1, value=None),
    )
    recorded = read(run, refuse)
    (result,) = judged.results([recorded], curves.make([recorded]))
    assert (result.metric, result.protocol, result.is_curve) == ("coverage", "k = 5", True)
    first, second = result.points
    assert [p[:3] for p in first] == [(2, 0.9, None), (4, 0.5, (0.4, 0.6))]
    assert [p[:3] for p in second] == [(4, None, None)]
    written(run)


def test_a_mean_over_members_has_an_interval():
    lines = [line(1, member=i, value=v) for i, v in enumerate((1.0, 2.0, 3.0))]
    point = judged._point(1, lines, "value")
    half = 1.96 / math.sqrt(3)  # the deviation of 1, 2, 3 is 1
    assert point.value == 2.0
    assert point.interval == pytest.approx((2 - half, 2 + half), rel=1e-12)
    assert point.members == 3


def test_slerp_stays_on_the_arc():
    start, end = torch.eye(3, dtype=torch.float64)[:2, None]
    t = torch.linspace(0, 1, 5, dtype=torch.float64)
    quarter = torch.stack([(t * math.pi / 2).cos(), (t * math.pi / 2).sin(), 0 * t], -1)
    # The angle is clamped by 1e-6 in its cosine, which a right angle does not meet.
    torch.testing.assert_close(slerp(start, end, t)[0], quarter, rtol=0, atol=1e-12)
    same = slerp(start, start, t)
    torch.testing.assert_close(same[0], start.expand(5, 3), rtol=0, atol=1e-5)


def test_an_interpolation_ends_in_the_samples_of_seed_0(runs):
    from fgan.run import sample

    shown = latents.interpolation(read(runs / "one", refuse), num_rows=2)
    first = torch.from_numpy(np.array(shown))
    samples = sample.sample(runs / "one", 4)[:, 0]
    ends = [first[2:30, 2:30], first[32:60, 2:30]]
    for end, expected in zip(ends, samples, strict=False):
        # Another number of rows rounds products in another way, at most to the next grey.
        assert (end.int() - expected.int()).abs().max() <= 1
    assert latents.interpolation(read(runs / "population", refuse)) is None  # points


def test_a_choice_changes_once_in_a_row(tmp_path):
    """The generator is made blind to the other numbers, so that an image shows its choice."""
    from fgan.run import sample as sampling

    pixels = np.random.default_rng(0).integers(0, 255, (32, 4, 4), np.uint8)
    np.save(tmp_path / "images.npy", pixels)
    options = {"z_dim": 8, "z_choice": 6, "gen_hidden": (), "disc_hidden": (4,), "steps": 1}
    config = resolve(data=str(tmp_path / "images.npy"), batch_size=8, ema=0.0, **options)
    run = loop.run(config, run_dir=tmp_path / "run").run.path
    usual = sampling.open_maker

    def blind(*args):
        maker = usual(*args)
        maker.weights.params["1.weight"][:, :2] = 0
        return maker

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sampling, "open_maker", blind)
        shown = torch.from_numpy(np.array(latents.interpolation(read(run, refuse))))
    for i in range(6):
        row = shown[2 + 6 * i : 6 + 6 * i]
        images = [row[:, 2 + 6 * j : 6 + 6 * j] for j in range(11)]
        assert all(torch.equal(image, images[0]) for image in images[:5])
        assert all(torch.equal(image, images[-1]) for image in images[5:])


@pytest.mark.parametrize("options", [{"z_dim": 1}, {"z_dim": 4, "z_choice": 3}], ids=str)
def test_between_latents_of_one_number_no_report_shows_samples(tmp_path, options):
    """0.5 and -0.7 have no arc between them: on it they would pass -140."""
    np.save(tmp_path / "images.npy", np.arange(8 * 16, dtype=np.uint8).reshape(8, 4, 4))
    options = {"gen_hidden": (4,), "disc_hidden": (4,), "batch_size": 8, "steps": 1} | options
    config = resolve(data=str(tmp_path / "images.npy"), report=False, gif=False, **options)
    run = loop.run(config, run_dir=tmp_path / "run").run.path
    with pytest.raises(ConfigError, match="latents of one number"):
        latents.interpolation(read(run, refuse))


def test_frames_are_chosen_evenly_and_large_ones_shrink(tmp_path):
    assert pictures.spread_out(range(100), 4) == [0, 33, 66, 99]
    noise = torch.randint(0, 255, (1200, 1200), generator=torch.Generator().manual_seed(0))
    Image.fromarray(noise.to(torch.uint8).numpy()).save(tmp_path / "large.png")
    large = pictures.of_file(tmp_path / "large.png")
    assert (large["width"], large["height"]) == (1024, 1024)
    assert large["src"].startswith("data:image/jpeg;base64,")
    (tmp_path / "cut.png").write_bytes((tmp_path / "large.png").read_bytes()[:1000])
    assert pictures.of_file(tmp_path / "cut.png") == {}


def test_what_is_no_run_is_refused(tmp_path, monkeypatch):
    for place, said in ((tmp_path / "none", "does not exist"), (tmp_path, "neither metrics nor")):
        with pytest.raises(RunError, match=said):
            read(place, refuse)
    monkeypatch.setattr(report, "_PACKAGES", ("no_such_package",))
    with pytest.raises(DeviceError, match=r"A report needs no_such_package") as error:
        report.make([tmp_path])
    assert "fgan[report]" in error.value.fix


@extra
def test_the_command_writes_one_file(fgan, runs):
    code, out, err = fgan("report", runs / "one", "--no-diagnose")
    assert (code, out, err) == (0, f"{runs / 'one' / 'report.html'}\n", "")
    text = (runs / "one" / "report.html").read_text(encoding="utf-8")
    own = text.partition("<script>")[0]  # what follows is plotly's
    assert not re.search(r"(?:src|href)=\"(?!data:|#)", own)
    assert "<code>--batch-size</code>" in own
    assert fgan("report", runs / "one", "-o", "no/such.html")[0] == 7
    assert fgan("report", runs / "none")[0] == 4


@extra
def test_damage_leaves_parts_out(runs, tmp_path):
    run = tmp_path / "<b>damaged"
    shutil.copytree(runs / "one", run)
    (run / "config.toml").write_text("no toml")
    for checkpoint in RunDir(run).saved():
        checkpoint.write_bytes(checkpoint.read_bytes()[:-1])
    (run / "samples" / "real.png").unlink()
    said = []
    text = report.make([run], said.append)
    assert len(said) == 2
    assert "&lt;b&gt;damaged" in text
    assert "<b>damaged" not in text.partition('<script type="application/json"')[0]
    assert 'id="configuration"' not in text
    assert 'id="curves"' in text


# The browser runs this after the script of the page; the page then has the answers as its text.
CHECK = """
<script>
(async () => {
  const errors = [];
  addEventListener("error", (event) => errors.push(String(event.message)));
  const one = (selector) => document.querySelector(selector);
  const plots = [...document.querySelectorAll(".plot")];
  const fire = (element, kind) => element.dispatchEvent(new Event(kind, { bubbles: true }));
  const names = (plot) => plot.data.map((trace) => trace.name);
  const found = { errors, charts: plots.length, before: names(plots[0]) };
  found.type = plots[0].layout.yaxis.type;
  const image = one("[data-frames]"), last = image.src;
  const slider = one("#frame");
  slider.focus();
  found.focused = document.activeElement === slider;
  slider.value = 0;
  fire(slider, "input");
  found.step = one("#frame-step").value;
  found.moved = image.src !== last;
  const box = one("[data-curve='1']");
  box.click();
  found.after = names(plots[0]);
  one("[data-log='0']").click();
  found.log = plots[0].layout.yaxis.type;
  one("#abscissa").value = "epoch";
  fire(one("#abscissa"), "change");
  found.along = plots[0].layout.xaxis.title.text;
  const paper = () => getComputedStyle(document.body).backgroundColor;
  const light = paper();
  one("#theme").click();
  found.dark = paper() !== light;
  await Plotly.relayout(plots[0], { "xaxis.range[0]": 0.1, "xaxis.range[1]": 0.2 });
  await new Promise((wake) => setTimeout(wake, 100));
  found.zoomed = plots[1].layout.xaxis.range;
  one("#unzoom").click();
  found.unzoomed = plots[1].layout.xaxis.autorange;
  found.wide = document.documentElement.scrollWidth <= innerWidth;
  const loaded = performance.getEntriesByType("resource").map((entry) => entry.name);
  found.network = loaded.filter((name) => !name.startsWith("data:"));
  const answer = document.createElement("pre");
  answer.id = "answer";
  answer.textContent = JSON.stringify(found);
  document.body.replaceChildren(answer);
})();
</script>
"""


@extra
@pytest.mark.skipif(not CHROMIUM, reason="there is no Chromium")
@pytest.mark.skipif(sys.platform == "win32", reason="Chromium is started otherwise there")
@pytest.mark.parametrize("size", ["1280,900", pytest.param("500,900", marks=pytest.mark.slow)])
def test_a_browser_shows_it_and_its_controls_act(runs, tmp_path, size):
    text = report.make([runs / "one", runs / "other"], refuse)
    file = tmp_path / "report.html"
    file.write_text(text.replace("</body>", CHECK + "</body>"), encoding="utf-8")
    command = [
        CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr",
        f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=2000",
        f"--window-size={size}", "--dump-dom", file.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=True)
    assert "CONSOLE" not in done.stderr, done.stderr
    answer = re.search(r'<pre id="answer">(.*?)</pre>', done.stdout, re.DOTALL)
    assert answer, done.stdout[-1000:]
    found = json.loads(html.unescape(answer[1]))
    assert found["errors"] == []
    assert found["charts"] == 10  # 2 losses, 2 outputs, 2 norms, value, 2 terms, speed
    assert (found["before"], found["after"]) == (["lr 0.001", "lr 0.002"], ["lr 0.001"])
    assert (found["type"], found["log"]) == ("linear", "log")
    assert (found["step"], found["moved"], found["focused"]) == ("step 2", True, True)
    assert found["along"] == "epoch"
    assert found["zoomed"] == [0.1, 0.2]
    assert found["dark"]
    assert found["unzoomed"]
    assert found["wide"]
    assert found["network"] == []


@extra
def test_verdicts_are_of_each_curve(runs, monkeypatch):
    def say(run, member, *, notify):
        verdict = Verdict(
            "one", f"Member {member} fails.", {}, "The limit is <3>.", "Try more data."
        )
        return [verdict] * member  # member 0 is healthy

    monkeypatch.setattr(page, "diagnose", say)
    said = []
    text = report.make([runs / "population"], said.append, judge=True)
    assert said == ["Diagnosing seed 3 ...", "Diagnosing seed 5 ..."]
    assert text.count("No failure shows in the numbers of this run.") == 1
    assert "Member 1 fails." in text
    assert "The limit is &lt;3&gt;." in text
    assert 'id="verdicts"' not in report.make([runs / "population"], refuse)
