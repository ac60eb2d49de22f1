"""Base models: alias -> folder of weights -> model, tokenizer and identity."""
