"""The programs that load an export, as its model card and the documentation show them."""

from __future__ import annotations

from fgan.run.export.subject import Subject

_NUM = 16  # samples


def loading(name: str, subject: Subject) -> str:
    """A program that loads the file of a format and makes samples, to be run in its folder."""
    lines = {"torch": _torch, "onnx": _onnx, "safetensors": _safetensors}[name](_Words(subject))
    return "\n".join(line for line in lines if line is not None) + "\n"


class _Words:
    """The parts of programs that depend on the generator; None is a line that there is not."""

    def __init__(self, subject: Subject) -> None:
        maker = subject.maker
        self.latent = ", ".join(map(str, (_NUM, *maker.gen.shape.main)))
        self.num_classes = len(maker.classes.names)
        self.inputs = "z, labels" if self.num_classes else "z"
        self.is_images, self.low = maker.is_images, maker.low
        self.made = "images" if maker.is_images else "points"
        self.shape = maker.gen.shape.output
        self.said = f"# {[_NUM, *self.shape]}"
        if maker.is_images:
            self.said += ", from 0 (black) to 1 (white)"

    def if_images(self, line: str) -> str | None:
        return line if self.is_images else None

    def labels(self, module: str) -> str | None:
        if not self.num_classes:
            return None
        return f"labels = {module}.arange({_NUM}) % {self.num_classes}"

    def saved(self, name: str) -> str:
        if not self.is_images:
            return "print(points)"
        return f'save_image(images, "{name}.png", nrow=4)'


def _torch(words: _Words) -> list[str | None]:
    return [
        "import torch",
        words.if_images("from torchvision.utils import save_image"),
        "",
        'generator = torch.export.load("generator.pt2").module()',
        f"z = torch.randn({words.latent})",
        words.labels("torch"),
        "with torch.no_grad():",
        f"    {words.made} = generator({words.inputs})  {words.said}",
        words.saved("torch"),
    ]


def _onnx(words: _Words) -> list[str | None]:
    given = ", ".join(f'"{name}": {name}' for name in words.inputs.split(", "))
    first = "images[0, 0]" if words.shape[0] == 1 else "images[0].transpose(1, 2, 0)"
    save = f'Image.fromarray((255 * {first}).round().astype(np.uint8)).save("onnx.png")'
    return [
        "import numpy as np",
        "import onnxruntime",
        words.if_images("from PIL import Image"),
        "",
        'session = onnxruntime.InferenceSession("generator.onnx")',
        f"z = np.random.default_rng(0).standard_normal(({words.latent}), np.float32)",
        words.labels("np"),
        words.said,
        f"({words.made},) = session.run(None, {{{given}}})",
        save if words.is_images else "print(points)",
    ]


def _safetensors(words: _Words) -> list[str | None]:
    scaled = "images.clamp(0, 1)" if words.low == 0 else "((images + 1) / 2).clamp(0, 1)"
    return [
        "import json",
        "",
        "import torch",
        "from safetensors import safe_open",
        "from safetensors.torch import load_file",
        words.if_images("from torchvision.utils import save_image"),
        "",
        "from fgan import model, nets",
        "",
        'with safe_open("generator.safetensors", "pt") as file:',
        '    facts = json.loads(file.metadata()["fgan"])  # the networks and their options',
        'gen, _ = nets.ALL[facts.pop("arch")](**facts)',
        "generator = model.to_module(gen)",
        'generator.load_state_dict(load_file("generator.safetensors"))',
        f"z = torch.randn({words.latent})",
        words.labels("torch"),
        "with torch.no_grad():",
        f"    {words.made} = generator({words.inputs})"
        + ("" if words.is_images else f"  {words.said}"),
        words.if_images(f"    images = {scaled}  {words.said}"),
        words.saved("safetensors"),
    ]
