"""Fixtures for the tokenizer's tests: texts and the ids that other programs give them (see peer_tokenizer.py).

    V/bin/python scripts/peers/tokens.py tiny leankv-model/tests/data          # trains three small vocabularies, writes GGUFs and ids
    V/bin/python scripts/peers/tokens.py MODEL.gguf leankv-model/tests/data    # ids of a real model: MODEL.tokens.json

V is the environment of reference.py.
"""

import json
import os
import sys
import tempfile

from peer_tokenizer import BYTE, CONTROL, NORMAL, UNKNOWN, USER_DEFINED, PeerTokenizer, sha256

CODE = 'fn main() {\n    let x: Vec<u8> = vec![0x7F; 16];\n\tprintln!("{:?}", x); // 100%\n}\n'
with open(os.path.join(os.path.dirname(__file__), "../../data/emma.txt"), encoding="utf-8") as file:
    EMMA = file.read()
# What the small vocabularies are trained on: numbers and runs too, so that they have pieces whose merging the tests can get wrong.
TRAINING = [EMMA, CODE * 50, "1815 1000 100 16 2024 12345 67890\n" * 400, "aaaaa bbbbb zzzzz aaa ababab\n" * 400]
TEXTS = [
    "Hello, world!",
    "",
    " ",
    "a",
    "  leading and trailing  ",
    "a  b   c    d     e",
    "\n",
    "one\n\n\ntwo \n \n three\n",
    "\t\tindented\n\t\tmore\r\nfrom Windows\r\n\r\n",
    "1234567890",
    "In 1815, 3.14159 and 1,000,000; 50% of 2nd x10",
    CODE,
    "def f(a, b=None):\n        return {'k': [a, *b]}\n\n\n# done\n",
    "don't WE'LL I'M they'Ve he'd you'RE 'tis",
    "naïve café Ångström — “quotes” … ™",
    "decomposed: cafe\u0301 A\u030angstro\u0308m",
    "日本語のテキストと中文字符。한국어도",
    "Привет, мир! Γειά σου. שלום العربية ٣٤٥",
    "½ ² Ⅷ ① numerals",
    "👩‍👩‍👧‍👦 🇩🇪 👍🏽 🫠",
    "no\u00a0break ideographic\u3000space zero\u200bwidth",
    "control \u0001\u007f characters",
    "https://example.org/a_b?c=1&d=%20#x user@example.org",
    "<|im_start|>user\nhi<|im_end|>\n<start_of_turn>model<end_of_turn><bos><|endoftext|>",
    "<tool_call> <table><tr><td>1</td></tr></table> </tool_call>",
    "literal \u2581 and \u2581\u2581 and <0x0A> Ġword",
    "x" + " " * 70 + "y" + "\n" * 40 + "z" + "\t" * 35,
    "abababababababababab aaaaaaaaaaaaaaaaa zzzzzzzzzz",
    "antidisestablishmentarianism UPPERCASE CamelCaseWords snake_case_words",
    EMMA[:1500],
    EMMA[100_000:101_500],
]


def fixture(path, out):
    """Writes the ids that the vocabulary of the GGUF `path` gives the texts."""
    tokenizer = PeerTokenizer(path)
    cases = [
        {"text": text, "special": special, "ids": tokenizer.encode(text, special)}
        for text in TEXTS
        for special in ((False, True) if "<" in text else (False,))
    ]
    with open(out, "w", encoding="utf-8") as file:
        head = json.dumps(sha256(path))
        lines = ",\n".join(json.dumps(case, separators=(",", ":")) for case in cases)
        file.write(f'{{"sha256":{head},\n"cases":[\n{lines}\n]}}\n')


def write_gguf(path, kind, tokens, kinds, **more):
    """A GGUF that holds a vocabulary and no weights."""
    from gguf import GGUFWriter

    writer = GGUFWriter(path, "llama")
    writer.add_tokenizer_model(kind)
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    for name, value in more.items():
        getattr(writer, f"add_{name}")(value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def tiny_bpe(pre, out, more=(), bos=1, **fields):
    """512 tokens of byte-level BPE, trained on the text, and `more` that no merges lead to."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<tool_call>", "</tool_call>"]
    trainer = trainers.BpeTrainer(
        vocab_size=512, special_tokens=specials, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False
    )
    tokenizer.train_from_iterator(TRAINING, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get) + list(more)
    kinds = [{3: USER_DEFINED, 4: USER_DEFINED}.get(i, CONTROL) if i < 5 else NORMAL for i in range(len(tokens))]
    write_gguf(
        out, "gpt2", tokens, kinds, tokenizer_pre=pre, token_merges=[" ".join(m) for m in model["merges"]],
        bos_token_id=bos, eos_token_id=2, **fields,
        chat_template="{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
        "{{ '<|im_start|>system\nYou are brief.<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] "
        "+ '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
    )  # fmt: skip


def tiny_spm(out):
    """800 pieces of SentencePiece's BPE with bytes to fall back to, trained on the text."""
    import sentencepiece
    from sentencepiece.sentencepiece_model_pb2 import ModelProto

    user = ["\n", "\n\n", "\n\n\n"] + ["\u2581" * n for n in range(2, 5)] + ["<table>", "</table>"]
    with tempfile.TemporaryDirectory() as folder:
        prefix = os.path.join(folder, "tiny")
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter("".join(TRAINING).split("\n")), model_prefix=prefix, model_type="bpe", vocab_size=800,
            byte_fallback=True, user_defined_symbols=user, control_symbols=["<start_of_turn>", "<end_of_turn>"],
            pad_id=0, eos_id=1, bos_id=2, unk_id=3, pad_piece="<pad>", eos_piece="<eos>", bos_piece="<bos>",
            normalization_rule_name="identity", add_dummy_prefix=False, remove_extra_whitespaces=False,
            character_coverage=1.0, split_digits=False, num_threads=1, minloglevel=2,
        )  # fmt: skip
        proto = ModelProto()
        with open(prefix + ".model", "rb") as file:
            proto.ParseFromString(file.read())
    # sentencepiece's numbers of the types are those of llama.cpp, and 6 is a byte in both.
    kinds = [piece.type for piece in proto.pieces]
    assert kinds.count(UNKNOWN) == 1 and kinds.count(BYTE) == 256
    tokens = [p.piece.replace("\u2581", " ") if p.type == USER_DEFINED else p.piece for p in proto.pieces]
    write_gguf(
        out, "llama", tokens, kinds, tokenizer_pre="default", token_scores=[p.score for p in proto.pieces],
        pad_token_id=0, eos_token_id=1, bos_token_id=2, unk_token_id=3, add_bos_token=True, add_space_prefix=False,
        chat_template="{{ bos_token }}{% for message in messages %}{{ '<start_of_turn>' + message['role'] + '\n' + "
        "message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}{{ '<start_of_turn>model\n' }}",
    )  # fmt: skip


def main(what, folder):
    if what != "tiny":
        name = os.path.basename(what).removesuffix(".gguf")
        return fixture(what, os.path.join(folder, f"{name}.tokens.json"))
    for name, write in {
        "tiny-smollm": lambda path: tiny_bpe("smollm", path, add_bos_token=False),
        "tiny-qwen2": lambda path: tiny_bpe("qwen2", path, add_bos_token=False),
        # Whole words without merges, and numbers of more digits than a word has.
        "tiny-llama3": lambda path: tiny_bpe("llama-bpe", path, ["\u0120antidisestablishmentarianism", "CamelCaseWords", "123456"], 0),
        "tiny-gemma": tiny_spm,
    }.items():
        path = os.path.join(folder, f"{name}.gguf")
        write(path)
        fixture(path, os.path.join(folder, f"{name}.tokens.json"))


main(*sys.argv[1:])
