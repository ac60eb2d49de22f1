"""The sign product `y += row * (sign @ (col * x))` and its backends; `dispatch` is the only door."""
