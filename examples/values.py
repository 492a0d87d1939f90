"""Distil a regressor through images generated from a number, in the order of the paper, without recipes or run folders.

    python examples/values.py

CcGAN: Ding, Wang, Xu, Welch, Wang. CcGAN: continuous conditional generative adversarial networks for image generation.
ICLR 2021. cGAN-KD: see classes.py. Settings are tiny: the numbers only show the way.
"""

from gankd.data.rotated_digits import load_rotated_digits
from gankd.data.scarce import scarce
from gankd.engine import Engine
from gankd.models import new_model
from gankd.models.contract import evaluate, predict_with_features
from gankd.seeds import rng
from gankd.subsampling.rejection import accept, budgeted_acceptance
from gankd.synthetic.relabel import keep_most_consistent
from gankd.training.distill import distill
from gankd.training.gan import GanConfig, logistic, train_gan
from gankd.training.lesson import DistillConfig, Fakes, Lesson
from gankd.training.ratio import RatioConfig, train_ratio
from gankd.training.supervised import SupervisedConfig, train_supervised

splits, engine = load_rotated_digits(), Engine.pick(image_size=16)  # labels: the angle of a digit, -60 to 60 degrees
train, val, task = scarce(splits.train, num_train=200), splits.val, splits.task

# --- the teacher
settings = SupervisedConfig(updates=300, lr=3e-3, augment=("shift", "scale"))
teacher = train_supervised(new_model("cnn32", train, seed=0), train, val, settings, engine, seed=0)

# --- M1: a GAN for continuous labels, which learns an angle from images of angles nearby (soft vicinity)
config = logistic(GanConfig(steps=150, batch_size=32, width_g=16, width_d=16, vicinity="soft"))
generator = train_gan(train, val, teacher, config, engine, seed=0)
labels = task.sample_labels(2000, train.labels, "uniform", rng(0, "labels"))  # also angles that no image has
images = generator.sample(labels, generator=rng(0, "images"))  # (2000, 1, 16, 16) uint8
outputs, features = predict_with_features(teacher, images, engine)  # (2000,) degrees, (2000, F)
_, real_features = predict_with_features(teacher, train.images, engine)
ratio = train_ratio(real_features, train.labels, features, labels, task, RatioConfig(epochs=10), seed=0)

# --- subsampling: in each range of angles keep the half that is most like real images
groups = task.groups(labels)
chosen = accept(budgeted_acceptance(ratio.log_ratio(features, labels), groups, share=0.5), seed=0)

# --- M2: the teacher drops the 30 % on which it differs most; M3: its predictions become the labels
kept, _ = keep_most_consistent(
    task.disagreement(outputs, labels)[chosen], groups[chosen], "global", 0.7, num_groups=12, per_class=False
)
images, angles = images[chosen][kept], task.adjust(outputs, labels, "prediction")[chosen][kept]

# --- students: the control has as many updates, on real images only
learning, lesson = DistillConfig(updates=500, lr=5e-3, fake_share=0.5), Lesson("0.5*Label + 0.5*KD", teacher=teacher)
print(f"teacher                            {evaluate(teacher, splits.test, engine)['mae']:.2f} degrees")
for seed in (0, 1):
    for name, fakes in (("control, equal updates", None), ("with generated images", Fakes(images, angles, angles))):
        student = distill(
            new_model("cnn4", train, seed), train, val, learning, engine, seed, lesson=lesson, fakes=fakes
        )
        print(f"student {seed}  {name:<22}  {evaluate(student, splits.test, engine)['mae']:.2f} degrees")
