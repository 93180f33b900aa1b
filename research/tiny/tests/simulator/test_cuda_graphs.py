import pytest
import torch
from accelerate import Accelerator
from toy_generators import VAE, toy_config

from research.tiny.simulator.graphs import Graphed
from research.tiny.simulator.loop import Loop
from research.tiny.simulator.vae import VAETrainer, build_vae, latent_shape

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU")


def test_a_graph_follows_its_inputs_and_shapes():
    graphed = Graphed(lambda a, b: {"sum": a + b})
    for size in (3, 5, 3):
        a, b = torch.randn(size, device="cuda"), torch.randn(size, device="cuda")
        torch.testing.assert_close(graphed(a, b)["sum"], a + b)


def test_gradients_of_a_graph_are_those_of_the_weights_as_they_are(tmp_path):
    """For clips and for single frames, which leave the kernels in time without a gradient, and after a step."""
    options = toy_config(tmp_path).vae

    class Stage:
        pass

    stage = Stage()
    stage.options, stage.module = options, VAETrainer(build_vae(options, 0), options)
    loop = Loop(stage, Accelerator(), tmp_path)
    for frames, batch in ((5, 2), (1, 4), (5, 2)):
        clip = torch.rand(batch, 3, frames, 32, 32, device="cuda") * 2 - 1
        noise = torch.randn(latent_shape(clip.shape, VAE["z_dim"]), device="cuda")
        captured = loop.gradients(clip, noise)
        loss, gradients = captured.loss.clone(), [one if one is None else one.clone() for one in captured.of]
        expected = loop._gradients(clip, noise)
        torch.testing.assert_close(loss, expected.loss)
        assert [one is None for one in gradients] == [one is None for one in expected.of]
        torch.testing.assert_close([g for g in gradients if g is not None], [g for g in expected.of if g is not None])
        with torch.no_grad():
            for parameter in loop.parameters:
                parameter.add_(0.01)
