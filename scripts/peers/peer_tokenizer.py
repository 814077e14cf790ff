"""Tokenizers of GGUF files for the peers' scripts, built from the file's own vocabulary by other programs than ours.

Byte-level BPE goes through Hugging Face's `tokenizers` with the pipeline of the model's own `tokenizer.json`; SentencePiece's
BPE goes through Google's `sentencepiece`, for which the vocabulary is written as its model file again.
"""

import hashlib
import re

from gguf import GGUFReader

QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA3 = QWEN2.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)


def sha256(path):
    """The SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class PeerTokenizer:
    """`encode` gives the ids of a text, after the begin-of-sequence token where the file asks for one."""

    def __init__(self, path):
        reader = GGUFReader(path)
        self.field = lambda key, default=None: reader.fields[key].contents() if key in reader.fields else default
        self.tokens = self.field("tokenizer.ggml.tokens")
        self.kinds = self.field("tokenizer.ggml.token_type")
        model = self.field("tokenizer.ggml.model")
        self._encode = {"gpt2": self._bpe, "llama": self._sentencepiece}[model]()
        add_bos = self.field("tokenizer.ggml.add_bos_token", self.field("tokenizer.ggml.pre") == "llama-bpe")
        self.bos = self.field("tokenizer.ggml.bos_token_id") if add_bos else None

    def encode(self, text, special=False):
        """With `special`, control tokens written out in the text become their ids."""
        ids = [] if self.bos is None else [self.bos]
        if not special:
            return ids + self._encode(text)
        control = {t: i for i, (t, k) in enumerate(zip(self.tokens, self.kinds)) if k == CONTROL and t}
        pattern = "|".join(re.escape(t) for t in sorted(control, key=len, reverse=True))
        for part in re.split(f"({pattern})", text):
            ids += [control[part]] if part in control else self._encode(part) if part else []
        return ids

    def _bpe(self):
        from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers

        vocab = {t: i for i, t in enumerate(self.tokens)}
        merges = [tuple(m.split(" ")) for m in self.field("tokenizer.ggml.merges")]
        pre = self.field("tokenizer.ggml.pre")
        tokenizer = Tokenizer(models.BPE(vocab, merges, ignore_merges=pre == "llama-bpe"))
        match pre:
            case "smollm":
                tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
                    [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
                )
            case "qwen2":
                tokenizer.normalizer = normalizers.NFC()
                tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
                    [
                        pre_tokenizers.Split(Regex(QWEN2), "isolated"),
                        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
                    ]
                )
            case "llama-bpe":
                tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
                    [
                        pre_tokenizers.Split(Regex(LLAMA3), "isolated"),
                        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
                    ]
                )
            case other:
                raise SystemExit(f"splitting {other} is not known here")
        tokenizer.add_tokens(
            [AddedToken(t, normalized=False) for t, k in zip(self.tokens, self.kinds) if k == USER_DEFINED]
        )
        return lambda text: tokenizer.encode(text, add_special_tokens=False).ids

    def _sentencepiece(self):
        from sentencepiece import SentencePieceProcessor
        from sentencepiece.sentencepiece_model_pb2 import ModelProto

        proto = ModelProto()
        trainer, normalizer = proto.trainer_spec, proto.normalizer_spec
        trainer.model_type = trainer.BPE
        trainer.byte_fallback = True
        trainer.vocab_size = len(self.tokens)
        trainer.unk_id = self.field("tokenizer.ggml.unknown_token_id")
        trainer.bos_id = self.field("tokenizer.ggml.bos_token_id")
        trainer.eos_id = self.field("tokenizer.ggml.eos_token_id")
        trainer.pad_id = -1
        normalizer.name = "identity"
        normalizer.add_dummy_prefix = self.field("tokenizer.ggml.add_space_prefix", True)
        normalizer.remove_extra_whitespaces = False
        normalizer.escape_whitespaces = True
        for token, score, kind in zip(self.tokens, self.field("tokenizer.ggml.scores"), self.kinds):
            # llama.cpp's converter writes the spaces of user-defined pieces as spaces.
            piece = token.replace(" ", "\u2581") if kind == USER_DEFINED else token
            # Gemma's file calls its unknown piece a control token; sentencepiece wants exactly one unknown piece.
            kind = UNKNOWN if len(proto.pieces) == trainer.unk_id else kind
            proto.pieces.add(piece=piece, score=score, type=kind)
        processor = SentencePieceProcessor(model_proto=proto.SerializeToString())
        return lambda text: list(processor.encode(text))
