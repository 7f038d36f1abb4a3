"""What a config leaves open and the data knows: arguments filled in before the model is built."""

from __future__ import annotations

from typing import Any

from jsonargparse import Namespace
from lightning.pytorch import LightningDataModule
from lightning.pytorch.cli import LightningArgumentParser

from framework.command.jsonargparse_internals import import_trusted
from framework.data.datamodule import DataModule
from framework.data.facts import Facts, facts_of, model_arguments, read_facts
from framework.layers.timm_backbone import timm_normalization
from framework.runs.model_class import other_class, read_model_classes
from framework.utilities.lightning_internals import SubcommandCLI


class DataArgumentsCLI(SubcommandCLI):
    """Hands what training measured to data and model.

    A new training reads the data first and fills the model's arguments that are None, so that they
    stand in the saved config. With a checkpoint its facts are handed to the data before they are
    read.
    """

    def instantiate_classes(self) -> None:
        """Fill open arguments, build everything, and hand the facts of a checkpoint to the data."""
        config = self.config[self.subcommand]
        checkpoint = config.get("ckpt_path")
        if checkpoint and is_class(config.get("model")):
            refuse_other_class(checkpoint, import_trusted(config.model.class_path))
        facts = read_facts(checkpoint) if checkpoint else {}
        prepared = None
        model, data = config.get("model"), config.get("data")
        if is_class(model) and is_class(data) and not checkpoint:
            normalize_as_pretrained(model.init_args, data.init_args)
        if is_class(model) and (facts or is_class(data)):
            kind = import_trusted(model.class_path)
            sources = getattr(kind, "arguments_from_data", {})
            if any(model.init_args.get(argument) is None for argument in sources):
                if not facts:
                    prepared = build_data(data)
                    facts = known_facts(prepared, set(sources.values()))
                for name, value in model_arguments(kind, facts, model.init_args).items():
                    model.init_args[name] = value
        super().instantiate_classes()
        if prepared is not None:
            self.datamodule = prepared
        elif isinstance(self.datamodule, DataModule) and checkpoint:
            self.datamodule.use_facts(facts)


def is_class(section: Any) -> bool:
    """Return whether a section of a config says which class to build, with its arguments."""
    return isinstance(section, Namespace) and "class_path" in section and "init_args" in section


def refuse_other_class(checkpoint: str, kind: type) -> None:
    """Raise a ``ValueError`` where a checkpoint is of another class than the config's model."""
    other = other_class(read_model_classes(checkpoint), kind)
    if other is not None:
        raise ValueError(
            f"{checkpoint} is the checkpoint of a run of {other}, and the model of the config is "
            f"{kind.__name__}: leave --config out, which takes that run's own, or name the "
            f"checkpoint of a run of {kind.__name__}."
        )


def build_data(section: Namespace) -> LightningDataModule:
    """Return the datamodule of a section."""
    parser = LightningArgumentParser()
    parser.add_subclass_arguments(LightningDataModule, "data", required=True, fail_untyped=False)
    data: LightningDataModule = parser.instantiate_classes(Namespace(data=section.clone())).data
    return data


def normalize_as_pretrained(model: Namespace, data: Namespace) -> None:
    """Give data the mean and std that a model's weights were trained with, where it has none.

    Args:
        model: Arguments of the model.
        data: Arguments of the data.
    """
    if not model.get("pretrained") or "mean" not in data or data.mean is not None:
        return
    known = timm_normalization(str(model.get("backbone")))
    if known is None or data.get("channels") == 1:
        return
    data.mean, data.std = known
    if data.get("channels", 3) is None:
        data.channels = 3


def known_facts(data: LightningDataModule, wanted: set[str]) -> Facts:
    """Return the facts of data, which are read where a wanted one is not known before."""
    facts = facts_of(data)
    if wanted - set(facts):
        # on every rank, as none knows the others yet: tiles, all that our data prepare, are written
        # under a name of this process and put in place whole
        data.prepare_data()
        data.setup("fit")
        facts = facts_of(data)
    return facts
