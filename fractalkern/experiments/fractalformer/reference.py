"""What was published: the log after 15,000 steps, nats a token, divided by its nine terms."""

LOGGED_TRAIN, LOGGED_VALIDATION = 2.08, 2.46
CHARACTERS_PER_TOKEN = 1.375
