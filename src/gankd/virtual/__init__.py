"""Virtual knowledge distillation: a small generator of a teacher's softened outputs stands in for the teacher.

Kim. A virtual knowledge distillation via conditional GAN. IEEE Access 10 (2022), as reconstructed from its abstract:
the full text is not public.

`networks` and `gan` define the generator of outputs and its updates; `outputs` and `training` train it on a teacher;
`teacher` holds the result. `sources` names what a loss can read instead of the teacher, the virtual teacher or a
baseline it has to beat; `samplers` and `readers` give the targets. `measurement` and `inspection` tell how well samples
match the teacher's outputs, by `gates` on `distances` and by `failures`. `losses` need no teacher.
"""

from gankd.virtual.failures import Failure
from gankd.virtual.gan import KnowledgeGan, VirtualConfig, faithful
from gankd.virtual.gates import Gate, Gates
from gankd.virtual.inspection import NAME, Inspection, inspect_virtual
from gankd.virtual.measurement import measure
from gankd.virtual.outputs import OutputReader, make_output_reader
from gankd.virtual.readers import Sources
from gankd.virtual.sources import POLICIES, READABLE, SOURCES, Source, read_source
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
