"""Distil a classifier through generated images, step by step in the order of the paper, without recipes or run folders.

    python examples/classes.py

Ding, Wang, Xu, Wang, Welch. Distilling and transferring knowledge via cGAN-generated samples for image classification
and regression. Expert Systems with Applications 213 (2023). Settings are tiny: the numbers only show the way.
"""

from gankd.data.digits import load_digits
from gankd.data.scarce import scarce
from gankd.engine import Engine
from gankd.models import new_model
from gankd.models.contract import evaluate, predict_with_features
from gankd.seeds import rng
from gankd.subsampling.rejection import accept, budgeted_acceptance
from gankd.synthetic.relabel import keep_most_consistent
from gankd.training.distill import distill
from gankd.training.gan import GanConfig, train_gan
from gankd.training.lesson import DistillConfig, Fakes, Lesson
from gankd.training.ratio import RatioConfig, train_ratio
from gankd.training.supervised import SupervisedConfig, train_supervised

splits, engine = load_digits(), Engine.pick(image_size=8)
train, val, task = scarce(splits.train, num_train=200), splits.val, splits.task

# --- the teacher
settings = SupervisedConfig(updates=200, augment=("shift", "rotate", "scale"))
teacher = train_supervised(new_model("resnet8x2", train, seed=0), train, val, settings, engine, seed=0)

# --- M1: a conditional GAN, and how much likelier each of its images is among real ones
generator = train_gan(train, val, teacher, GanConfig(steps=200, batch_size=32), engine, seed=0)
labels = task.sample_labels(3000, train.labels, "balanced", rng(0, "labels"))
images = generator.sample(labels, generator=rng(0, "images"))  # (3000, 1, 8, 8) uint8
outputs, features = predict_with_features(teacher, images, engine)  # (3000, 10) logits, (3000, F)
_, real_features = predict_with_features(teacher, train.images, engine)
ratio = train_ratio(real_features, train.labels, features, labels, task, RatioConfig(epochs=10), seed=0)

# --- subsampling: in each class keep the half that is most like real images
acceptance = budgeted_acceptance(ratio.log_ratio(features, labels), task.groups(labels), share=0.5)
chosen = accept(acceptance, seed=0)
images, labels, outputs = images[chosen], labels[chosen], outputs[chosen]

# --- M2: the teacher drops what it would label otherwise; M3: its probabilities become the labels
disagreement = task.disagreement(outputs, labels)
kept, _ = keep_most_consistent(disagreement, labels, "published", 0.9, num_groups=10, per_class=True)
fakes = Fakes(images[kept], task.adjust(outputs[kept], labels[kept], "soft"), teacher_outputs=outputs[kept])

# --- students: the control has as many updates, on real images only
learning = DistillConfig(updates=600, lr=1e-2, fake_share=0.5)
lesson = Lesson("0.2*Label + 0.8*KD", teacher=teacher)
print(f"teacher                     {evaluate(teacher, splits.test, engine)['top1']:.1f} %")
for seed in (0, 1):
    for name, extra in (("control, equal updates", None), ("with generated images", fakes)):
        student = distill(
            new_model("cnn8", train, seed), train, val, learning, engine, seed, lesson=lesson, fakes=extra
        )
        print(f"student {seed}  {name:<22}  {evaluate(student, splits.test, engine)['top1']:.1f} %")
