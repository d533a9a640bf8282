"""What the documents say of speed and modes is what the committed results hold."""

from __future__ import annotations

import json
import re
from pathlib import Path

from scipy import stats

from fgan.run.diagnose import Evidence, judge

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


def test_the_committed_summary_is_of_the_committed_results(study):
    studies = study("run")
    (summary,) = (BENCHMARKS / "results").glob("summary-*.md")
    machine = summary.stem.removeprefix("summary-")
    files = {name: summary.with_name(f"{name}-{machine}.json") for name in studies.STUDIES}
    assert studies.summary(files) == summary.read_text(encoding="utf-8")


def test_the_readme_has_the_times_of_the_committed_results():
    (file,) = (BENCHMARKS / "results").glob("step_time-*.json")
    cases = json.loads(file.read_text())["cases"]
    readme = (BENCHMARKS.parent / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([\w-]+)`, batch (\d+) \|(.+)\|$", readme, re.MULTILINE)
    assert [row[0] for row in rows] == list(cases)
    for name, batch, cells in rows:
        case = cases[name]
        assert int(batch) == case["config"]["batch_size"]
        columns = ("imperative", "compiled-donated", "bfloat16", "jax", "jax-guarded")
        for program, cell in zip(columns, cells.split("|"), strict=True):
            about = case["programs"].get(program)
            if about is None:
                assert not cell.strip()
                continue
            found = [about["milliseconds"]["median"]]
            if program != case["baseline"]:
                found.append(about["speedup"]["median"])
            said = re.findall(r"[\d.]+", cell)
            # Half a unit of the last digit that is printed, and what floats add to it.
            units = [10.0 ** -len(number.partition(".")[2]) for number in said]
            for number, unit, value in zip(said, units, found, strict=True):
                assert abs(float(number) - value) <= 0.5001 * unit, (name, program)


def test_the_page_on_processes_has_the_times_of_the_committed_results(study):
    ranks = study("ranks")
    (file,) = (BENCHMARKS / "results").glob("ranks-*.json")
    cases = json.loads(file.read_text())["cases"]
    page = (BENCHMARKS.parent / "docs" / "ranks.md").read_text(encoding="utf-8")
    section = page.partition("## What messages cost")[2].partition("## ")[0]
    rows = re.findall(r"^\| `([\w-]+)`, (\d+) \|(.+)\|$", section, re.MULTILINE)
    assert [row[0] for row in rows] == list(cases)
    assert {row[0] for row in rows} == set(ranks.CASES)
    for name, batch, cells in rows:
        took, sent = cases[name]["milliseconds"], cases[name]["messages"]
        assert int(batch) == cases[name]["batch_size"]
        expected = [ranks.digits(took[kind]) for kind in ranks.KINDS]
        expected += [str(len(sent["elements"])), f"{sent['bytes']:,}"]
        expected += [ranks.digits(sent["milliseconds"])]
        assert [cell.strip() for cell in cells.split("|")] == expected, name


def test_the_modes_that_are_told_of_are_those_of_the_committed_results():
    (file,) = (BENCHMARKS / "results").glob("modes-grid-*.json")
    games = json.loads(file.read_text())["games"].values()
    told = (BENCHMARKS.parent / "docs" / "modes.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d) \|(.+)\|$", told, re.MULTILINE)
    assert [int(seed) for seed, _ in rows] == list(range(8))
    for seed, cells in rows:
        expected = []
        for game in games:
            captured, good, kl = (
                game[key][int(seed)] for key in ("captured", "high_quality", "reverse_kl")
            )
            expected += [f"{captured}/25", f"{good:.0%}".replace("%", " %"), f"{kl:.3f}"]
        assert [cell.strip() for cell in cells.split("|")] == expected


def test_the_readme_tells_of_the_default_run_what_its_evaluation_found():
    (file,) = (BENCHMARKS / "results").glob("evaluate-mnist-mlp-*.json")
    metrics = json.loads(file.read_text())["metrics"]
    readme = " ".join((BENCHMARKS.parent / "README.md").read_text(encoding="utf-8").split())
    parzen, near = metrics["parzen"], metrics["neighbourhoods"]
    shares = metrics["digit_classes"]["shares"]
    low, high = (round(100 * share) for share in (min(shares), max(shares)))
    for said in (
        f"of those above about {100 * (1 - metrics['digit_classes']['sure']):.0f} %, and",
        f"{parzen['log_likelihood']:.0f} ± {parzen['standard_error']:.0f} nats (Goodfellow",
        f"precision {near['precision']:.2f}, recall {near['recall']:.2f}, "
        f"coverage {near['coverage']:.2f}",
        f"features {metrics['frechet_digits']['distance']:.1f},",
        f"each digit {low} to {high} % of",
    ):
        assert said in readme, said


def test_the_pages_tell_of_the_networks_what_their_evaluations_found():
    results, root = BENCHMARKS / "results", BENCHMARKS.parent
    runs = json.loads((results / "arch-defaults.json").read_text())["runs"]
    scores = (results / "arch-defaults.md").read_text(encoding="utf-8").replace("**", "")
    page, readme = (
        " ".join((root / name).read_text(encoding="utf-8").split())
        for name in ("docs/networks.md", "README.md")
    )
    frechet = {}
    for arch, run in runs.items():
        found = {name: metric["values"] for name, metric in run["metrics"].items()}
        near, frechet[arch] = found["neighbourhoods"], found["frechet_digits"]["distance"]
        (row,) = re.findall(rf"^\| `{arch}`, defaults \|(.+)\|$", scores, re.MULTILINE)
        assert [cell.split("±")[0].strip() for cell in row.split("|")] == [
            f"{run['steps']:,}".replace(",", " "),
            f"{run['seconds']:,}".replace(",", " "),
            f"{found['parzen']['log_likelihood']:.0f}",
            f"{frechet[arch]:.1f}",
            *(f"{near[name]:.2f}" for name in ("precision", "recall", "density", "coverage")),
            f"{found['digit_classes']['kl']:.3f}",
        ]
        told = [f"{near[name]:.2f}" for name in ("precision", "recall", "coverage")]
        assert f"| {frechet[arch]:.1f} | {' | '.join(told)} | ![](networks/{arch}.png)" in page
    assert (
        f"`dcgan` has a Fréchet distance of digits' features of {frechet['dcgan']:.1f}, the MLP "
        f"{frechet['mlp']:.1f}, `resnet` {frechet['resnet']:.1f} and `r3gan` {frechet['r3gan']:.1f}"
    ) in readme


def _measured(metrics):
    """Nats, Fréchet distance, neighbourhoods, and the share in doubt in %."""
    near = metrics["neighbourhoods"]
    return [
        metrics["parzen"]["log_likelihood"],
        metrics["frechet_digits"]["distance"],
        *(near[name] for name in ("precision", "recall", "density", "coverage")),
        100 * (1 - metrics["digit_classes"]["sure"]),
    ]


def _scores(metrics):
    """The cells of a table."""
    digits = (0, 1, 2, 2, 2, 2, 1)
    return [f"{x:.{n}f}" for x, n in zip(_measured(metrics), digits, strict=True)]


def _differences(found):
    """The cells of Welch's 95 % intervals of bfloat16's means less float32's."""
    runs = found["dtypes of dcgan"]
    parts = {
        dtype: [_measured(run["metrics"]) for run in runs if run["dtype"] == dtype]
        for dtype in ("float32", "bfloat16")
    }
    test = stats.ttest_ind(parts["bfloat16"], parts["float32"], equal_var=False)
    ends = test.confidence_interval(0.95)
    return [
        f"{low:.{digits}f} to {high:.{digits}f}".replace("-", "−")
        for low, high, digits in zip(ends.low, ends.high, (1, 1, 3, 3, 2, 3, 1), strict=True)
    ]


def test_the_page_on_speed_has_the_ratios_of_jax_of_the_committed_results(study):
    steps = study("step_time")
    page = (BENCHMARKS.parent / "docs" / "speed.md").read_text(encoding="utf-8")
    text = " ".join(page.split())
    for kind in ("step_time", "networks"):
        (file,) = (BENCHMARKS / "results").glob(f"{kind}-*.json")
        for name, case in json.loads(file.read_text())["cases"].items():
            times = {p: about["milliseconds"]["each"] for p, about in case["programs"].items()}
            if "jax" not in times:
                continue
            found = [steps.ratio(times[p], times[steps.OURS]) for p in ("jax", "jax-guarded")]
            if kind == "step_time":
                cells = [f"{r.median:.2f} ({r.low:.2f}–{r.high:.2f})" for r in found]
                assert f"| `{name}` | {' | '.join(cells)} |" in page
            else:
                bare, guarded = found
                assert f"{guarded.median:.2f} times as long with the same work" in text
                assert f"({guarded.low:.2f}–{guarded.high:.2f}) and {bare.median:.2f} times" in text


def test_the_readme_has_the_range_of_jax_and_of_the_steps_of_the_committed_results(study):
    steps = study("step_time")
    (file,) = (BENCHMARKS / "results").glob("step_time-*.json")
    cases = json.loads(file.read_text())["cases"].values()
    ratios = {"jax": [], "jax-guarded": []}
    for case in cases:
        times = {p: about["milliseconds"]["each"] for p, about in case["programs"].items()}
        for program, found in ratios.items():
            if program in times:
                found.append(steps.ratio(times[program], times[steps.OURS]).median)
    readme = " ".join((BENCHMARKS.parent / "README.md").read_text(encoding="utf-8").split())
    low, high = min(ratios["jax-guarded"]), max(ratios["jax-guarded"])
    assert f"takes {low:.1f} to {high:.1f} times as long ([by pairs]" in readme
    *level, longest = sorted(ratios["jax"])
    assert f"as long as ours or, in `faces-mlp`, {longest:.1f} times as long." in readme
    assert [round(each, 1) for each in level] == [1.0] * len(level)
    trained = [case["trained_steps"] for case in cases]
    assert f"for a while ({min(trained)} to {max(trained)} steps)" in readme


def test_the_page_on_speed_tells_what_is_kept_beside_a_busy_process():
    (file,) = (BENCHMARKS / "results").glob("shared_machine-*.json")
    page = " ".join((BENCHMARKS.parent / "docs/speed.md").read_text(encoding="utf-8").split())
    for name, about in json.loads(file.read_text())["cases"].items():
        plain, watched = (
            f"{100 * about[program]['kept']['median']:.0f} %"
            for program in ("compiled-donated", "compiled-donated, watched")
        )
        told = rf"`{name}` (then keeps )?{watched} (of its speed )?instead of {plain}"
        assert re.search(told, page), (name, watched, plain)


def test_the_pages_tell_of_the_latents_of_dcgan_what_their_evaluations_found():
    results, root = BENCHMARKS / "results", BENCHMARKS.parent
    found = json.loads((results / "arch-defaults.json").read_text())
    scores = (results / "arch-defaults.md").read_text(encoding="utf-8").replace("**", "")
    for run, latent in zip(
        found["latents of dcgan"], ("100 normal numbers", "64, and a choice of 10"), strict=True
    ):
        assert f"| {latent} | linear to 0.1 | {' | '.join(_scores(run['metrics']))} |" in scores
    doubts = {}
    for run in found["dtypes of dcgan"]:
        cells = _scores(run["metrics"])
        assert f"| {run['dtype']} | {run['seed']} | {' | '.join(cells)} |" in scores
        doubts[run["dtype"], run["seed"]] = float(cells[-1])
    assert f"| bfloat16 less float32 | 95 % | {' | '.join(_differences(found))} |" in scores
    alone = found["a choice in the latent of r3gan"]["metrics"]
    near = alone["neighbourhoods"]
    assert (
        f"Fréchet distance of digits {alone['frechet_digits']['distance']:.1f}, "
        f"recall {near['recall']:.2f}, coverage {near['coverage']:.2f}"
    ) in scores
    (file,) = results.glob("networks-*.json")
    programs = json.loads(file.read_text())["cases"]["dcgan"]["programs"]
    narrow, wide = (
        programs[name]["milliseconds"]["median"] for name in ("bfloat16", "compiled-donated")
    )
    assert f"takes {narrow / wide:.2f} times" in scores
    assert f"({narrow:.1f} ms for {wide:.1f}, `networks`)" in scores
    page, readme = (
        " ".join((root / name).read_text(encoding="utf-8").split())
        for name in ("docs/networks.md", "README.md")
    )
    assert f"took {found['runs']['dcgan']['seconds']} s on one core" in readme
    three = [doubts["bfloat16", seed] for seed in range(3)]
    assert (
        "of {} % of `dcgan`'s samples ({} and {} % with the seeds 1 and 2)".format(*three) in page
    )
    assert f"about {min(three):.0f} to {max(three):.0f} % of the samples of three seeds" in readme


def test_the_pages_tell_of_cut_off_latents_what_their_evaluations_found():
    results, root = BENCHMARKS / "results", BENCHMARKS.parent
    found = json.loads((results / "mnist-mlp-truncated.json").read_text())
    page = (results / "mnist-mlp-defaults.md").read_text(encoding="utf-8")
    cut = {str(run["seed"]): run["metrics"] for run in found["truncated"]}
    tried = {f"`{run['options']}`": run["metrics"] for run in found["tried"]}
    tried["`losses.top_k` of 0.75"] = tried.pop("`losses.top_k of 0.75`")
    doubts = []
    for name, metrics in (cut | tried).items():
        doubts.append(100 * (1 - metrics["digit_classes"]["sure"]))
        assert f"| {name} | {' | '.join(_scores(metrics))} |" in page
    readme = " ".join((root / "README.md").read_text(encoding="utf-8").split())
    assert f"with `--truncation 1.25` about {sum(doubts[:3]) / 3:.0f} %" in readme


def test_the_speed_on_a_gpu_is_that_of_the_committed_check():
    (file,) = (BENCHMARKS / "results").glob("gpu-*.json")
    (run,) = (p for p in json.loads(file.read_text())["parts"] if p["part"] == "train: cold")
    told = f"{round(run['last']['images_per_second'], -3):,.0f} images a second".replace(",", " ")
    for page in ("README.md", "docs/speed.md"):
        text = " ".join((BENCHMARKS.parent / page).read_text(encoding="utf-8").split())
        assert told in text, page


def test_the_reproduced_results_are_the_committed_ones(study):
    reproduced = study("reproduced")
    page = (BENCHMARKS.parent / "docs" / "reproduce.md").read_text(encoding="utf-8")
    found = reproduced.results()
    assert {"bilinear", "dirac", "metric-selftests"} <= {each["preset"] for each in found}
    assert len(list(reproduced.RESULTS.glob("*.json"))) == len(found)
    sections = [reproduced.section(each) for each in found]
    assert page.endswith("\n\n".join(sections) + "\n")
    assert re.findall(r"^## (.+):", page, re.MULTILINE) == [each["preset"] for each in found]
    for each in found:
        assert {"fgan", "torch", "python", "device", "cores", "threads"} <= set(each["machine"])
        # What is committed is a preset of today's: the same rows of the same published values.
        assert each["paper"] == reproduced.ALL[each["preset"]].paper


def test_the_table_of_diagnoses_is_that_of_the_committed_results(study):
    """Each run that was made to fail is named, each good one gets no verdict."""
    diagnose = study("diagnose")
    (file,) = (BENCHMARKS / "results").glob("diagnose-*.json")
    runs = json.loads(file.read_text())["runs"]
    assert diagnose.table(runs) in (BENCHMARKS.parent / "docs" / "diagnose.md").read_text("utf-8")
    assert {row["name"] for row in runs if row["seed"] == 0} == set(diagnose.RUNS)
    for row in runs:
        found = judge(diagnose.restored(Evidence, row["evidence"]))
        assert row["named"] == [verdict.name for verdict in found]
        assert row["sentences"] == [verdict.sentence for verdict in found]
        assert row["expected"] in row["named"] if row["expected"] else not row["named"], row["name"]
