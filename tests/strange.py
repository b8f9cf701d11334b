"""Folder names with characters that have a special meaning in URLs."""

STRANGE_FOLDERS = ["a%20b", "a?b", "50% off", "a#b c", "ü'$"]
