"""The synthetic set: generated images that are kept, filtered and relabelled (modules M1 and M2 of cGAN-KD)."""

from gankd.synthetic.files import check_space
from gankd.synthetic.generate import Sampler, Score, generate
from gankd.synthetic.pool import SyntheticSet
from gankd.synthetic.select import SelectConfig, Selection, select

__all__ = ["Sampler", "Score", "SelectConfig", "Selection", "SyntheticSet", "check_space", "generate", "select"]
