"""A pipeline folder is believed: the same numbers as diffusers' own schedulers and pipeline on the same folder."""

import copy as copies
import warnings

import diffusers
import pytest
import torch

from distar_core import NetworkScore
from distar_core.schedule import scaled_linear_schedule
from distar_core.sdxl.export import export_pipeline
from distar_core.sdxl.latents import decode
from distar_core.sdxl.loading import diffusion_of, load_pipeline
from distar_core.sdxl.models import TextToImage, load_text_to_image

SCHEDULER, UNET = "scheduler/scheduler_config.json", "unet/config.json"
PROMPTS, SEEDS = ["a red circle", "a circle"], [3, 4]
TABLES = {
    "scaled_linear": {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
    "linear": {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02},
    "squared cosine": {"beta_schedule": "squaredcos_cap_v2"},
    "given": {"trained_betas": [0.001 + 0.00001 * k for k in range(600)], "num_train_timesteps": 600},
    "500 steps": {"beta_schedule": "scaled_linear", "beta_end": 0.02, "num_train_timesteps": 500},
    "zero terminal": {"beta_schedule": "scaled_linear", "beta_end": 0.012, "rescale_betas_zero_snr": True},
}


def agree(first, second, tolerance=1e-4):
    return float((first - second).abs().max()) < tolerance


def guess_of(scheduler, output, x_t, t):
    """x_0 as diffusers' scheduler reads a network's output at one time. Euler's samples are x_t/alpha."""
    power = scheduler.alphas_cumprod[t]
    if isinstance(scheduler, diffusers.EulerDiscreteScheduler):
        scheduler.set_timesteps(timesteps=[t])
        (t,), x_t = scheduler.timesteps, x_t / power.sqrt()
    return scheduler.step(output, t, x_t).pred_original_sample


@pytest.mark.parametrize("predicted", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("kind", ["DDPMScheduler", "DDIMScheduler", "EulerDiscreteScheduler"])
def test_predictions_are_read_as_by_diffusers(kind, table, predicted):
    options = TABLES[table] | {"prediction_type": predicted}
    if kind != "EulerDiscreteScheduler":
        options |= {"clip_sample": False}
    scheduler = getattr(diffusers, kind)(**options)
    if kind == "DDIMScheduler":
        scheduler.set_timesteps(10)
    schedule, prediction = diffusion_of(scheduler)
    rng = torch.Generator().manual_seed(0)
    x_t, output = torch.randn(2, 2, 4, 8, 8, generator=rng)
    for t in (1, 120, 400):
        if predicted == "sample" and kind == "EulerDiscreteScheduler":
            break  # Euler does not draw with it
        score = NetworkScore(lambda *_, output=output: output, schedule, prediction)(x_t, torch.tensor([t, t]), None)
        found = schedule.convert(score, x_t, torch.tensor([t, t]), source="score", target="x0")
        torch.testing.assert_close(found, guess_of(scheduler, output, x_t, t), rtol=1e-3, atol=1e-3)


def test_the_table_is_that_of_the_scheduler_and_ends_where_the_signal_does():
    for options in TABLES.values():
        scheduler = diffusers.DDIMScheduler(**options)
        schedule, _ = diffusion_of(scheduler)
        times = torch.arange(schedule.high + 1)
        torch.testing.assert_close(
            schedule.alpha(times) ** 2, scheduler.alphas_cumprod[: len(times)].double(), rtol=1e-4, atol=1e-9
        )
        zero = bool(options.get("rescale_betas_zero_snr"))
        assert schedule.high == len(scheduler.betas) - 1 - zero
    with pytest.raises(ValueError, match=r"\[0, 998\]"):
        diffusion_of(diffusers.DDIMScheduler(**TABLES["zero terminal"]))[0].alpha(torch.tensor(999))
    # SDXL's own is in float64 what schedule.py has; diffusers' is rounded
    own, _ = diffusion_of(diffusers.EulerDiscreteScheduler(**TABLES["scaled_linear"]))
    assert torch.equal(own.alpha(torch.arange(1000)), scaled_linear_schedule().alpha(torch.arange(1000)))


def test_a_scheduler_whose_table_is_not_of_its_betas_is_refused():
    scheduler = diffusers.DDIMScheduler()
    scheduler.alphas_cumprod = scheduler.alphas_cumprod / 2
    with pytest.raises(ValueError, match="DDIMScheduler has alphas_cumprod"):
        diffusion_of(scheduler)


@pytest.mark.parametrize("predicted", ["epsilon", "v_prediction"])
def test_the_reference_of_a_folder_is_what_its_pipeline_takes_it_for(copied, predicted):
    model = load_text_to_image(copied({SCHEDULER: {"prediction_type": predicted}}))
    prompt, t = model.encoder(PROMPTS), torch.tensor([400, 400])
    x_t = model.noise(SEEDS)
    with torch.no_grad():
        score = model.reference()(x_t, t, prompt)
        output = model.prompted(model.pipeline.unet)(x_t, t, prompt)
    found = model.schedule.convert(score, x_t, t, source="score", target="x0")
    wanted = guess_of(model.pipeline.scheduler, output, x_t, 400)
    assert agree(found, wanted)
    other = model.schedule.convert(
        output, x_t, t, source={"epsilon": "v", "v_prediction": "eps"}[predicted], target="x0"
    )
    assert not agree(other, wanted, 1.0), "control: read as the other prediction it is far off"


@pytest.mark.parametrize(
    "told",
    [
        {"prediction_type": "epsilon"},
        {"prediction_type": "v_prediction", "beta_schedule": "linear"},
        {"prediction_type": "sample", "beta_end": 0.02},
        {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"},
    ],
)
def test_the_exported_pipeline_draws_what_the_generator_draws(copied, told):
    folder = copied({SCHEDULER: told})
    model = load_text_to_image(folder, generator=folder / "unet")
    pipeline = model.one_step_pipeline()
    pipeline.set_progress_bar_config(disable=True)
    options = {"num_inference_steps": 1, "timesteps": [399], "guidance_scale": 0.0, "output_type": "pt"}
    drawn = pipeline(PROMPTS, latents=model.noise(SEEDS), **options).images
    assert agree(drawn, model.draw(PROMPTS, SEEDS))
    pipeline.scheduler.register_to_config(
        prediction_type="v_prediction" if told.get("prediction_type") != "v_prediction" else "epsilon"
    )
    assert not agree(pipeline(PROMPTS, latents=model.noise(SEEDS), **options).images, drawn, 1e-3), "control"


@pytest.mark.parametrize(
    ("told", "values"),
    [
        ({"prediction_type": "v_prediction"}, ("'v'", "'eps'")),
        ({"beta_end": 0.02}, ("alpha_", "1000 times")),
        ({"num_train_timesteps": 500}, ("500 times", "has 1000")),
    ],
)
def test_a_generator_of_another_diffusion_is_refused_by_its_values(folder, copied, told, values):
    with pytest.raises(ValueError, match="reference's") as caught:
        load_text_to_image(folder, generator=copied({SCHEDULER: told}))
    assert all(value in str(caught.value) for value in values)


def test_a_generator_of_another_pipeline_is_refused(folder, copied):
    with pytest.raises(ValueError, match="StableDiffusionPipeline"):
        load_text_to_image(folder, generator=copied({"model_index.json": {"_class_name": "StableDiffusionPipeline"}}))


@pytest.mark.parametrize("told", [{}, {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"}])
def test_an_exported_generator_comes_back(copied, tmp_path, told):
    """Its scheduler is another, LCMScheduler, of the same diffusion."""
    folder = copied({SCHEDULER: told})
    model = load_text_to_image(folder, generator=folder)
    export_pipeline(model.pipeline, model.unet, tmp_path / "exported")
    again = load_text_to_image(folder, generator=tmp_path / "exported")
    assert agree(again.draw(PROMPTS, SEEDS), model.draw(PROMPTS, SEEDS))


def seen_by(unet, call):
    """The keyword arguments of the first call of a UNet, and its sample's type."""
    seen = {}
    hook = unet.register_forward_pre_hook(lambda _, args, kwargs: seen.update(kwargs, x_t=args[0]), with_kwargs=True)
    call()
    hook.remove()
    return seen


@pytest.mark.parametrize("zeros", [True, False])
def test_the_null_condition_is_the_pipelines(copied, zeros):
    """The first half of a guided batch is the null condition, whoever puts it together."""
    model = load_text_to_image(copied({"model_index.json": {"force_zeros_for_empty_prompt": zeros}}))
    seen = seen_by(
        model.pipeline.unet, lambda: model.draw_reference(PROMPTS[:1], SEEDS[:1], steps=1, guidance_scale=2.0)
    )
    null = model.prompted(model.pipeline.unet).null(torch.zeros(1))
    assert agree(null.text, seen["encoder_hidden_states"][:1], 1e-5)
    assert agree(null.pooled, seen["added_cond_kwargs"]["text_embeds"][:1], 1e-5)
    assert bool((null.text == 0).all()) == zeros
    again = model.one_step_pipeline()
    assert again.config.force_zeros_for_empty_prompt == zeros
    x, t = model.noise(SEEDS), torch.tensor([5, 5])
    with torch.no_grad():
        scores = [model.reference()(x, t, c) for c in (None, model.prompted(model.pipeline.unet).null(x))]
    assert torch.equal(*scores)
    assert not any("empty" in name for name in model.reference().state_dict())


@pytest.mark.parametrize("pixels", [None, 48])
def test_sizes_are_the_folders_or_those_asked_for(copied, pixels):
    model = load_text_to_image(copied({UNET: {"sample_size": 4}}), pixels=pixels)
    side = pixels or 16
    assert (model.pixels, model.latent_shape) == (side, (4, side // 4, side // 4))
    seen = seen_by(
        model.pipeline.unet, lambda: model.draw_reference(PROMPTS[:1], SEEDS[:1], steps=1, guidance_scale=1.0)
    )
    own = seen_by(
        model.pipeline.unet,
        lambda: model.prompted(model.pipeline.unet)(seen["x_t"], torch.tensor([5]), model.encoder(PROMPTS[:1])),
    )
    assert torch.equal(own["added_cond_kwargs"]["time_ids"], seen["added_cond_kwargs"]["time_ids"])
    assert model.draw(PROMPTS, SEEDS, model.generator(model.pipeline.unet)).shape == (2, 3, side, side)


def test_what_does_not_fit_is_told_by_value(folder, copied):
    pipeline = load_pipeline(folder)
    with pytest.raises(ValueError, match="pixels is 30; choose a multiple of 4"):
        TextToImage(pipeline, pixels=30)
    with pytest.raises(ValueError, match="no one-step generator"):
        TextToImage(pipeline).draw(PROMPTS, SEEDS)
    other = copies.deepcopy(pipeline.unet)
    other.register_to_config(in_channels=9)
    with pytest.raises(ValueError, match="the generator cannot be used: unet's in_channels is 9"):
        TextToImage(pipeline, other)
    short = load_text_to_image(copied({SCHEDULER: {"num_train_timesteps": 300}}))
    with pytest.raises(ValueError, match="399"):
        short.generator(short.pipeline.unet)
    for prompts, seeds, error in ((PROMPTS, [1], ValueError), ("a", [1], TypeError), (["a"], 1, TypeError)):
        with pytest.raises(error, match="seed"):
            TextToImage(pipeline, pipeline.unet).draw(prompts, seeds)


def relative(found, wanted):
    return float((found.double() - wanted.double()).norm() / wanted.double().norm())


@pytest.fixture
def plain_kernels():
    """torch's own kernels, since oneDNN's in bfloat16 end the program on some CPUs."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="TF32 acceleration")
        with torch.backends.mkldnn.flags(enabled=False):
            yield


@pytest.mark.usefixtures("plain_kernels")
def test_networks_in_other_types_give_the_same_up_to_their_digits(folder):
    """Results are at least float32, and float64 goes through without a stay in float32."""
    scores, pictures = {}, {}
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        model = load_text_to_image(folder, generator=folder / "unet", dtype=dtype)
        x = model.noise(SEEDS).to(torch.promote_types(dtype, torch.float32))
        t, prompt = torch.tensor([50, 400]), model.encoder(PROMPTS)
        with torch.no_grad():
            scores[dtype] = model.reference()(x, t, prompt)
            pictures[dtype] = decode(model.pipeline.vae, x)
        if dtype == torch.float64:
            ids = torch.tensor([[32.0, 32, 0, 0, 32, 32]] * 2)
            extra = {"text_embeds": prompt.pooled, "time_ids": ids}
            with torch.no_grad():
                eps = model.pipeline.unet(x, t, encoder_hidden_states=prompt.text, added_cond_kwargs=extra).sample
            assert torch.equal(scores[dtype], -eps / model.schedule.sigma(t)[:, None, None, None])
        drawn = model.draw(PROMPTS, SEEDS)
        assert drawn.dtype == torch.float32
        assert model.draw_reference(PROMPTS, SEEDS, steps=2).dtype == x.dtype
        assert drawn.isfinite().all()
        seen = seen_by(model.unet, lambda model=model: model.draw(PROMPTS, SEEDS))
        assert seen["x_t"].dtype == dtype
        assert seen["added_cond_kwargs"]["time_ids"].dtype == torch.float32
    for found in (scores, pictures):
        exact = found[torch.float64]
        assert exact.dtype == torch.float64
        assert found[torch.bfloat16].dtype == found[torch.float32].dtype == torch.float32
        assert 1e-9 < relative(found[torch.float32], exact) < 1e-5
        assert 1e-4 < relative(found[torch.bfloat16], exact) < 5e-2


@pytest.mark.usefixtures("plain_kernels")
def test_gradients_pass_through_the_borders(folder):
    pulls = {}
    for dtype in (torch.float32, torch.bfloat16):
        model = load_text_to_image(folder, dtype=dtype)
        x = model.noise(SEEDS).requires_grad_()
        value = model.reference()(x, torch.tensor([50, 400]), model.encoder(PROMPTS)).square().sum()
        value = value + decode(model.pipeline.vae, x).square().sum()
        (pulls[dtype],) = torch.autograd.grad(value, x)
        assert pulls[dtype].dtype == torch.float32
    assert relative(pulls[torch.bfloat16], pulls[torch.float32]) < 0.1


def test_rows_are_the_same_however_many_are_drawn_at_once(folder):
    pipeline = load_pipeline(folder)
    several, single = (TextToImage(pipeline, pipeline.unet, rows_at_once=rows) for rows in (2, 1))
    for name in ("draw", "draw_reference"):
        options = {"steps": 2} if name == "draw_reference" else {}
        assert agree(*(getattr(model, name)(PROMPTS, SEEDS, **options) for model in (several, single)))
    seen = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert agree(several.reconstructed(seen), single.reconstructed(seen))


def test_everything_happens_on_the_device_asked_for(folder):
    """The meta device holds no numbers: any tensor left on the CPU would be an error."""
    model = load_text_to_image(folder, generator=folder / "unet", device="meta")
    drawn = model.draw(PROMPTS, SEEDS)
    assert (drawn.device.type, drawn.shape) == ("meta", (2, 3, 32, 32))
    prompt, x, t = model.encoder(PROMPTS), model.noise(SEEDS), torch.tensor([50, 400], device="meta")
    for condition in (prompt, None):
        score = model.reference()(x, t, condition)
        assert (score.device.type, score.shape) == ("meta", x.shape)
