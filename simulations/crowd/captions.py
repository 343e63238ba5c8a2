"""What a person might say a picture shows.

Captions in varied wording that mention a random part of its truth.

The generator learns from these. `UNSEEN_SUBJECT_WORDS` are never used in any caption: they measure whether
the text encoder's own knowledge of English carries the generator to words that it was never shown.
"""

from __future__ import annotations

import random

from palate.simulations.world.artists import load_artists
from palate.simulations.world.truth import ATTRIBUTES, CATEGORY_OF, Truth

SUBJECT_WORDS: dict[str, tuple[str, ...]] = {
    "house": (
        "house", "little house", "home", "bungalow", "chalet", "farmhouse", "villa", "barn", "shed", "farm",
        "homestead", "manor", "residence", "building with a roof", "country house", "wooden house",
        "stone house", "old house", "small building", "family home", "ranch", "gatehouse", "townhouse",
        "summer house", "hotel", "inn", "estate",
    ),
    "tree": (
        "tree", "big tree", "oak", "maple", "birch", "apple tree", "beech", "ash tree", "cedar", "spruce", "fir",
        "cypress", "chestnut tree", "cherry tree", "aspen", "alder", "sycamore", "olive tree", "lone tree", "old tree",
        "young tree", "leafy tree", "walnut tree", "evergreen", "acacia", "hazel",
        "shade tree",
    ),
    "mountain": (
        "mountain", "mountains", "summit", "mountain range", "alps", "mount", "mountaintop", "mountainside",
        "cliff", "rocky slope", "massif", "rocky mountain", "mount fuji", "matterhorn", "everest", "himalayas",
        "steep rock", "bluff", "mountain slope", "highlands", "escarpment",
        "rocky hill", "steep hill",
    ),
    "boat": (
        "boat", "vessel", "rowing boat", "fishing boat", "barge",
        "sloop", "ketch", "catamaran", "trawler", "clipper", "frigate", "caravel", "little boat", "wooden boat",
        "boat with a sail", "boat on the water", "raft", "skiff", "gondola", "lifeboat", "brig", "cutter", "longboat",
    ),
    "flower": (
        "flower", "single flower", "bloom", "daffodil", "violet", "orchid", "carnation", "marigold",
        "iris", "primrose", "buttercup", "wild flower", "chrysanthemum", "dahlia", "peony", "flower with petals",
        "crocus", "anemone", "garden flower", "magnolia", "petals", "aster", "cornflower", "camellia",
        "flowering plant", "geranium",
    ),
    "fish": (
        "fish", "swimming fish", "trout", "carp", "tuna", "perch", "pike", "mackerel", "sardine", "bass", "haddock",
        "anchovy", "catfish", "halibut", "sea bream", "little fish", "big fish",
        "fish with fins", "fish under water", "koi", "guppy", "sole", "snapper", "barracuda", "piranha", "pilchard",
        "cichlid",
    ),
    "city": (
        "city", "city skyline", "town", "downtown", "tall buildings", "skyline", "cityscape", "tower blocks",
        "big city", "urban scene", "city buildings", "new york", "london", "tokyo", "chicago", "streets and buildings",
        "apartment blocks", "city centre", "high buildings", "office buildings", "hong kong", "paris", "urban skyline",
        "capital city", "modern city", "megacity", "business district", "brooklyn", "shanghai", "the city",
    ),
    "cat": (
        "cat", "sitting cat", "house cat", "tabby", "pussycat", "puss", "moggy", "siamese cat", "persian cat",
        "little cat", "stray cat", "pet cat", "cat with whiskers", "young cat", "alley cat",
        "furry cat", "cat sitting up", "meowing cat", "mouser", "old cat", "fluffy cat",
        "purring cat", "cats",
    ),
    "bird": (
        "bird", "small bird", "sparrow", "finch", "blackbird", "thrush", "swallow", "magpie", "jay",
        "starling", "nightingale", "wren", "raven", "gull", "warbler", "budgie", "bluebird", "little bird",
        "singing bird", "bird with a beak", "perched bird", "lark", "hummingbird", "cuckoo", "oriole",
        "woodpecker", "kingfisher",
    ),
    "lighthouse": (
        "lighthouse", "old lighthouse", "tall lighthouse", "lighthouse tower", "lighthouse on the shore",
        "striped lighthouse", "sea lighthouse", "harbour lighthouse",
        "signal tower", "tower by the coast", "tower with a lamp", "warning light for sailors",
        "pharos", "harbour light", "lighthouse keeper's tower", "signal light", "watchtower", "lantern tower",
    ),
    "balloon": (
        "hot air balloon", "balloon", "flying balloon", "striped balloon", "gas balloon", "montgolfier", "zeppelin",
        "balloon with a basket", "ballooning", "big balloon", "floating balloon",
        "balloon in the sky", "balloon flight", "hot-air balloon", "weather balloon", "inflated balloon",
        "passenger balloon", "lighter than air craft", "balloon ride",
    ),
    "mushroom": (
        "mushroom", "red mushroom", "forest mushroom", "fungus", "champignon", "chanterelle", "porcini", "morel",
        "shiitake", "portobello", "button mushroom", "mushrooms", "mushroom cap", "spotted mushroom", "wild mushroom",
        "poisonous mushroom", "edible mushroom", "little mushroom", "boletus", "amanita", "oyster mushroom",
        "death cap", "puffball", "mushroom with white spots", "enoki", "inkcap",
    ),
}  # fmt: skip

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
    "snow": ("in the snow", "on a snowfield", "in a snowy field"),
    "street": ("in the street", "on the road", "in town"),
    "room": ("in a room", "indoors", "in the living room"),
    "table": ("on a table", "on the table", "on a wooden table"),
    "sky": ("in the sky", "among the clouds", "up in the air"),
    "under water": ("under water", "in the deep sea", "underwater"),
    "plain": ("on a plain background", "", ""),
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

_WITHOUT_ARTICLE = {
    "mountains", "alps", "himalayas", "highlands", "everest", "mount fuji", "petals", "the city", "downtown",
    "tall buildings", "tower blocks", "city buildings", "new york", "london", "tokyo", "chicago", "hong kong",
    "paris", "brooklyn", "shanghai", "cats", "mushrooms", "streets and buildings", "apartment blocks",
    "high buildings", "office buildings", "ballooning",
}  # fmt: skip
_UNCOUNTABLE = frozenset(
    ("bacon", "beer", "boba tea", "bread", "broccoli", "bubble tea", "champagne", "chocolate", "coffee", "coral", "corn",
     "count dracula", "curry", "father christmas", "fire", "garlic", "green tea", "honey", "lavender", "luggage", "maize",
     "milk", "pasta", "popcorn", "ramen", "roast meat", "sakura", "salad", "santa claus", "saturn", "soap", "spaghetti",
     "sushi", "the earth", "thread", "toast", "wheat", "wine", "yarn", "lightning")
)  # fmt: skip
_PLURALS = {
    "man": "men", "woman": "women", "child": "children", "mouse": "mice", "goose": "geese", "sheep": "sheep",
    "deer": "deer", "moose": "moose", "bison": "bison", "fish": "fish", "wolf": "wolves", "elf": "elves",
    "leaf": "leaves", "knife": "knives", "loaf": "loaves", "dwarf": "dwarves", "thief": "thieves", "person": "people",
    "ox": "oxen", "foot": "feet", "tooth": "teeth", "shrimp": "shrimp", "squid": "squid", "aircraft": "aircraft",
}  # fmt: skip
_OPENINGS = ("", "", "", "a painting of ", "an image of ", "a picture of ", "an artwork showing ")


def subject_phrase(rng: random.Random, truth: Truth, *, plain: float = 0.4) -> str:
    """Return the subject with an article, and its setting most of the time: 'a cat', 'a home by the sea'."""
    words = words_of(truth.subject)
    word = words[0] if rng.random() < plain else rng.choice(words)
    if truth.count > 1:
        phrase = f"{('two', 'three')[truth.count - 2]} {plural_of(word)}"
    else:
        bare = _stands_bare(word) or rng.random() < 0.08
        phrase = word if bare else with_article(word)
    if truth.companion is not None:
        phrase += (
            f" {rng.choice(('and', 'with', 'next to'))} {with_article(rng.choice(words_of(truth.companion)))}"
        )
    if truth.setting is not None and rng.random() < 0.8:
        phrase += " " + rng.choice(SETTING_PHRASES[truth.setting])
    return phrase.rstrip()


def words_of(subject: str) -> tuple[str, ...]:
    """Return what captions call a subject, its own name first."""
    return SUBJECT_WORDS[subject] if subject in SUBJECT_WORDS else load_artists()[subject].words


def with_article(word: str) -> str:
    """Return a noun with "a" or "an", or without one where English has none: 'an owl', 'bread', 'grapes'."""
    return word if _stands_bare(word) else f"{'an' if word[0] in 'aeiou' else 'a'} {word}"


def plural_of(word: str) -> str:
    """Return the plural of a noun phrase; of "man with a beard" that is "men with a beard"."""
    head, link, rest = word, "", ""
    for one in (" with ", " of ", " in ", " on ", " from "):
        if one in word:
            head, link, rest = (*word.partition(one),)
            break
    *before, noun = head.split(" ")
    if noun in _PLURALS:
        noun = _PLURALS[noun]
    elif noun.endswith("s") and not noun.endswith(("ss", "us", "is")):
        pass
    elif noun.endswith(("s", "x", "ch", "sh")):
        noun += "es"
    elif noun.endswith("y") and noun[-2:-1] not in "aeiou":
        noun = noun[:-1] + "ies"
    else:
        noun += "s"
    return " ".join((*before, noun)) + link + rest


def _stands_bare(word: str) -> bool:
    if word in _WITHOUT_ARTICLE or word in _UNCOUNTABLE:
        return True
    head = word.split(" with ")[0].split(" in ")[0]
    return head.endswith("s") and not head.endswith(("ss", "us", "is", "os")) and " of " not in word


def attribute_phrase(rng: random.Random, attribute: str) -> str:
    """Return one wording of an attribute; its own name about half of the time."""
    return attribute if rng.random() < 0.4 else rng.choice(ATTRIBUTE_PHRASES[attribute])


def caption(rng: random.Random, truth: Truth) -> str:
    """Return a caption of the picture.

    The subject, and a random part of its attributes in random order and wording.
    """
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
    """Return a caption without the subject; empty where the truth has no attribute."""
    shown = list(truth.values())
    rng.shuffle(shown)
    return ", ".join(attribute_phrase(rng, a) for a in shown[:4])


if set(ATTRIBUTE_PHRASES) != set(CATEGORY_OF) or len(CATEGORY_OF) != sum(map(len, ATTRIBUTES.values())):
    raise ImportError("ATTRIBUTE_PHRASES and ATTRIBUTES name different attributes")
