"""Differently written answers to the exercises of notebook 00, right and wrong."""

import torch

RIGHT = {
    "00.1": (
        lambda assistant, reference, sigma: assistant * sigma - reference * sigma,
        lambda assistant, reference, sigma: -(reference.double() - assistant.double()) * sigma.double(),
        lambda assistant, reference, sigma: torch.einsum("bi,bj->bi", assistant - reference, sigma),
    )
}

# number -> (a wrong answer, words that its hint must contain)
WRONG = {
    "00.1": (
        (lambda assistant, reference, sigma: reference * sigma - assistant * sigma, "sign"),
        (lambda assistant, reference, sigma: -(reference - assistant), "score units"),
        (lambda assistant, reference, sigma: sigma * (assistant - reference) * sigma, "σ²"),
        (lambda assistant, reference, sigma: torch.div(assistant, sigma) - reference / sigma, "divided by σ"),
        (
            lambda assistant, reference, sigma: torch.linalg.vector_norm(sigma * (assistant - reference), dim=1),
            "length",
        ),
        (lambda assistant, reference, sigma: torch.zeros(3), "shape"),
        (lambda assistant, reference, sigma: sigma * (assistant - reference) + 0.1, "numbers"),
        (lambda assistant, reference, sigma: (assistant - reference) / 0, "not finite"),
    )
}
