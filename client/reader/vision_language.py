"""A back end that asks a vision-language model what a comment likes and dislikes, in the words of ViPer's task.

ViPer (Salehi et al., ECCV 2024) tunes Idefics2 with an adapter to answer in two lines:

    Liked Art Features: soft light, muted colours
    Disliked Art Features: None

Any model that transformers' AutoModelForImageTextToText loads can be asked; a model that was not tuned for it
may not keep to the form. The answer is read strictly: whatever does not have the form is an ExtractionError
that says what was wrong, since an empty profile would look like an answer. Nothing leaves the device and
nothing is fetched; model and adapter are folders or commits of the hub on this machine (`hub_cache`), read
from safetensors alone, and no code that comes with them is run.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from PIL import Image

from palate.client.reader.comment import check_comment
from palate.client.runtime import find_model, refuse_reference
from palate.shared.attributes import Mention, load_vocabulary
from palate.shared.errors import ExtractionError, ModelError

TASK = (
    "I will give you a comment that a person made on this picture. List the art features the person likes and the art features the "
    "person dislikes: colors, style, composition, mood, medium, texture, brushwork, lighting, shadow effects, perspective, and other "
    "noteworthy elements. Focus solely on artistic aspects and refrain from considering subject matter. Answer in exactly two lines:\n"
    "Liked Art Features: feature, feature, ...\nDisliked Art Features: feature, feature, ...\nWrite None where there is none.\n"
    "Comment: "
)
MAX_FEATURES = 40
MAX_WORDS = 6
STRENGTH = 0.6
"""The strength of every mention: the task has no word for how strongly."""
_LINES = ("Liked Art Features", "Disliked Art Features")


@dataclass(frozen=True)
class VisionLanguageExtractor:
    """Asks a model in a folder (or a hub id with its commit, OWNER/NAME@COMMIT), with an optional peft adapter on top.

    device is where it runs ("cpu", "cuda"). The model is loaded at the first comment; an 8-billion-weight one
    takes minutes.
    """

    model: str
    adapter: str | None = None
    device: str = "cpu"
    max_new_tokens: int = 200

    def extract(self, comment: str, picture: Image.Image | None, liked: bool | None) -> list[Mention]:
        """Return the model's reading of the comment.

        Raises CommentError for an unreadable comment, ExtractionError for a missing picture or an answer
        without the form, ModelError when the model cannot be loaded.
        """
        return AnsweringExtractor(self._answer).extract(comment, picture, liked)

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        """The model on its device and its processor."""
        folder, name = find_model(self.model)
        refuse_reference(folder, name)
        adapter = None if self.adapter is None else _find_adapter(self.adapter)
        from transformers import AutoModelForImageTextToText, AutoProcessor

        safe = {"local_files_only": True, "trust_remote_code": False}
        try:
            processor = AutoProcessor.from_pretrained(folder, **safe)
            model: Any = AutoModelForImageTextToText.from_pretrained(
                folder, dtype="auto", use_safetensors=True, **safe
            )
            if adapter is not None:
                from peft import PeftModel

                model = PeftModel.from_pretrained(model, str(adapter), local_files_only=True)
        except (OSError, ValueError, RuntimeError, KeyError) as error:
            reason = (str(error).splitlines() or ["unknown"])[0]
            raise ModelError(
                f"model={self.model!r}: cannot be loaded as a vision-language model ({reason})"
            ) from error
        return model.to(self.device).eval(), processor

    def _answer(self, question: str, picture: Image.Image) -> str:
        """Return what the model writes after the question, decoded greedily."""
        import torch

        model, processor = self._loaded
        turns = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}]
        if getattr(processor, "chat_template", None):
            text = processor.apply_chat_template(turns, add_generation_prompt=True)
        else:
            text = f"{getattr(processor, 'image_token', '<image>')}{question}\n"
        inputs = processor(text=text, images=[picture.convert("RGB")], return_tensors="pt").to(self.device)
        with torch.inference_mode():
            written = model.generate(**inputs, do_sample=False, max_new_tokens=self.max_new_tokens)
        return str(
            processor.batch_decode(written[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)[0]
        )


def _find_adapter(adapter: str) -> Path:
    """Return an adapter's folder.

    Raises ModelError for one without safetensors, for which peft would read pickle.
    """
    folder, _ = find_model(adapter, "adapter")
    if not (folder / "adapter_model.safetensors").is_file():
        raise ModelError(
            f"adapter = {adapter!r} holds no adapter_model.safetensors, and pickled weights are not read; save it as safetensors"
        )
    return folder


@dataclass(frozen=True)
class AnsweringExtractor:
    """The same task put to anything that answers a question about a picture: a server of one's own, another library, a test."""

    answer: Callable[[str, Image.Image], str]

    def extract(self, comment: str, picture: Image.Image | None, liked: bool | None) -> list[Mention]:
        """Return the answer's reading of the comment; errors as for `VisionLanguageExtractor.extract`."""
        comment = check_comment(comment)
        if picture is None:
            raise ExtractionError(
                "picture=None: a vision-language model needs the picture; use the backend 'shipped' without one"
            )
        verdict = {
            True: " The person likes the picture.",
            False: " The person dislikes the picture.",
            None: "",
        }[liked]
        return read_answer(self.answer(TASK + comment + verdict, picture))


def read_answer(answer: str) -> list[Mention]:
    """Return the mentions of an answer in the task's form: two lines, in order, each a name, a colon and a comma-separated list.

    A feature in both lists, a list that is missing, empty or longer than MAX_FEATURES, a feature of more than
    MAX_WORDS words, and any other text around the lines are ExtractionErrors.
    """
    lines = [line.strip() for line in answer.strip().splitlines() if line.strip()]
    if len(lines) != 2:
        raise ExtractionError(
            f"answer {_short(answer)}: has {len(lines)} lines; exactly two are asked for, {_LINES[0]!r} and {_LINES[1]!r}"
        )
    liked, disliked = (_features(line, name, answer) for line, name in zip(lines, _LINES, strict=True))
    both = sorted({feature.lower() for feature in liked} & {feature.lower() for feature in disliked})
    if both:
        raise ExtractionError(
            f"answer {_short(answer)}: {both[0]!r} is both liked and disliked; ask again or use the backend 'shipped'"
        )
    return [_mention(feature, 1) for feature in liked] + [_mention(feature, -1) for feature in disliked]


def _features(line: str, name: str, answer: str) -> list[str]:
    """Return one line's features."""
    head, colon, rest = line.partition(":")
    if not colon or head.strip().lower() != name.lower():
        raise ExtractionError(
            f"answer {_short(answer)}: a line does not begin with {name + ':'!r}; the model does not keep to the task"
        )
    rest = rest.strip().rstrip(".").strip()
    if rest.lower() in ("none", "n/a"):
        return []
    features = list(dict.fromkeys(feature.strip() for feature in rest.split(",")))
    if not rest or not all(features):
        raise ExtractionError(
            f"answer {_short(answer)}: {name!r} has an empty feature; features or None are asked for"
        )
    if len(features) > MAX_FEATURES:
        raise ExtractionError(
            f"answer {_short(answer)}: {name!r} lists {len(features)} features; at most {MAX_FEATURES} are taken"
        )
    for feature in features:
        if len(feature.split()) > MAX_WORDS or not re.fullmatch(r"[^\W_][\w\s'’&/-]*", feature):
            raise ExtractionError(
                f"answer {_short(answer)}: {_short(feature)} is no feature of at most {MAX_WORDS} words"
            )
    return features


def _mention(feature: str, polarity: int) -> Mention:
    """Return a feature as a mention: the vocabulary's term where it names one, else the feature itself."""
    vocabulary = load_vocabulary()
    term = vocabulary.find(feature)
    if term is None:
        # The vocabulary is open: "hazy seaside light" keeps its words and takes the kind of the longest term
        # in it.
        words = feature.split()
        parts = sorted(
            (words[i:j] for i in range(len(words)) for j in range(i + 1, len(words) + 1)),
            key=len,
            reverse=True,
        )
        known = next(
            (found for part in parts if (found := vocabulary.find(" ".join(part))) is not None), None
        )
        return Mention(
            feature.lower(), known.category if known is not None else "technique", polarity, STRENGTH, feature
        )
    return Mention(term.name, term.category, polarity, STRENGTH, feature)


def _short(text: str) -> str:
    """Return a text fit for one line of an error."""
    flat = " ".join(text.split())
    return repr(flat if len(flat) <= 60 else flat[:57] + "...")
