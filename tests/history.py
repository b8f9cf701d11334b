"""Ten ticks of a game in which neither side wins, as in stats.jsonl."""

HISTORY = [
    {"seen": 1000 * i, "generator_loss": 0.8, "discriminator_loss": 0.6, "validation_score": 2.0 - i / 10}
    for i in range(10)
]
