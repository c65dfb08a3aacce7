"""Text as rows of tokens: where it comes from, its tokenizer, and how it is kept."""
