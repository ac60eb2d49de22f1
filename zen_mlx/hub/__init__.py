"""The Hugging Face hub: addresses, downloads that resume and are checked, errors with a way out."""
