"""The Hugging Face hub: addresses, downloads that resume, errors with a way out; the only door to huggingface_hub."""
