"""The curriculum as numbers, tables and a picture; standard library only, matplotlib for the picture."""
