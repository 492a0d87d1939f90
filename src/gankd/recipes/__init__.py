"""Whole methods in the order of their papers, and their ready-made settings."""

from gankd.recipes.config import Recipe
from gankd.recipes.ready import RECIPES, digits, folder, rotated_digits, turntable

__all__ = ["RECIPES", "Recipe", "digits", "folder", "rotated_digits", "turntable"]
