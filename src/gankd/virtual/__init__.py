"""Virtual knowledge distillation: a small generator of a teacher's softened outputs stands in for the teacher.

Kim. A virtual knowledge distillation via conditional GAN. IEEE Access 10 (2022), as reconstructed from its abstract:
the full text is not public.

`networks` and `gan` define and train the generator of outputs; `training` trains it on a teacher; `teacher` holds the
result; `sources` offers it to losses as a target source, next to the baselines it has to beat; `gates` and
`inspection` measure how well its samples match the teacher's outputs; `losses` needs no teacher at all.
"""

from gankd.virtual.gan import KnowledgeGan, VirtualConfig, faithful
from gankd.virtual.gates import Failure, Gate, Gates, measure
from gankd.virtual.inspection import NAME, Inspection, inspect_virtual
from gankd.virtual.sources import POLICIES, READABLE, SOURCES, Source, Sources, read_source
from gankd.virtual.teacher import Bank, Hints, VirtualTeacher
from gankd.virtual.training import Beside, OutputReader, check, polish, store_outputs

__all__ = [
    "NAME",
    "POLICIES",
    "READABLE",
    "SOURCES",
    "Bank",
    "Beside",
    "Failure",
    "Gate",
    "Gates",
    "Hints",
    "Inspection",
    "KnowledgeGan",
    "OutputReader",
    "Source",
    "Sources",
    "VirtualConfig",
    "VirtualTeacher",
    "check",
    "faithful",
    "inspect_virtual",
    "measure",
    "polish",
    "read_source",
    "store_outputs",
]
