"""The commands of `tailrace`, one module for each family."""
