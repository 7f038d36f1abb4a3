"""Two small domains whose images tell which they are."""

import torch
from PIL import Image

from datamodules import ClassificationData, DomainPair
from datamodules.image_data import Splits
from datamodules.image_datasets import ImageSet


class Tiny(ClassificationData):
    """Image i of the training and the test part in turn is constant i / 255, of label i mod 5."""

    num_classes = 5

    def __init__(self, train=20, test=0, first=0, channels=1, size=4, classes=5, **arguments):
        super().__init__(**arguments)
        self.sizes = (train, test)
        self.first = first
        self.num_classes = classes
        self.class_names = [f"class {k}" for k in range(classes)]
        self.input_shape = (channels, size, size)

    def read(self):
        values = torch.arange(self.first, self.first + sum(self.sizes), dtype=torch.uint8)
        parts = [
            ImageSet(
                image=part.view(-1, 1, 1, 1).expand(-1, *self.input_shape),
                label=part.long() % self.num_classes,
            )
            for part in values.split(self.sizes)
        ]
        return Splits(parts[0], None, parts[1] if self.sizes[1] else None)


def pair(source=None, target=None, **arguments):
    """Return 20 source and 30 target images, of which number i of the union is i / 255."""
    source = Tiny() if source is None else source
    target = Tiny(30, first=20) if target is None else target
    data = DomainPair(source, target, **{"batch_size": 8, "held_out": 0.2, **arguments})
    data.setup("fit")
    return data


def joined(loader):
    batches = list(loader)
    return {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}


def guide(data, batch_size=4):
    return joined(data.guide_dataloader(batch_size, lambda: (0, 0)))


def write_domain(folder, first, suffix, mode, count=6):
    for number, name in enumerate(("bike", "mug")):
        (folder / name).mkdir(parents=True)
        for k in range(count):
            color = first + 10 * number + k
            picture = Image.new(mode, (8, 6 + k), color if mode == "L" else (color,) * 3)
            picture.save(folder / name / f"frame_{k:04}.{suffix}")
    return str(folder)
