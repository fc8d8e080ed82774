"""A trained model as the folder that the original's `save_pretrained` leaves, for transformers."""

import json
from collections.abc import Iterator, Mapping, Sequence

import safetensors.torch
from torch import Tensor

from fractalkern.experiments.genesis.config import GenesisConfig
from fractalkern.experiments.genesis.published import NAMES
from fractalkern.experiments.genesis.runs import Run
from fractalkern.experiments.genesis.tokenizer import Tokenizer


def folder_of(config: GenesisConfig, run: Run) -> str:
    """Its name: the original's, with the seed behind it but for the first."""
    suffix = "" if run.seed == config.seed else f"-{run.seed}"
    return f"deep_genesis_experiment_{NAMES.get(run.arm, run.arm).lower()}{suffix}"


def model_files(
    config: GenesisConfig,
    runs: Sequence[Run],
    parameters: Mapping[str, Tensor],
    tokenizer: Tokenizer,
) -> Iterator[tuple[str, bytes]]:
    """The files of every run's folder, with their paths, one after the other.

    Args:
        config: of the study.
        runs: R of them.
        parameters: of `model.GPT2` `[R, ...]`, by their names, which are those of transformers.
        tokenizer: of the study.
    """
    vocabulary = config.vocabulary or tokenizer.size
    ends = {"bos_token_id": tokenizer.end, "eos_token_id": tokenizer.end}
    files = {
        "config.json": _json(_gpt2_config(config, vocabulary) | ends),
        "generation_config.json": _json({"_from_model_config": True, **ends}),
        **tokenizer.files(),
    }
    for place, run in enumerate(runs):
        folder = folder_of(config, run)
        weights = {name: stack[place].contiguous() for name, stack in parameters.items()}
        # Without this word transformers does not load the file.
        yield f"{folder}/model.safetensors", safetensors.torch.save(weights, {"format": "pt"})
        for name, content in files.items():
            yield f"{folder}/{name}", content


def _gpt2_config(config: GenesisConfig, vocabulary: int) -> dict[str, object]:
    """As GPT2Config writes it; what it lacks has its defaults, which are the model's."""
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "vocab_size": vocabulary,
        "n_positions": config.positions,
        "n_embd": config.width,
        "n_layer": config.layers,
        "n_head": config.heads,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5,
        **dict.fromkeys(("attn_pdrop", "embd_pdrop", "resid_pdrop"), config.dropout),
        "tie_word_embeddings": True,
        "torch_dtype": "float32",
    }


def _json(content: Mapping[str, object]) -> bytes:
    return (json.dumps(content, indent=2) + "\n").encode()
