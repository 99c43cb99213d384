"""Model families, one package each, with the same verbs; `auto` loads a voice of any of them."""
