"""Recipes: TOML in, dataclasses out, and every mistake named."""

import dataclasses
import tomllib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facelib.errors import FaceError
from facelib.losses.registry import LOSSES
from facelib.model_input import Io
from facelib.models.registry import ModelConfig
from facelib.training.recipe.schema import CHOICES, DataConfig, Recipe, Stage, recipe_keys
from facelib.training.recipe.toml import differences, load_recipe, to_toml

RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.toml"))


@pytest.fixture
def load(tmp_path):
    def load(text="", *overrides):
        path = tmp_path / "r.toml"
        path.write_text(text or 'name = "r"\n')
        return load_recipe(path, overrides)

    return load


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.name)
def test_every_recipe_of_the_project_loads(path):
    recipe = load_recipe(path)

    assert recipe.name == path.stem
    header = path.read_text().split("\nname =")[0]
    assert header.startswith("#")
    assert "command:" in header


def test_there_are_recipes():
    assert {"toy.toml", "small_mobilefacenet.toml"} <= {p.name for p in RECIPES}


def test_a_recipe_says_what_it_says_and_the_rest_is_default(load):
    recipe = load("seed = 3\n[model]\nwidth = 2\n[[stage]]\nepochs = 2\n[[stage]]\nlr_drop_epochs = [1, 2.5]\n")

    assert recipe == Recipe(
        seed=3,
        model=ModelConfig(width=2.0),
        stage=(Stage(epochs=2), Stage(lr_drop_epochs=(1.0, 2.5))),
    )
    assert type(recipe.model.width) is float


def test_from_is_a_key_and_comes_back_from_config_toml(load):
    recipe = load('[model]\nbackbone = "imported"\nfrom = "a b.h5"\ninput_size = "96,96"\npixels = "raw"\n')

    assert recipe.model.source == "a b.h5" and recipe.model.size == (96, 96)
    assert 'from = "a b.h5"' in to_toml(recipe) and "source" not in to_toml(recipe)
    assert load(to_toml(recipe)) == recipe
    assert load(to_toml(recipe), "model.from=c.h5").model.source == "c.h5"


@pytest.mark.parametrize(
    ("fit", "size", "expected"),
    [
        ("exact", (112, 112), "crop"), ("resize", (112, 112), "crop"), ("exact", (128, 128), "resize"),
        ("exact", (112, 96), "crop"), ("crop", (96, 96), "crop"), ("resize", (112, 96), "resize"),
    ],
)  # fmt: skip
def test_a_trained_net_takes_faces_of_another_size_as_its_training_did(fit, size, expected):
    assert Recipe(data=DataConfig(fit=fit)).face_io(size) == Io(size=size, fit=expected)


@pytest.mark.parametrize(
    "text, message",
    [
        ('[model]\ninput_size = "112"', "model.input_size must be 'height,width', two multiples of 16 from 32 to 512"),
        ('[model]\ninput_size = "100,112"', "two multiples of 16 from 32 to 512. Received: '100,112'"),
        ('[model]\npixels = "pm2"', "'model.pixels' must be one of own, raw, pm1, .*Received: 'pm2'"),
        ('[data]\nfit = "squeeze"', "'data.fit' must be one of exact, crop, resize"),
        ('[model]\nfrom = "x.h5"', "model.from needs backbone = 'imported'"),
        ("sed = 1", r"unknown key 'sed'. Did you mean 'seed'\?"),
        ("[model]\nembeding_size = 1", r"unknown key 'model.embeding_size'. Did you mean 'model.embedding_size'\?"),
        ("[[stage]]\n[[stage]]\nlearning_rte = 1", r"'stage.1.learning_rte'. Did you mean 'stage.1.learning_rate'\?"),
        ("seed = 1.5", "'seed' must be int. Received: 1.5"),
        ("seed = true", "'seed' must be int. Received: True"),
        ("deterministic = 1", "'deterministic' must be bool. Received: 1"),
        ("[model]\nwidth = true", "'model.width' must be float. Received: True"),
        ("[model]\nactivation = 3", "'model.activation' must be str. Received: 3"),
        ("[model]\nactivation = 'elu'", "must be one of prelu, relu, relu6, leaky_relu, own. Received: 'elu'"),
        ("precision = 'fp16'", "'precision' must be one of .*mixed_float16.* Received: 'fp16'"),
        ("model = 3", "'model' must be a table. Received: 3"),
        ("stage = []", "'stage' must be a list of at least one"),
        ("[stage]\nepochs = 1", "'stage' must be a list of at least one"),
        ("[[stage]]\nlr_drop_epochs = 3", "'stage.0.lr_drop_epochs' must be a list"),
        ("[[stage]]\nlr_drop_epochs = ['a']", "'stage.0.lr_drop_epochs.0' must be float"),
        ("name = '../x'", "name must be valid as the name of a folder in runs/. Received: '../x'"),
        ("seed = -1", "seed must be at least 0. Received: -1"),
        ("[model]\ndropout = 1.0", r"dropout must be in \[0, 1\). Received: 1.0"),
        ("[data]\nbatch_size = 1", "batch_size must be at least 2. Received: 1"),
        ("[[stage]]\nepochs = 0", "stage.0.epochs must be at least 1. Received: 0"),
        ("[[stage]]\nmargin = 45.0", r"stage.0.margin must be in \[0, pi/2\). Received: 45.0"),
        ("[[stage]]\nlearning_rate = nan", "stage.0.learning_rate must be above 0. Received: nan"),
        ("[[stage]]\nscale = 0", "stage.0.scale must be above 0"),
        ("[[stage]]\nmomentum = 1.0", r"stage.0.momentum must be in \[0, 1\). Received: 1.0"),
        ("[[stage]]\nweight_decay = -1e-4", "stage.0.weight_decay must be at least 0"),
        ("[[stage]]\nlast_layer_decay = nan", "stage.0.last_layer_decay must be at least 0"),
        ("[[stage]]\nclip_norm = -1", "stage.0.clip_norm must be at least 0"),
        ("[[stage]]\nwarmup_steps = -1", "stage.0.warmup_steps must be at least 0"),
        ("[[stage]]\nwarmup_epochs = -1", "stage.0.warmup_epochs must be at least 0"),
        ("[[stage]]\nwarmup_steps = 9\nwarmup_epochs = 0.5", "and warmup_epochs. Received: 9 and 0.5"),
        ("[[stage]]\nwarmup_start = 1.5", "stage.0.warmup_start must be from 0 to 1. Received: 1.5"),
        ("[[stage]]\nwarmup_power = 0", "stage.0.warmup_power must be above 0"),
        ("[[stage]]\nfinal_epoch = 0", "stage.0.final_epoch must be above 0"),
        ("[model]\nbn_momentum = 1", r"model.bn_momentum must be in \[0, 1\). Received: 1.0"),
        ("[model]\nbn_epsilon = 0", "model.bn_epsilon must be above 0"),
        ("[model]\nslope = 1.1", r"model.slope must be in \[0, 1\]. Received: 1.1"),
        ("[model]\nslope = 0.3\nactivation = 'relu'", "can be used only with prelu and leaky_relu. Received: 'relu'"),
        ("[model]\nkernel_init = 'xavier'", "'model.kernel_init' must be one of own, he_normal, .* Received: 'xavier'"),
        ("[[stage]]\nmargin_warmup_steps = -1", "stage.0.margin_warmup_steps must be at least 0"),
        ("[[stage]]\nlr_drop = 1.5", r"stage.0.lr_drop must be in \(0, 1\]. Received: 1.5"),
        ("[[stage]]\nfinal_learning_rate = 0.2", "stage.0.final_learning_rate must be from 0 to learning_rate"),
        ("[[stage]]\nloss = 'arcfac'", "stage.0: .*'arcfac'.*arcface"),
        ("[[stage]]\nloss = 'distil'", r"stage.0: .*'distil'. Did you mean 'distill'\?"),
        ("[[stage]]\nloss_options = {marjin = 0.3}", r"Did you mean 'margin'\?"),
        ("[model]\nbackbone = 'MobileFacenet'", r"Did you mean 'mobilefacenet'\?"),
        ("[model]\nbackbone = 'mobilenetv2'", r"Did you mean 'MobileNetV2'\?"),
        ("[[stage]]\noptimizer = 'adamW'", r"'stage.0.optimizer' must be one of .*'adamW'. Did you mean 'adamw'\?"),
        ("[[stage]]\nschedule = 'cosinus'", r"'stage.0.schedule' .* Did you mean 'cosine'\?"),
        ("epochs = 3", r"unknown key 'epochs'. Did you mean 'stage.0.epochs'\?"),
        ("batch_sise = 64", r"unknown key 'batch_sise'. Did you mean 'data.batch_size'\?"),
        ("[data]\nlearning_rate = 0.1", r"'data.learning_rate'. Did you mean 'stage.0.learning_rate'\?"),
        ("[[stage]]\nloss_options = {marjin = 0.3}", "stage.0: .*margin = 0.5.*Received: marjin"),
        ("[[stage]]\nloss = 'softmax'\nmargin = 0.3", "stage.0: .*softmax.*margin"),
        ("[[stage]]\nloss = 'batch_hard_triplet'", "triplet losses need images_per_identity of 2 or more"),
        ("[[stage]]\nloss = 'batch_hard_triplet'\nimages_per_identity = 4\ncenter_loss = 0.1",
         "center_loss needs a loss with a margin head; triplet losses have none"),
        ("[[stage]]\nloss = 'batch_all_triplet'\nimages_per_identity = 4\nfreeze_backbone = true",
         "freeze_backbone needs a loss with class centres"),
        ("[[stage]]\nloss = 'semi_hard_triplet'\nimages_per_identity = 4\nmixup = 0.2", "mixup mixes classes"),
        ("[[stage]]\nloss = 'semi_hard_triplet'\nimages_per_identity = 4\nmicro_batches = 2", "use the whole batch"),
        ("[[stage]]\nloss = 'distill'", "needs a teacher and a distill_weight above 0. Received: teacher = ''"),
        ("teacher = 'x'\n[[stage]]\nloss = 'distill'\ndistill_weight = 0", "distill_weight = 0"),
        ("teacher = 'x'\n[[stage]]\nloss = 'distill'\nmargin = 0.3", "cannot be used with margin, scale"),
        ("teacher = 'x'\n[[stage]]\nloss = 'distill'\nlabel_smoothing = 0.1", "label_smoothing needs a loss"),
        ("[[stage]]\nfreeze_backbone = true\nfreeze_layers = ['stem']", "leave freeze_layers out"),
        ("[[stage]]\nimages_per_identity = 80", "images_per_identity must be from 1 to 64 .half a batch"),
        ("[[stage]]\nmicro_batches = 0", "micro_batches must be from 1 to 64"),
        ("[[stage]]\nsample_rate = 0.0", "sample_rate must be above 0 and at most 1"),
        ("[[stage]]\nsample_rate = 0.1\nsam = 0.05", "sam moves all class centres"),
        ("[[stage]]\nsample_rate = 0.1\nlabel_smoothing = 0.1", "label_smoothing uses all classes"),
        ("[[stage]]\nsample_rate = 0.1\noptimizer = 'nadam'", "sample_rate works only with the optimizers sgd, adam"),
        ("[[stage]]\nsample_rate = 0.1\nloss = 'adacos'", "adacos measures its scale on all classes"),
        ("teacher = 'x'\n[[stage]]\nloss = 'distill'\nsample_rate = 0.1", "sample_rate needs a loss with a margin"),
        ("[[stage]]\nema = 1.0", r"ema must be in \[0, 1\)"),
        ("name = ", "A recipe must be a valid TOML file"),
        ("[model]\n[model]", "A recipe must be a valid TOML file"),
    ],
)  # fmt: skip
def test_a_mistake_is_named(load, text, message):
    with pytest.raises(FaceError, match=message) as caught:
        load(text)
    assert "r.toml" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content, message", [(None, "No recipe at"), (b"", "is empty"), (b"\xff\xfe", "TOML file")])
def test_a_file_that_is_no_recipe_is_named(tmp_path, content, message):
    path = tmp_path / "r.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(FaceError, match=message):
        load_recipe(path)


@pytest.mark.parametrize("value", ["[" * 60_000, "9" * 5_000, "0x" + "f" * 5_000, "1" * 400, "a." * 5_000 + "b=1"])
def test_a_value_of_any_depth_and_length_is_one_line(load, value):
    for text, *overrides in [
        (f"name = {value}",),
        (f'name = "r"\n[data]\nseed = {value}',),
        (f'name = "{"x" * 100_000}"\nbatch_size = "{value}"',),
        (f'name = "r"\n{"k" * 100_000} = 1',),
        ("", f"seed={value}"),
        ("", f"stage.{value}.epochs=1"),
        ("", f"{value}=1"),
        ("", f"{value}"),
        ("", f"stage.0.learning_rate={value}"),
    ]:
        with pytest.raises(FaceError) as caught:
            load(text, *overrides)
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 600


# -------------------------------------------------------------------------------------------------- --set


def test_set_changes_any_key(load):
    text = "[[stage]]\nepochs = 1\n[[stage]]\nepochs = 1\n"
    recipe = load(
        text, "seed=7", "model.activation=relu", "data.flip=false", "stage.1.epochs=5", "stage.0.lr_drop_epochs=[2]",
        'name="with = in it"', "model.width=0.5",
    )  # fmt: skip

    assert (recipe.seed, recipe.name) == (7, "with = in it")
    assert (recipe.model.activation, recipe.model.width) == ("relu", 0.5)
    assert recipe.data.flip is False
    assert [s.epochs for s in recipe.stage] == [1, 5]
    assert recipe.stage[0].lr_drop_epochs == (2.0,)


def test_set_reaches_the_stage_that_a_recipe_leaves_out(load):
    assert load("seed = 1", "stage.0.epochs=4").stage == (Stage(epochs=4),)


@pytest.mark.parametrize(
    "override, message",
    [
        ("seed", "KEY=VALUE.*Received: seed"),
        ("sed=1", "unknown key 'sed'"),
        ("=1", "unknown key ''"),
        ("model.activaton=relu", "Did you mean 'model.activation'"),
        ("nonsense.key=1", "unknown key 'nonsense'"),
        ("stage.1.epochs=1", "the recipe has 1 stage, numbered from 0. Received: stage.1"),
        ("stage.-1.epochs=1", "Received: stage.-1"),
        ("stage.x.epochs=1", "Received: stage.x"),
        ("stage.epochs=1", "not a table of keys. Pass a key, such as stage.0.epochs=2"),
        ("stage.learning_rte=1", "such as stage.0.learning_rate=2"),
        ("learning_rate=1", r"unknown key 'learning_rate'. Did you mean 'stage.0.learning_rate'\?"),
        ("stage.0=1", "not a table of keys"),
        ("seed.x=1", "'seed' is not a table of keys"),
        ("seed.x.y=1", "'seed' is not a table of keys"),
        ("stage.0.epochs.x.y=1", "'stage.0.epochs' is not a table of keys"),
        ("stage.0.epochs=two", "'stage.0.epochs' must be int. Received: 'two'"),
        ("stage.0.epochs=", "'stage.0.epochs' must be int. Received: ''"),
        ("model=relu", "'model' must be a table"),
    ],
)
def test_a_wrong_set_is_named(load, override, message):
    with pytest.raises(FaceError, match=message):
        load("seed = 1\n[[stage]]\nepochs = 1\n", override)


# -------------------------------------------------------------------------------------------- round trip


def configs(cls, **special):
    """Random valid values of a dataclass's fields."""
    strategies = {}
    for field in (field for field in dataclasses.fields(cls) if field.init):
        if field.name in special:
            strategies[field.name] = special[field.name]
        elif field.name in CHOICES:
            strategies[field.name] = st.sampled_from(CHOICES[field.name])
        elif isinstance(field.default, bool):
            strategies[field.name] = st.booleans()
        elif isinstance(field.default, int):
            strategies[field.name] = st.integers(2, 10**9)
        elif isinstance(field.default, float):
            strategies[field.name] = st.floats(1e-12, 0.99)
    return st.builds(cls, **strategies)


def with_loss(stage, loss):
    """The stage with a margin head and without what does not go with every one."""
    alone = {"margin": None, "scale": None, "freeze_layers": ()}
    return dataclasses.replace(stage, loss=loss, loss_options={}, **alone)


stages = st.builds(
    with_loss,
    configs(
        Stage,
        loss=st.just("arcface"),
        distill=st.sampled_from(CHOICES["distill"]),
        optimizer=st.none() | st.sampled_from(CHOICES["optimizer"]),
        learning_rate=st.floats(1.0, 1e9),
        lr_drop_epochs=st.lists(st.floats(0, 1e6), max_size=4).map(tuple),
        images_per_identity=st.just(1),
        micro_batches=st.just(1),
        warmup_epochs=st.just(0.0),
        sample_rate=st.just(1.0),
    ),
    st.sampled_from([name for name, spec in LOSSES.items() if spec.kind == "margin"]),
) | st.just(
    Stage(
        loss_options={"margin": 0.3, "past_pi": "none"},
        freeze_layers=("stem", 'a"b'),
        sample_rate=0.25,
        optimizer="sgd",
    )
)
recipes = configs(
    Recipe,
    name=st.text(min_size=1).filter(lambda name: "/" not in name and name not in (".", "..")),
    model=configs(
        ModelConfig,
        backbone=st.sampled_from([name for name in CHOICES["backbone"] if name != "imported"]),
        source=st.just(""),
        input_size=st.sampled_from(["112,112", "96,96", "128,112"]),
        pixels=st.sampled_from(CHOICES["model.pixels"]),
    )
    | st.just(ModelConfig(slope=0.3, bn_momentum=0.99, bn_epsilon=1e-5))
    | st.just(ModelConfig(backbone="imported", source='runs/a "b"/net.h5')),
    data=configs(DataConfig, fit=st.sampled_from(CHOICES["data.fit"])),
    stage=st.lists(stages, min_size=1, max_size=3).map(tuple),
)


@given(recipes)
@settings(max_examples=40, deadline=None)
def test_to_toml_reads_back_to_an_equal_recipe(tmp_path_factory, recipe):
    path = tmp_path_factory.mktemp("r") / "config.toml"
    path.write_text(to_toml(recipe))

    assert load_recipe(path) == recipe
    assert differences(recipe, load_recipe(path)) == []


def test_to_toml_states_every_default():
    values = tomllib.loads(to_toml(Recipe()))

    of_the_backbone = {"slope", "bn_momentum", "bn_epsilon"}  # None
    assert values["model"].keys() == set(recipe_keys(ModelConfig)) - of_the_backbone
    assert values["data"].keys() == {f.name for f in dataclasses.fields(DataConfig)}
    # None: the default of the loss, of the optimizer or the end of the stage
    absent = {"margin", "scale", "warmup_scale", "optimizer", "epsilon", "final_epoch"}
    assert values["stage"][0].keys() == set(recipe_keys(Stage)) - absent


def test_differences_name_the_keys_and_both_values():
    old = Recipe(stage=(Stage(epochs=2), Stage()))
    new = Recipe(seed=4, model=ModelConfig(width=0.5), stage=(Stage(epochs=3, lr_drop_epochs=(1.0,)),))

    found = differences(old, new)

    assert "seed: 0 -> 4" in found
    assert "model.width: 1.0 -> 0.5" in found
    assert "stage.0.epochs: 2 -> 3" in found
    assert "stage.0.lr_drop_epochs.0: None -> 1.0" in found
    assert "stage.1.epochs: 1 -> None" in found
    assert not any(line.startswith("data.") for line in found)
