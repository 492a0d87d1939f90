"""Virtual knowledge distillation: a small generator of a teacher's softened outputs stands in for the teacher.

Kim. A virtual knowledge distillation via conditional GAN. IEEE Access 10 (2022), as reconstructed from its abstract:
the full text is not public. `networks` what is trained, `gan` how, `teacher` what comes out, `sources` whom a loss can
be told to read, `gates` how well the draws match.
"""
