"""Names that a folder may have, each with what means something else in an address."""

STRANGE_FOLDERS = ["a%20b", "a?b", "50% off", "a#b c", "ü'$"]
