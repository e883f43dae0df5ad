"""Makes tests/parity/generate.json: what transformers' `generate` writes after prompts of unequal length in one batch.

    cd tests; python -m parity.make_generate_golden       (needs torch and transformers, see requirements-dev.txt; a minute)

The model is that of plain.npz. Greedy, in float32; prompts for which two tokens nearly tie anywhere are passed over, since
there rounding decides.
"""

import itertools
import json
from pathlib import Path

import numpy as np
from parity import make_golden as golden

PATH = Path(__file__).parent / "generate.json"
LENGTHS, NEW_TOKENS = (1, 7, 19, 40), 64
MIN_LOGIT_GAP = 1e-3


def make_prompts(vocab: int, seed: int, lengths=LENGTHS) -> list[list[int]]:
    """Random tokens; each prompt but the shortest has id 0, a token like any other, in it and at its end."""
    prompts = [document[:-1].tolist() for document in golden.make_documents(lengths, vocab, seed)]
    return [[*p[: len(p) // 2], 0, *p[len(p) // 2 + 1 : -1], 0] if len(p) > 2 else p for p in prompts]


def generate(model, prompts: list[list[int]], new_tokens: int) -> tuple[list[list[int]], float]:
    """The new tokens of each prompt, all in one batch padded on the left, and the smallest gap between the two largest
    logits anywhere."""
    import torch

    longest = max(map(len, prompts))
    ids = torch.tensor([[0] * (longest - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts])
    model.generation_config.eos_token_id = model.generation_config.pad_token_id = None
    with torch.no_grad():
        out = model.eval().generate(
            ids, attention_mask=mask, do_sample=False, max_new_tokens=new_tokens, min_new_tokens=new_tokens,
            output_logits=True, return_dict_in_generate=True,
        )  # fmt: skip
    top = torch.stack(out.logits).topk(2, dim=-1).values
    return out.sequences[:, longest:].tolist(), (top[..., 0] - top[..., 1]).min().item()


def find_prompts(model, vocab: int, seeds, lengths=LENGTHS) -> tuple[list[list[int]], list[list[int]]]:
    """The first prompts, and their new tokens, without near ties of logits or in a router."""
    for seed in seeds:
        prompts = make_prompts(vocab, seed, lengths)
        new, gap = generate(model, prompts, NEW_TOKENS)
        if gap < MIN_LOGIT_GAP:
            continue
        texts = [np.array([*p, *n], np.int32) for p, n in zip(prompts, new)]
        if golden.router_margins(model, texts)[0] > 1e-5:
            return prompts, new
    raise AssertionError("no prompts without near ties")


def main() -> None:
    with np.load(golden.FOLDER / "plain.npz") as file:
        header = json.loads(str(file["header"]))
    model = golden.build(header["config"], attn_implementation="eager", experts_implementation="eager")
    assert golden.fingerprint(golden.load(model, header["seed"])) == header["fingerprint"]
    prompts, new = find_prompts(model, header["config"]["vocab_size"], itertools.count())
    PATH.write_text(json.dumps({"prompts": prompts, "new_tokens": new}))
    print(PATH.name, PATH.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
