"""What a person might say a picture shows: captions in varied wording that mention a random part of its truth.

The generator learns from these. `UNSEEN_SUBJECT_WORDS` are never used in any caption: they measure whether the text
encoder's own knowledge of English carries the generator to words that it was never shown.
"""

from __future__ import annotations

import random

from palate.simulations.world import ATTRIBUTES, CATEGORY_OF, Truth

SUBJECT_WORDS: dict[str, tuple[str, ...]] = {
    "house": ("house", "little house", "home", "bungalow", "chalet", "farmhouse", "hut", "villa"),
    "tree": ("tree", "big tree", "oak", "maple", "birch", "apple tree"),
    "mountain": ("mountain", "mountains", "summit", "mountain range", "alps"),
    "boat": ("boat", "sailing boat", "sailboat", "yacht", "vessel"),
    "flower": ("flower", "single flower", "daisy", "tulip", "bloom"),
    "fish": ("fish", "swimming fish", "trout", "carp", "tuna"),
    "city": ("city", "city skyline", "town", "downtown", "tall buildings"),
    "cat": ("cat", "sitting cat", "house cat", "tabby", "pussycat"),
    "bird": ("bird", "small bird", "sparrow", "finch", "parrot"),
    "lighthouse": ("lighthouse", "old lighthouse", "tall lighthouse", "lighthouse tower"),
    "balloon": ("hot air balloon", "balloon", "flying balloon", "striped balloon"),
    "mushroom": ("mushroom", "red mushroom", "forest mushroom", "fungus"),
}

UNSEEN_SUBJECT_WORDS: dict[str, tuple[str, ...]] = {
    "house": ("cottage", "cabin", "mansion", "dwelling", "lodge"),
    "tree": ("pine", "willow", "elm", "poplar", "sapling"),
    "mountain": ("peak", "ridge", "volcano", "crag"),
    "boat": ("ship", "sailing ship", "schooner", "dinghy", "galleon"),
    "flower": ("blossom", "rose", "sunflower", "poppy", "lily"),
    "fish": ("goldfish", "salmon", "cod", "herring", "minnow"),
    "city": ("skyscrapers", "metropolis", "high-rises", "office towers", "manhattan"),
    "cat": ("kitten", "feline", "kitty", "tomcat"),
    "bird": ("robin", "pigeon", "songbird", "crow", "canary"),
    "lighthouse": ("beacon", "light tower", "coastal beacon"),
    "balloon": ("airship", "dirigible", "blimp", "aerostat"),
    "mushroom": ("toadstool", "fly agaric", "fungi", "truffle"),
}

SETTING_PHRASES: dict[str, tuple[str, ...]] = {
    "field": ("in a field", "in a meadow", "on the grass"),
    "sea": ("by the sea", "on the beach", "on the coast", "at the seaside"),
    "hills": ("in the hills", "among green hills", "in a valley"),
    "desert": ("in the desert", "among sand dunes", "on dry sand"),
}

ATTRIBUTE_PHRASES: dict[str, tuple[str, ...]] = {
    "vibrant": ("vibrant", "vibrant colours", "vivid colors", "saturated colours", "bold bright colours"),
    "muted": ("muted", "muted colours", "desaturated", "subdued tones", "washed-out colors"),
    "pastel": ("pastel", "pastel colours", "soft pastel palette", "pale pastel tones"),
    "monochrome": ("monochrome", "monochromatic", "single colour palette", "one colour only"),
    "neon": ("neon", "neon colours", "glowing neon", "neon on black"),
    "earthy": ("earthy", "earth tones", "earthy colours", "browns and ochres"),
    "black and white": ("black and white", "greyscale", "in black and white", "no colour"),
    "multicoloured": ("multicoloured", "rainbow colours", "colourful", "many colours"),
    "red": ("red", "mostly red", "red tones", "crimson", "reds"),
    "orange": ("orange", "mostly orange", "orange tones", "oranges"),
    "yellow": ("yellow", "mostly yellow", "yellow tones", "yellows"),
    "green": ("green", "mostly green", "green tones", "greens"),
    "blue": ("blue", "mostly blue", "blue tones", "deep blue", "blues"),
    "purple": ("purple", "mostly purple", "violet tones", "purples"),
    "pink": ("pink", "mostly pink", "pink tones", "rose pink"),
    "warm": ("warm", "warm colours", "warm palette", "warm tones"),
    "cool": ("cool", "cool colours", "cool palette", "cold tones"),
    "bright": ("bright", "bright light", "well lit", "brightly lit"),
    "dark": ("dark", "dim light", "gloomy darkness", "dimly lit", "dark tones"),
    "golden hour": ("golden hour", "golden light", "sunset glow", "warm evening light"),
    "moonlit": ("moonlit", "moonlight", "at night under the moon", "night scene"),
    "spotlit": ("spotlit", "spotlight", "a pool of light in the dark", "lit by a spotlight"),
    "misty": ("misty", "foggy", "hazy", "mist", "in the fog"),
    "rainy": ("rainy", "in the rain", "rainfall", "rain"),
    "snowy": ("snowy", "snow", "falling snow", "in winter snow"),
    "high contrast": ("high contrast", "strong contrast", "stark contrast"),
    "low contrast": ("low contrast", "faded", "little contrast", "faint"),
    "flat colour": ("flat colour", "flat design", "flat shapes", "poster style", "flat areas of colour"),
    "watercolour": ("watercolour", "watercolor wash", "watercolour painting", "painted in watercolor"),
    "pointillism": ("pointillism", "made of dots", "stippled dots", "pointillist"),
    "line art": ("line art", "ink line drawing", "outline drawing", "pen drawing"),
    "crosshatching": ("crosshatching", "hatched drawing", "cross-hatched", "hatching lines"),
    "mosaic": ("mosaic", "mosaic tiles", "tiles", "made of tiles"),
    "stained glass": ("stained glass", "stained glass window", "leaded glass"),
    "pixel art": ("pixel art", "pixelated", "8-bit pixels", "blocky pixels"),
    "impasto": ("impasto", "thick brush strokes", "thick paint", "visible brushstrokes"),
    "swirling brushstrokes": ("swirling brushstrokes", "swirls", "swirling strokes", "swirling paint"),
    "smooth": ("smooth", "soft focus", "soft smooth edges", "airbrushed"),
    "grainy": ("grainy", "film grain", "rough grain", "grainy texture"),
    "canvas": ("canvas", "canvas texture", "woven canvas", "canvas weave"),
    "flowing lines": ("flowing lines", "curved lines", "wavy lines", "rounded flowing shapes"),
    "angular lines": ("angular lines", "geometric", "sharp angles", "angular shapes", "cubist facets"),
    "bold outlines": ("bold outlines", "thick outlines", "heavy black contours"),
    "minimalist": ("minimalist", "minimal", "lots of empty space", "sparse"),
    "busy": ("busy", "crowded", "cluttered", "full of things"),
    "close-up": ("close-up", "close up view", "very large and near", "filling the frame"),
    "symmetrical": ("symmetrical", "symmetry", "mirrored"),
    "tilted": ("tilted", "slanted", "diagonal composition", "askew"),
    "simplified": ("simplified", "simple shapes", "few details", "plain and simple"),
    "intricate": ("intricate", "ornate", "finely patterned", "richly detailed ornament"),
    "calm": ("calm", "peaceful", "serene", "tranquil"),
    "joyful": ("joyful", "cheerful", "playful", "festive"),
    "melancholic": ("melancholic", "sad", "lonely", "sorrowful"),
    "dramatic": ("dramatic", "intense", "epic drama", "dramatic rays"),
    "dreamy": ("dreamy", "dreamlike", "ethereal", "magical glow"),
}

_OPENINGS = ("", "", "", "a painting of ", "an image of ", "a picture of ", "an artwork showing ")


def subject_phrase(rng: random.Random, truth: Truth, *, plain: float = 0.45) -> str:
    """The subject with an article, and its setting most of the time: 'a cat', 'a home by the sea'."""
    words = SUBJECT_WORDS[truth.subject]
    word = words[0] if rng.random() < plain else rng.choice(words)
    plural = word in ("mountains", "alps", "tall buildings", "downtown")
    article = "" if plural or rng.random() < 0.08 else "an " if word[0] in "aeiou" else "a "
    phrase = article + word
    if truth.setting is not None and rng.random() < 0.8:
        phrase += " " + rng.choice(SETTING_PHRASES[truth.setting])
    return phrase


def attribute_phrase(rng: random.Random, attribute: str) -> str:
    """One wording of an attribute; its own name about half of the time."""
    return attribute if rng.random() < 0.4 else rng.choice(ATTRIBUTE_PHRASES[attribute])


def caption(rng: random.Random, truth: Truth) -> str:
    """A caption of the picture: the subject, and a random part of its attributes in random order and wording."""
    subject = rng.choice(_OPENINGS) + subject_phrase(rng, truth)
    shown = list(truth.values())
    rng.shuffle(shown)
    kept = shown[: rng.choice([0, 1, 1, 2, 2, 3, 3, 4, 5])]
    words = [attribute_phrase(rng, a) for a in kept]
    if not words:
        return subject
    form = rng.random()
    if form < 0.6:
        return ", ".join([subject, *words])
    if form < 0.75:
        return ", ".join([*words, subject])
    if form < 0.9:
        return f"{subject}, {' and '.join(words)}"
    return f"{subject} in the style of {', '.join(words)}"


def attributes_only(rng: random.Random, truth: Truth) -> str:
    """A caption without the subject; empty where the truth has no attribute."""
    shown = list(truth.values())
    rng.shuffle(shown)
    return ", ".join(attribute_phrase(rng, a) for a in shown[:4])


if set(ATTRIBUTE_PHRASES) != set(CATEGORY_OF) or len(CATEGORY_OF) != sum(map(len, ATTRIBUTES.values())):
    raise ImportError("ATTRIBUTE_PHRASES and ATTRIBUTES name different attributes")
