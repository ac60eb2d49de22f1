"""What makes a piece of text a secret: its own form, the name before it, the command it stands in, or its check digits."""
