"""The modules and a training step on a GPU, where there is one."""

import copy

import numpy as np
import pytest
import soundfile
import torch
from small_models import write_folder

from ascmamba_modules.ascmamba import ASCMamba
from ascmamba_modules.features import LogMel
from ascmamba_modules.inference import SceneClassifier
from ascmamba_modules.se_trans import SETrans

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not torch.cuda.is_available(), reason="no CUDA GPU is visible"
    ),
]
LENGTHS = torch.tensor([1.0, 0.6])


@pytest.mark.parametrize(
    "module, shape",
    [
        (ASCMamba(channels=8, n_blocks=1, context_size=4), (2, 100, 64)),
        (SETrans(channels=(8, 16), n_heads=2), (2, 100, 64)),
        (LogMel(), (2, 44100)),
    ],
    ids=["ASCMamba", "SETrans", "LogMel"],
)
def test_gpu_gives_what_the_cpu_gives(module, shape):
    module = module.eval()
    inputs = torch.randn(shape)
    options = {} if len(shape) == 2 else {"lengths": LENGTHS}
    expected = module(inputs, **options)
    on_gpu = copy.deepcopy(module).cuda()
    options = {name: value.cuda() for name, value in options.items()}
    outputs = on_gpu(inputs.cuda(), **options)
    torch.testing.assert_close(
        outputs, expected, atol=1e-3, rtol=1e-3, check_device=False
    )


def test_training_step_in_bf16_stays_finite():
    model = ASCMamba(channels=8, n_blocks=1, context_size=4).cuda()
    features = torch.randn(2, 100, 64).cuda()
    with torch.autocast("cuda", torch.bfloat16):
        logits = model(features, lengths=LENGTHS.cuda())
    logits.float().logsumexp(-1).sum().backward()
    gradients = {n: p.grad for n, p in model.named_parameters()}
    assert all(torch.isfinite(g).all() for g in gradients.values())


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_classifier_gives_what_it_gives_on_the_cpu(tmp_path, precision):
    folder, _ = write_folder(tmp_path)
    rng = np.random.default_rng(0)
    paths = [tmp_path / f"{i}.wav" for i in range(3)]
    for seconds, path in enumerate(paths, 1):
        soundfile.write(path, rng.uniform(-0.3, 0.3, seconds * 16000), 16000)
    answers = []
    for options in ({"device": "cpu"}, {"precision": precision}):
        run_opts = {"device": "cuda", **options}
        classifier = SceneClassifier.from_hparams(folder, run_opts=run_opts)
        files = list(classifier.classify_files(paths, "Berlin", batch_size=2))
        table = classifier.classify_long(paths[2], 1.0).table
        answers.append(
            (
                torch.stack([file.out_prob.exp() for file in files]),
                torch.tensor(table[classifier.classes].to_numpy()),
            )
        )
    atol = 1e-3 if precision == "fp32" else 0.05
    torch.testing.assert_close(*answers, atol=atol, rtol=0)
