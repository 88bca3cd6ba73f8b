"""The sides of a split by the words that data sets use for them."""

WORDS = {
    "train": ("train", "training", "trn", "trainset"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing", "tst", "testset", "eval", "evaluation"),
}
_SIDES = {word: side for side, words in WORDS.items() for word in words}


def side_of(word: str) -> str:
    """The side that a word names, "" for none; capitals, digits and separators play no part.

    >>> [side_of(word) for word in ("Training", "valid", "test_set", "val2017", "water")]
    ['train', 'val', 'test', 'val', '']
    """
    return _SIDES.get("".join(filter(str.isalpha, word.lower())), "")
