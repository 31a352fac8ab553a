"""Settings: every mistake is reported at once with its place; YAML and command line together; the shipped recipes."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest
import yaml

from mien.cli import main
from mien.cli.settings import read_settings
from mien.config import (
    AugmentConfig,
    DistillConfig,
    FreezeConfig,
    PretrainConfig,
    RunConfig,
    TrainConfig,
    differences,
    expected,
    field_types,
    to_dict,
)
from mien.errors import MienError

CONFIGS = sorted((Path(__file__).parents[1] / "src/mien/recipes").glob("*.yaml"))
DATA_AND_OUT = ["--data", "faces.zip", "--out", "runs/x"]


def test_words_and_numbers_in_a_file_are_what_they_look_like(tmp_path: Path) -> None:
    """YAML 1.1 takes these for a date, for base 60 and for base 8."""
    path = tmp_path / "recipe.yaml"
    path.write_text("data: faces.zip\nout: 2026-11-27\nbackbone: 12:30\nseed: 010\nepochs: 1_000\nlr: 3e-5\n")
    config = read("--config", str(path))
    assert (config.out, config.backbone, config.seed, config.epochs, config.lr) == (
        "2026-11-27", "12:30", 10, 1000, 3e-5,
    )  # fmt: skip
    assert yaml.safe_load(yaml.safe_dump({"out": config.out})) == {"out": "2026-11-27"}


def read(*arguments: str) -> TrainConfig:
    """The configuration that ``mien train`` would train with."""
    return read_settings(TrainConfig, arguments, "mien train")[0]


def problems(*arguments: str) -> list[str]:
    """What ``mien train`` would say is wrong, without the hint at the end."""
    with pytest.raises(MienError) as error:
        read(*arguments)
    message, hint = str(error.value).rsplit("; ", 1)
    assert hint == "see `mien train --help`"
    return message.split("; ")


def recipe(tmp_path: Path, text: str) -> str:
    """A YAML file with this text."""
    path = tmp_path / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_defaults() -> None:
    assert read(*DATA_AND_OUT) == TrainConfig(data="faces.zip", out="runs/x")


def test_dashes_and_underscores_are_alike() -> None:
    dashed = read(*DATA_AND_OUT, "--batch-size", "32", "--freeze.release-epoch=3", "--augment.crop-scale", "0.5")
    scored = read(*DATA_AND_OUT, "--batch_size=32", "--freeze.release_epoch", "3", "--augment.crop_scale", "0.5")
    assert dashed == scored
    assert (dashed.batch_size, dashed.freeze.release_epoch, dashed.augment.crop_scale) == (32, 3, 0.5)


def test_values_have_the_types_of_their_fields() -> None:
    config = read("--data", "12", "--out", "2024-01-01", "--lr", "3e-5", "--freeze.blocks", "null", "--ema", "0")
    assert (config.data, config.out, config.lr, config.freeze.blocks) == ("12", "2024-01-01", 3e-5, None)
    assert isinstance(config.ema, float)


def test_a_switch_needs_no_value() -> None:
    assert read(*DATA_AND_OUT, "--tensorboard", "--class-weights", "false", "--freeze.random_weights").tensorboard
    assert read(*DATA_AND_OUT, "--tensorboard", "--class-weights", "false").class_weights is False
    assert read(*DATA_AND_OUT, "--linear-probe", "--epochs", "3").linear_probe is True
    assert read(*DATA_AND_OUT, "--no-linear-probe").linear_probe is False
    assert read(*DATA_AND_OUT, "--linear-probe", "null").linear_probe is None


def test_the_default_folder_has_the_name_of_the_backbone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mae" / "inner").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "mae" / "inner")
    for backbone, name in {"..": "mae", ".": "inner", "timm:resnet18": "timm-resnet18", "a/b": "b"}.items():
        assert read("--data", "faces.zip", "--backbone", backbone).out == str(Path("runs") / name)


def test_command_line_wins_over_yaml_wherever_it_stands(tmp_path: Path) -> None:
    path = recipe(tmp_path, "epochs: 7\nlr: 3e-5\naugment:\n  mixup: 0.2\n  flip: 0\n")
    for arguments in (["--config", path, "--epochs", "3"], ["--epochs", "3", "--config", path]):
        config = read(*DATA_AND_OUT, *arguments, "--augment.mixup=0.4")
        assert (config.epochs, config.lr, config.augment.mixup, config.augment.flip) == (3, 3e-5, 0.4, 0)


def test_a_later_file_wins_over_an_earlier_one(tmp_path: Path) -> None:
    first, second = tmp_path / "a.yaml", tmp_path / "b.yaml"
    first.write_text("epochs: 7\nseed: 5\n")
    second.write_text("epochs: 8\n")
    config = read(*DATA_AND_OUT, "--config", str(first), "--config", str(second))
    assert (config.epochs, config.seed) == (8, 5)


def test_a_list_is_the_words_after_its_option(tmp_path: Path) -> None:
    assert read(*DATA_AND_OUT, "--teacher", "runs/a", "runs/b c", "--epochs", "3").teacher == ["runs/a", "runs/b c"]
    assert read(*DATA_AND_OUT, "--teacher=runs/a", "runs/b").teacher == ["runs/a", "runs/b"]
    assert read(*DATA_AND_OUT, "--teacher", '["runs/a"]').teacher == ["runs/a"]
    path = recipe(tmp_path, "teacher: [runs/a, runs/b]\n")
    assert read(*DATA_AND_OUT, "--config", path).teacher == ["runs/a", "runs/b"]
    assert read(*DATA_AND_OUT, "--config", path, "--teacher", "[]").teacher == []
    assert read(*DATA_AND_OUT, "--config", path, "--teacher", "12").teacher == ["12"]


def test_network_args_are_yaml_or_json(tmp_path: Path) -> None:
    expected = {"layers": [1, 1, 1, 1], "block": "basic", "drop_rate": 0.1, "deep": True, "none": None}
    text = "{layers: [1, 1, 1, 1], block: basic, drop_rate: 0.1, deep: true, none: null}"
    arguments = [*DATA_AND_OUT, "--backbone", "timm:resnet18"]
    assert read(*arguments, "--network-args", json.dumps(expected)).network_args == expected
    assert read(*arguments, "--network-args", text).network_args == expected
    assert read(*arguments, "--config", recipe(tmp_path, f"network_args: {text}\n")).network_args == expected
    lines = "network_args:\n  layers: [1, 1, 1, 1]\n  block: basic\n"
    nested = read(*arguments, "--config", recipe(tmp_path, lines)).network_args
    assert nested == {"layers": [1, 1, 1, 1], "block": "basic"}


def test_an_empty_file_changes_nothing(tmp_path: Path) -> None:
    assert read(*DATA_AND_OUT, "--config", recipe(tmp_path, "# nothing yet\n")) == read(*DATA_AND_OUT)


def test_a_tilde_is_the_home_folder_where_no_shell_resolves_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "run.yaml").write_text(
        "data: ~/faces\nout: ~/runs/x\nbackbone: ~/mae\nteacher: [~/cnn]\ntargets: ~/answers\n"
    )
    config, _ = read_settings(TrainConfig, ["--config=~/run.yaml", "--out=~/runs/y"])
    places = [config.data, config.out, config.backbone, *config.teacher, str(config.targets)]
    assert places == [str(tmp_path / name) for name in ("faces", "runs/y", "mae", "cnn", "answers")]
    assert PretrainConfig(data="~/faces", out="o").data == str(tmp_path / "faces")
    with pytest.raises(MienError, match=f"--resume ~/runs/z: holds no run .*{re.escape('state.safetensors')} is miss"):
        read_settings(TrainConfig, ["--resume=~/runs/z"])


def test_every_mistake_is_reported_at_once(tmp_path: Path) -> None:
    path = recipe(
        tmp_path,
        "epochs: 0\n"
        "drop_pth: 0.1\n"
        "freeze: 3\n"
        "augment:\n"
        "  rotaton: 4\n"
        "  flip: 2\n"
        "  mixup: many\n"
        "clip_grad: -1\n"
        "label_smoothing: [1]\n"
        "clip_grad: 1\n"
        "class_weights: null\n",
    )
    members = "freeze.blocks, freeze.release_epoch, freeze.gradual, freeze.random_weights"
    assert problems("--config", path, "--batch-size=abc", "--rotation", "3", "x.zip", "--out", "o", "--seed") == [
        "'x.zip': no option stands in front of it, like --epochs 30",
        f"{path} line 10: clip_grad: is given twice, first on line 8, keep one",
        f"{path} line 1: epochs: got 0, expected a whole number of at least 1",
        f"{path} line 2: drop_pth: no such field, did you mean drop_path?",
        f"{path} line 3: freeze: got 3, expected a group of fields: {members}",
        f"{path} line 5: augment.rotaton: no such field, did you mean augment.rotation?",
        f"{path} line 6: augment.flip: got 2, expected a probability in [0, 1]",
        f"{path} line 7: augment.mixup: got 'many', expected a number of at least 0",
        f"{path} line 8: clip_grad: got -1, expected a number of at least 0",
        f"{path} line 9: label_smoothing: got [1], expected a share in [0, 1)",
        f"{path} line 11: class_weights: got null, expected true or false",
        "--batch-size: got 'abc', expected a whole number of at least 1",
        "--rotation: no such field, did you mean --augment.rotation?",
        "--seed: a value is missing",
        "--data: is missing",
    ]


def test_rules_over_several_fields_are_reported_with_the_other_mistakes(tmp_path: Path) -> None:
    path = recipe(tmp_path, "batch_size: 63\naugment:\n  cutmix: 1\nlr: -1\n")
    assert problems(
        *DATA_AND_OUT, "--config", path, "--epochs", "2", "--warmup-epochs", "3", "--distill.weight", "0.1"
    ) == [
        f"{path} line 1: batch_size: got 63, expected an even number if mixup or cutmix is on",
        f"{path} line 4: lr: got -1, expected a number above 0 or null",
        "--warmup-epochs: got 3.0, expected at most epochs, 2, or a share of them like 10%",
        "--teacher: got [], expected the folder of one beside distill.weight",
    ]


def test_a_rule_over_a_wrong_value_is_not_reported() -> None:
    for arguments in (["--epochs", "0", "--warmup-epochs", "40"], ["--batch-size", "63", "--augment.mixup", "-1"]):
        assert len(problems(*DATA_AND_OUT, *arguments)) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--epochs", "3.5"], "--epochs: got '3.5', expected a whole number"),
        (["--lr", "fast"], "--lr: got 'fast', expected a number above 0 or null"),
        (["--ema", "nan"], "--ema: got 'nan', expected a decay in [0, 1)"),
        (["--precision", "fp8"], "--precision: got 'fp8', expected auto or fp32 or bf16"),
        (["--tensorboard", "perhaps"], "--tensorboard: got 'perhaps', expected true or false"),
        (["--dry-run=yes"], "--dry-run: takes no value, got 'yes'"),
        (["--epoch", "3"], "--epoch: no such field, did you mean --epochs?"),
        (["--agument", "3"], "--agument: no such field, did you mean --augment?"),
        (["--zzzzz", "3"], "--zzzzz: no such field"),
        (["--augment.batch_size", "3"], "--augment.batch-size: no such field"),
        (["--lr"], "--lr: a value is missing"),
        (["--epochs", "--epochs", "3"], "--epochs: a value is missing"),
        (["--lr", "-1"], "--lr: got '-1', expected a number above 0 or null"),
        (["--epochs", "many", "--warmup-epochs", "40"], "--epochs: got 'many', expected a whole number"),
        (["--teacher"], "--teacher: a value is missing"),
        (["--network-args", "3"], '--network-args: got 3, expected names and values like {"depth": 2} or null'),
        (["--network-args", '{"d": 2, "d": 3}'], '--network-args: got \'{"d": 2, "d": 3}\', expected names and values'),
        (["--network-args", '{"depth"'], "--network-args: got '{\"depth\"', expected names and values"),
        (["--network-args", "{depth: 2}"], "--network-args: got {'depth': 2} for tiny, expected a backbone timm:NAME"),
        (["--backbone", "timm:"], "--backbone: got 'timm:', expected a name after it, like timm:resnet18"),
        (
            ["--network-args", "{d: !!timestamp 2024-01-01}"],
            "--network-args: got {'d': datetime.date(2024, 1, 1)}, expected names",
        ),
        (["--image-size", "0"], "--image-size: got '0', expected a whole number in [1, 1024]"),
        (["--teacher", "t", "--distill.weight", "1.5"], "--distill.weight: got '1.5', expected a share in [0, 1]"),
        (["--teacher", "t", "--distill.temperature", "0"], "--distill.temperature: got '0', expected a number above 0"),
        (["--epochs", "3", "4"], "'4': no option stands in front of it"),
        (["-b", "8"], "unknown option -b, did you mean --batch-size?"),
        (["--epochs", "3.0"], "--epochs: got '3.0', expected a whole number"),
        (["--epochs", "true"], "--epochs: got 'true', expected a whole number"),
        (["--ema", "inf"], "--ema: got 'inf', expected a decay in [0, 1)"),
        (["--tensorboard", "1"], "--tensorboard: got '1', expected true or false"),
        (["--freeze"], "--freeze: a value is missing"),
        (["--freeze", "3"], "--freeze: got '3', expected a group of fields: freeze.blocks, "),
        (["--network-args", ""], "--network-args: got '', expected names and values"),
        (["--small-size", "24"], "--small-size: is gone: every epoch sees the pictures at full size, remove it"),
    ],
)
def test_each_mistake_is_reported_once(arguments: list[str], message: str) -> None:
    mistakes = problems(*DATA_AND_OUT, *arguments)
    assert len(mistakes) == 1
    assert mistakes[0].startswith(message)


def test_a_number_that_python_cannot_write_is_named_as_such() -> None:
    with pytest.raises(MienError, match=r"seed: got a number of thousands of digits, expected a whole number in"):
        TrainConfig(data="a.zip", out="run", seed=16**6000)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epochs: [1\nlr: 2\n", r"recipe\.yaml line 2 column 3: is not YAML \(.*\); expected lines like `epochs: 30`"),
        ("epochs: !!python/object:os.system 3\n", r"recipe\.yaml line 1 column 9: is not YAML"),
        ("- epochs\n", r"recipe\.yaml: expected lines like `epochs: 30`, got something else"),
        ("epochs: 1:30\n", r"recipe\.yaml line 1: epochs: got '1:30', expected a whole number"),
        ("seed: 0x10\n", r"recipe\.yaml line 1: seed: got '0x10', expected a whole number"),
        ("teacher: runs/a\n", r"recipe\.yaml line 1: teacher: got 'runs/a', expected a list, each item the name of a"),
        ("teacher: [1]\n", r"line 1: teacher: got \[1\], expected a list, each item the name of a model folder"),
        ("teacher: [a, '']\n", r"line 1: teacher: got \['a', ''\], expected a list, each item the name of a model"),
        ("epochs: true\n", r"line 1: epochs: got true, expected a whole number of at least 1"),
        ("epochs: 3.0\n", r"line 1: epochs: got 3\.0, expected a whole number of at least 1"),
        ("tensorboard: 1\n", r"line 1: tensorboard: got 1, expected true or false"),
        ("lr: .nan\n", r"line 1: lr: got nan, expected a number above 0 or null"),
        ("seed: " + "9" * 6000 + "\n", r"line 1: seed: got '9+\.\.\., expected a whole number in"),
        ("small_size: 24\nsmall_until: 0.5\n", r"recipe\.yaml line 1: small_size: is gone: every epoch sees"),
        ("freeze.blocks: 2\nfreeze: {blocks: 3}\n", r"line 2: freeze\.blocks: is given twice, first on line 1"),
        ("data: 2024\n", r"recipe\.yaml line 1: data: got 2024, expected text"),
        ("network_args:\n  depth: 2\n  depth: 3\n", r"line 3 column 3: is not YAML \(depth is given twice, keep one\)"),
        ("augment:\n  flip: 0\n  flip: 1\n", r"line 3: augment\.flip: is given twice, first on line 2"),
    ],
)
def test_wrong_yaml_names_file_and_line(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(MienError, match=message):
        read(*DATA_AND_OUT, "--config", recipe(tmp_path, text))


def test_a_missing_or_binary_file_is_reported(tmp_path: Path) -> None:
    with pytest.raises(MienError, match=r"nope\.yaml: is no file and no recipe; recipes: baseline, demo, "):
        read(*DATA_AND_OUT, "--config", str(tmp_path / "nope.yaml"))
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(MienError, match=r"binary\.yaml"):
        read(*DATA_AND_OUT, "--config", str(tmp_path / "binary.yaml"))


def test_printed_configuration_reads_back_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [*DATA_AND_OUT, "--lr", "3e-5", "--freeze.blocks", "2", "--augment.mixup", "0.25", "--backbone", "null",
                 "--teacher", "a", "b"]  # fmt: skip
    with pytest.raises(SystemExit) as exit_info:
        main(["train", *arguments, "--print-config"])
    assert exit_info.value.code == 0
    output = capsys.readouterr().out
    assert set(yaml.safe_load(output)) == {field.name for field in dataclasses.fields(TrainConfig)}
    assert read("--config", recipe(tmp_path, output)) == read(*arguments)


def test_printing_needs_no_data_but_right_values(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train", "--print-config"])
    settings = yaml.safe_load(capsys.readouterr().out)
    assert "data" not in settings
    assert settings["augment"]["flip"] == 0.5
    assert main(["train", "--print-config", "--epochs", "0"]) == 2
    assert capsys.readouterr().out == ""


def test_help_of_train_shows_every_field(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main(["train", "--help"])
    assert exit_info.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for name, kind in field_types(TrainConfig).items():
        option = f"--{name.replace('_', '-')}"
        assert f"{option} " in text or f"{option}, --no-{option[2:]} " in text
        assert f" ({expected(kind)}; " in text
    assert (
        "--augment.rotation ROTATION largest rotation either way, in degrees (degrees in [0, 180]; default 10.0)"
        in text
    )
    assert "2 to 20 % of the image" in text and "default null)" in text
    assert "(text; required)" in text
    assert "--freeze FREEZE" not in text
    assert "--teacher TEACHER ... " in text and "--teacher+" not in text
    assert text.index("Examples:") < text.index("options:")


@pytest.mark.parametrize("schema", [TrainConfig, PretrainConfig])
def test_every_field_is_documented(schema: type[RunConfig]) -> None:
    for group in (schema, AugmentConfig, DistillConfig, FreezeConfig):
        documented = "".join(owner.__doc__ or "" for owner in group.__mro__)
        for field in dataclasses.fields(group):
            assert f"\n        {field.name}: " in documented


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_shipped_recipes_parse(path: Path) -> None:
    is_pretraining = path.name.startswith("pretrain") or path.stem.endswith("mae")
    schema: type[PretrainConfig] | type[TrainConfig] = PretrainConfig if is_pretraining else TrainConfig
    backbone = ["--backbone", "runs/demo/mae"] if path.stem == "demo" else []  # its first blocks are frozen
    config: PretrainConfig | TrainConfig = read_settings(schema, [*DATA_AND_OUT, *backbone, "--config", path.stem])[0]
    assert config != schema(data=config.data, out=config.out), "a recipe that says nothing"
    header = path.read_text(encoding="utf-8").split("\n\n")[0]
    assert re.search(r"^#   (mien|make) ", header, re.MULTILINE), "the header names the command"


def test_baseline_recipe_is_the_baseline() -> None:
    config = read(*DATA_AND_OUT, "--config", "baseline").resolved()
    assert (config.backbone, config.epochs, config.batch_size) == ("facebook/vit-mae-base", 80, 128)
    assert (config.lr, config.head_lr, config.weight_decay) == (3e-5, 1.5e-4, 0.05)
    assert (config.warmup_epochs, config.clip_grad, config.ema) == (10, 1.0, 0.999)
    assert config.freeze == FreezeConfig(blocks=4, release_epoch=11)
    assert (config.augment.mixup, config.augment.crop_scale, config.label_smoothing) == (0.2, 0.894, 0.1)


def test_python_gets_the_same_checks() -> None:
    with pytest.raises(MienError) as error:
        TrainConfig(data="d", out="o", epochs=0, lr=-1.0, augment=AugmentConfig(flip=2.0, mixup=float("nan")))
    for field in ("epochs: got 0", "lr: got -1.0", "augment.flip: got 2.0", "augment.mixup: got nan"):
        assert field in str(error.value)


def test_python_gives_shares_of_the_epochs_too() -> None:
    release = FreezeConfig(release_epoch="12.5%")  # type: ignore[arg-type]
    config = TrainConfig(data="d", out="o", epochs=80, freeze=release)
    assert config.freeze == FreezeConfig(release_epoch=11)


@pytest.mark.parametrize("schema", [PretrainConfig, TrainConfig])
def test_a_group_in_part_keeps_the_other_defaults_of_its_run(schema: type[RunConfig], tmp_path: Path) -> None:
    whole = schema(data="faces.zip", out="runs/x")
    expected_config = dataclasses.replace(whole, augment=dataclasses.replace(whole.augment, flip=0.0))
    assert schema(data="faces.zip", out="runs/x", augment={"flip": 0}) == expected_config  # type: ignore[arg-type]
    for arguments in (["--augment.flip", "0"], ["--config", recipe(tmp_path, "augment: {flip: 0}\n")]):
        assert read_settings(schema, [*DATA_AND_OUT, *arguments])[0] == expected_config
    for augment, message in (
        ({"flip": 2}, r"^augment\.flip: got 2, expected a probability in \[0, 1\]$"),
        ({"rotaton": 1}, r"^augment\.rotaton: no such field$"),
        (3, r"^augment: got 3, expected a group of fields: augment\.crop_scale, "),
    ):
        with pytest.raises(MienError, match=message):
            schema(data="d", out="o", augment=augment)  # type: ignore[arg-type]
    with pytest.raises(MienError, match=r"^track: got \{'a': 1\}, expected a list"):
        schema(data="d", out="o", track={"a": 1})  # type: ignore[arg-type]


def test_mixing_needs_an_even_batch() -> None:
    with pytest.raises(MienError, match="batch_size: got 63, expected an even number"):
        TrainConfig(data="d", out="o", batch_size=63, augment=AugmentConfig(cutmix=0.5))
    assert TrainConfig(data="d", out="o", batch_size=63).batch_size == 63


@pytest.mark.parametrize(
    ("backbone", "lr", "expected"),
    [
        ("tiny", None, (3e-4, 3e-4, 0)),
        ("tiny", 0.5, (0.5, 0.5, 0)),
        ("facebook/vit-mae-base", None, (3e-5, 1.5e-4, 4)),
        ("some/folder", 1e-4, (1e-4, 5e-4, 4)),
        ("timm:resnet18", None, (1e-3, 1e-3, 0)),
        ("timm:resnet18.a1_in1k", None, (3e-5, 1.5e-4, 0)),
    ],
)
def test_defaults_depend_on_the_backbone(backbone: str, lr: float | None, expected: tuple[float, float, int]) -> None:
    config = TrainConfig(data="d", out="o", backbone=backbone, lr=lr).resolved()
    assert (config.lr, config.head_lr, config.freeze.blocks) == pytest.approx(expected)


def test_differences_name_what_decides_the_weights() -> None:
    old_config = TrainConfig(data="d", out="o")
    new_config = dataclasses.replace(
        old_config, data="elsewhere", device="cpu", seed=1, augment=dataclasses.replace(old_config.augment, flip=0.0)
    )
    assert differences(to_dict(old_config), new_config) == ["augment.flip: 0.5 -> 0.0", "seed: 0 -> 1"]


def test_what_was_written_before_a_field_existed_has_its_default() -> None:
    config = TrainConfig(data="d", out="o")
    old_settings = to_dict(config)
    del old_settings["distill"]["mirror"], old_settings["ema"], old_settings["freeze"]
    assert differences(old_settings, config) == []
    new_config = dataclasses.replace(config, ema=0.5)
    assert differences(old_settings, new_config) == ["ema: 0.999 -> 0.5"]


def test_fields_that_are_gone_do_not_stop_a_run_that_did_not_use_them(tmp_path: Path) -> None:
    config = TrainConfig(data="d", out="o")
    old_settings = {**to_dict(config), "small_size": None, "small_until": 0.7, "never_heard_of": 3}
    assert differences(old_settings, config) == []
    assert differences({**old_settings, "small_size": 24}, config) == [
        "small_size: 24 -> gone, so that this version cannot go on with the run"
    ]
    path = recipe(tmp_path, "small_size: null\nsmall_until: 0.7\n")
    assert read(*DATA_AND_OUT, "--config", path) == read(*DATA_AND_OUT)


@pytest.mark.parametrize(("written_value", "value"), [("off", "off"), ("on", "on"), ("auto", "auto"), ("no", "off")])
def test_a_bare_off_is_a_word_where_off_is_a_choice(written_value: str, value: str, tmp_path: Path) -> None:
    path = recipe(tmp_path, f"compile: {written_value}\n")
    config = read_settings(PretrainConfig, [*DATA_AND_OUT, "--config", path])[0]
    assert config.compile == value


def test_thousands_of_unknown_keys_are_counted_and_endless_files_refused(tmp_path: Path) -> None:
    path = recipe(tmp_path, "".join(f"nosuch{number}: 1\n" for number in range(5_000)))
    mistakes = problems(*DATA_AND_OUT, "--config", path)
    assert len(mistakes) == 21 and mistakes[-1] == "and 4,980 more"
    assert mistakes[0] == f"{path} line 1: nosuch0: no such field"
    for endless in (recipe(tmp_path, "".join(f"nosuch{number}: 1\n" for number in range(100_000))), "/dev/zero"):
        with pytest.raises(MienError, match=f"^{endless}: is longer than 100,000 letters, expected some lines like"):
            read(*DATA_AND_OUT, "--config", endless)


def test_settings_behave_as_dataclasses() -> None:
    config = TrainConfig("d", "o", distill=DistillConfig(0.5, 2.0), augment=AugmentConfig(rotation=5))
    assert config == TrainConfig(data="d", out="o", augment=AugmentConfig(rotation=5.0))
    assert dataclasses.asdict(config) == to_dict(config)
    assert to_dict(config)["augment"]["rotation"] == 5
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.epochs = 3  # type: ignore[misc]
    with pytest.raises(MienError, match=r"^epochs: got 0, expected a whole number of at least 1$"):
        dataclasses.replace(config, epochs=0)
    with pytest.raises(MienError, match=r"^nosuch: no such field$"):
        TrainConfig(data="d", out="o", nosuch=1)  # type: ignore[call-arg]
    with pytest.raises(MienError, match=r"^data: is missing; out: is missing$"):
        TrainConfig()  # type: ignore[call-arg]
