"""Byte-level tokenizers around a chat template: what a template does to tokens needs no vocabulary."""

import json
import pathlib
import re

TOKENS = re.compile(r"<\|[^<>|\s]+\|?>|<[a-z_]+\|>|<｜[^<>｜\s]+｜>|</?[a-z_]+>|\[/?[A-Z_]+\]")


def make_tokenizer(
    folder: pathlib.Path,
    template: str,
    *,
    eos: str = "<|endoftext|>",
    ends: tuple[int, ...] = (),
    newlines: bool = False,
) -> pathlib.Path:
    """Writes a tokenizer of 256 bytes and the tokens that a template names, and a generation config with the eos ids
    `ends`. newlines: two of them are one token, as with most families. Like the families', its tags for thinking and
    tools are added tokens that are not special."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    named = sorted(set(TOKENS.findall(template)) - {eos})
    tags = [token for token in named if re.search("think|tool", token)]
    special = [eos, "<bos>", *(token for token in named if token not in tags and token != "<bos>")]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pairs = [("Ċ", "Ċ")] if newlines else []  # a newline, bytewise
    vocabulary = {text: i for i, text in enumerate([*alphabet, *("".join(pair) for pair in pairs)])}
    bytewise = Tokenizer(models.BPE(vocabulary, pairs))
    bytewise.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytewise.decoder = decoders.ByteLevel()
    bytewise.add_special_tokens(special)
    bytewise.add_tokens([AddedToken(tag, special=False, normalized=False) for tag in tags])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=bytewise,
        eos_token=eos,
        bos_token="<bos>",
        additional_special_tokens=special[2:],
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = template
    folder.mkdir(parents=True, exist_ok=True)
    fast.save_pretrained(folder)
    if ends:
        (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": list(ends)}))
    return folder
