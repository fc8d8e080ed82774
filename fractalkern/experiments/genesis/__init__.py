"""Does filling the weights of a small GPT-2 with 1/f^beta noise help it to learn arithmetic texts?

Source: GenesisBrain, 2025.
"""
