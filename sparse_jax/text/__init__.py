"""Words, n-grams and pairs of texts, and postings over them."""
