"""Virtual knowledge distillation: a small generator of a teacher's softened outputs stands in for the teacher.

Kim. A virtual knowledge distillation via conditional GAN. IEEE Access 10 (2022), as reconstructed from its abstract:
the full text is not public.

`networks` and `gan` define the generator of outputs and its updates; `outputs` and `training` train it on a teacher;
`teacher` holds the result; `sources` offers it to losses as a target source, next to the baselines it has to beat;
`measurement` and `inspection` tell how well its samples match the teacher's outputs, by `gates` on `distances` and by
`failures`; `losses` need no teacher.
"""

from gankd.virtual.failures import Failure
from gankd.virtual.gan import KnowledgeGan, VirtualConfig, faithful
from gankd.virtual.gates import Gate, Gates
from gankd.virtual.inspection import NAME, Inspection, inspect_virtual
from gankd.virtual.measurement import measure
from gankd.virtual.outputs import OutputReader, make_output_reader
from gankd.virtual.sources import POLICIES, READABLE, SOURCES, Source, Sources, read_source
from gankd.virtual.teacher import Bank, Hints, VirtualTeacher
from gankd.virtual.training import TeacherTraining, Watcher, learns_alongside, load_virtual, train_virtual

__all__ = [
    "NAME",
    "POLICIES",
    "READABLE",
    "SOURCES",
    "Bank",
    "Failure",
    "Gate",
    "Gates",
    "Hints",
    "Inspection",
    "KnowledgeGan",
    "OutputReader",
    "Source",
    "Sources",
    "TeacherTraining",
    "VirtualConfig",
    "VirtualTeacher",
    "Watcher",
    "faithful",
    "inspect_virtual",
    "learns_alongside",
    "load_virtual",
    "make_output_reader",
    "measure",
    "read_source",
    "train_virtual",
]
