"""Suites that ask how far an optimizer generalises: one thing varies, the rest is fixed.

`width`, `depth`, `batch-size`, `dataset-size` and `horizon` are the axes of Metz et al.
2020 (arXiv 2009.11243, figure 5): perceptrons on MNIST, three tasks at each place.
`model-size` is a transformer of 0.2 to 13 million parameters, far beyond what anything was
meta-trained on. The others go to families, data, architectures and arithmetic that TaskSet
does not have. Every root of a name is in the test split, so nothing here was trained on.
"""

import dataclasses
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True)
class Item:
    """A task of a suite by name; see `Entry`. ``num_steps`` None: what the user says."""

    name: str
    part: str = ""
    x: float | None = None
    num_steps: int | None = None


# Test seeds without augmentation: relu he_uniform, relu glorot_normal, leaky he_uniform.
_ROOTS = tuple(f"mlp_family/seed{seed}@mnist" for seed in (10, 57, 66))
_PLAIN = {"batch_size": "64", "num_train": "none", "hidden": "64-64"}


def _mlps(axis: str, values: Sequence[int], fields: Sequence[dict[str, str]]):
    return tuple(
        Item(f"{root}?{_spell(_PLAIN | changed)}", f"{axis} {value}", value)
        for value, changed in zip(values, fields, strict=True)
        for root in _ROOTS
    )


def _spell(fields: dict[str, str]) -> str:
    return "&".join(f"{name}={value}" for name, value in fields.items())


def _tasks(part: str, *names: str) -> tuple[Item, ...]:
    return tuple(Item(name, part) for name in names)


def _on(dataset: str) -> tuple[Item, ...]:
    fields = _spell(_PLAIN | {"hidden": "32-32"})
    roots = (root.partition("@")[0] for root in _ROOTS)
    return _tasks(dataset, *(f"{root}@{dataset}?{fields}" for root in roots))


_WIDTHS = (8, 16, 32, 64, 128, 256, 512)
_DEPTHS = (1, 2, 4, 8, 16)
_BATCHES = (4, 16, 64, 256, 1024)
_SIZES = (32, 128, 512, 2048, 8192, 32768)
_HORIZONS = (100, 500, 2000, 10_000)
_TEXT = "@tiny_shakespeare"
_HEADS = (1, 2, 4, 8)  # of 64: 0.2, 0.9, 3.3 and 12.9 million parameters
_TRANSFORMER = {
    **{"layers": "4", "head_width": "64", "mlp_ratio": "4", "positions": "learned"},
    **{"activation": "swish", "init_scale": "1", "reparam_scale": "1"},
    **{"label_smoothing": "0", "patch_length": "64", "batch_size": "16"},
}

SWEEPS: dict[str, tuple[Item, ...]] = {
    "width": _mlps("width", _WIDTHS, [{"hidden": f"{w}-{w}"} for w in _WIDTHS]),
    "depth": _mlps(
        "depth", _DEPTHS, [{"hidden": "-".join(["32"] * d)} for d in _DEPTHS]
    ),
    "batch-size": _mlps("batch", _BATCHES, [{"batch_size": str(b)} for b in _BATCHES]),
    "dataset-size": _mlps("examples", _SIZES, [{"num_train": str(n)} for n in _SIZES]),
    "horizon": tuple(
        Item(f"{root}?{_spell(_PLAIN)}", f"{steps} steps", steps, steps)
        for steps in _HORIZONS
        for root in _ROOTS
    ),
    "model-size": tuple(
        Item(
            f"transformer_lm/seed24{_TEXT}?{_spell(_TRANSFORMER | {'heads': str(h)})}",
            f"width {64 * h}",
            64 * h,
        )
        for h in _HEADS
    ),
    "families": (
        *_tasks("vision transformer", "vit/seed34", "vit/seed56"),
        *_tasks("MLP-Mixer", "mlp_mixer/seed1", "mlp_mixer/seed43"),
        *_tasks("ResNet", "resnet/seed4", "resnet/seed48"),
        *_tasks("transformer", "transformer_lm/seed2", "transformer_lm/seed24"),
        *_tasks("learned optimizer", "lopt_pes/seed3", "lopt_pes/seed10"),
    ),
    "datasets": (*_on("digits"), *_on("fashion_mnist"), *_on("cifar10")),
    "tabular": (*_on("breast_cancer"), *_on("wine"), *_on("iris")),
    "cifar10": (
        # The 14-layer network of Metz et al. 2020.
        *_tasks("ResNet-14", "resnet/seed64@cifar10", "resnet/seed160@cifar10"),
        *_tasks(
            "convolutions",
            "FixedImageConv_cifar10_32x64x64_bs128",
            "FixedImageConv_cifar10_32x64x128_normal_bs64",
            "FixedImageConv_cifar10_batchnorm_32x64x64_bs128",
        ),
    ),
    "text": (
        *_tasks("transformer", "transformer_lm/seed2", "transformer_lm/seed34"),
        *_tasks(
            "LSTM",
            f"char_rnn_language_model_family/seed70{_TEXT}",
            f"char_rnn_language_model_family/seed74{_TEXT}",
        ),
    ),
    "reconstruction": (
        *_tasks(
            "autoencoder",
            "FixedMLPAE_mnist_32x32x32_bs128",
            "mlp_ae_family/seed294@mnist",
            "mlp_ae_family/seed420@mnist",
        ),
        *_tasks(
            "variational autoencoder",
            "mlp_vae_family/seed35@mnist",
            "mlp_vae_family/seed51@mnist",
            "mlp_vae_family/seed64@mnist",
        ),
    ),
    "ill-conditioned": _tasks(
        # Eigenvalues of A from 1e-5 to 50 and more, so those of A'A to 1e13 apart.
        "quadratic",
        *(f"quadratic_family/seed{seed}" for seed in (12, 32, 94, 134, 253, 327)),
    ),
    "pinn": (
        *_tasks("smooth force", "pinn/seed4", "pinn/seed21", "pinn/seed26"),
        *_tasks("rough force", "pinn/seed5", "pinn/seed25", "pinn/seed28"),
    ),
    "bf16": (
        *_tasks("float32", *(f"{root}?{_spell(_PLAIN)}" for root in _ROOTS)),
        *_tasks("bfloat16", *(f"{root}?{_spell(_PLAIN)}+bf16" for root in _ROOTS)),
    ),
}
