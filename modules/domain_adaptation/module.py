"""Image classification without labels in the domain that counts: DANN, CDAN, MDD and ParetoDA."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Unpack

import torch
from torch import Tensor
from torch.nn import Parameter

from framework.adaptation.class_discriminators import SOURCE, TARGET, class_discriminator_loss
from framework.data.datasets import Batch
from framework.layers.gradient_reversal import ReversalSchedule
from framework.losses.information_maximization import TargetClassificationMimicking
from framework.objectives.errors import IncompatibleError
from framework.objectives.objectives import Objectives
from framework.training.compatibility import check_unmixed
from framework.training.terms import ignores_rows
from framework.utilities.checks import check_at_least, check_positive
from framework.utilities.module_copy import copy_module
from modules.classifier.module import ClassifierOptions
from modules.domain_adaptation.alignment import Alignment
from modules.domain_adaptation.dann import DANN
from modules.domain_adaptation.evaluation import DomainEvaluation
from modules.domain_adaptation.network import AdaptationNetwork


class DomainAdaptation(DomainEvaluation):
    r"""Classifies images of a target domain, of which no label is seen, as those of a source.

    A batch holds rows of both, in any order: ``image`` (B, C, H, W) float32, ``label`` (B,) int64,
    looked at in source rows only, ``domain`` (B,) int64, 0 = source and 1 = target, and ``index``
    (B,). One forward pass of all of them gives the terms

    ``classification``
        the criterion on the source rows,
    ``alignment``
        what draws the features of the domains together, against a network of its own,
    ``mimicking``
        ``TargetClassificationMimicking`` on the target rows, whose
        probabilities are refined by Bayes' rule with the discriminators below; it reaches the body
        and the bottleneck alone,
    ``discriminators``
        the loss of one discriminator of the domains per class, on features without gradient, so
        that they alone learn it; as in the released code it weighs 1 / 2K.

    Without ``gradient_combiner`` these are added up: DANN, CDAN and MDD have ``mimicking: 0``, and
    with ``alignment: null`` besides only the source is learned. Pareto domain adaptation is this
    module under ``DynamicPreference``, which weighs the first three terms at every
    step for body and bottleneck; head and discriminators keep the plain sum. Its guide is the
    mimicking loss on held-out target rows.

    In evaluation ``label`` is that of all rows, -1 where it is not known, and ``held_out`` (B,)
    bool marks the rows of the guide. ``accuracy``, ``accuracy_per_class`` and the confusion matrix
    are of the target's rows, ``source_accuracy`` and ``loss`` of the source's,
    ``discriminator_accuracy`` is the mean over both domains, and ``guide_loss``, which needs no
    labels and so may select the model, is the mimicking loss of all held-out rows. What no row is
    known for is left out.

    Paper: Lv et al., *Pareto Domain Adaptation*, NeurIPS 2021, arXiv:2112.04137; of the alignments
    see their own. As in the released code (BIT-DA/ParetoDA) only body and bottleneck get the
    combined gradient (to which it adds the plain ones of classification and alignment, an option of
    ``HeldOutGuidedLP`` that the configs in ``configs/paper`` take), and batch norm sees both
    domains together. Unlike there, one forward pass
    does, so that the reversal rises once per step, and the discriminators of the classes are saved
    and, in evaluation, use their running statistics. The code selects models by target labels.

    Args:
        bottleneck: Number F of features behind the body; None for those of the body.
        alignment: Alignment of the features: ``DANN``, ``CDAN`` or ``MDD``; None for none.
        alignment_weight: Weight of the alignment's term, above 0.
        mimicking: Weight of the mimicking term; 0 for no such term, and then there are no
            discriminators of classes.
        refine: Whether the discriminators of the classes correct the probabilities of target rows.
        discriminator_width: Width of the hidden layers of all discriminators.
        reversal: Coefficient of the gradient reversal in the course of the run.
        backbone_lr_scale: Factor of the body's learning rate; published is 0.1 for pretrained ones.
        criterion: Loss on the logits of source rows; default cross-entropy.
        gradient_combiner: Method that makes one gradient of those of several terms, for body and
            bottleneck; None adds them.
        **options: Arguments of ``Classifier``.

    Raises:
        ValueError: An argument is out of its range.
        IncompatibleError: The data is of one domain, with mixup, of another shape or with more
            classes (at ``setup``).

    Example:
        >>> import torch
        >>> from modules import DomainAdaptation
        >>> model = DomainAdaptation(num_classes=10, input_shape=(1, 8, 8), bottleneck=64)
        >>> tuple(model(torch.zeros(2, 1, 8, 8)).shape)
        (2, 10)
    """

    required_fields = ("image", "label", "domain", "index")
    tuple_fields = ()
    provides: tuple[str, ...] = ("per_sample", "predictions", "index", "features")
    whole_parameters = True

    def __init__(
        self,
        *,
        bottleneck: int | None = 256,
        alignment: Alignment | None = DANN(),  # noqa: B008  (is copied)
        alignment_weight: float = 1.0,
        mimicking: float = 1.0,
        refine: bool = True,
        discriminator_width: int = 1024,
        reversal: ReversalSchedule = ReversalSchedule(),  # noqa: B008  (is frozen)
        backbone_lr_scale: float = 1.0,
        **options: Unpack[ClassifierOptions],
    ) -> None:
        check_at_least(0, mimicking=mimicking)
        check_at_least(1, discriminator_width=discriminator_width)
        check_positive(alignment_weight=alignment_weight, backbone_lr_scale=backbone_lr_scale)
        super().__init__(**options)
        refines = bool(mimicking) and refine
        self.network = AdaptationNetwork(
            self.network, bottleneck, discriminator_width if refines else None
        )
        self.alignment = None if alignment is None else copy_module(alignment)
        if self.alignment is not None:
            self.alignment.build(
                self.network.num_features, self.num_classes, width=discriminator_width
            )
        self.alignment_weight = alignment_weight
        self.mimicking = mimicking
        self.mimicking_loss = TargetClassificationMimicking()
        self.reversal = reversal
        self.backbone_lr_scale = backbone_lr_scale

    # ---- set-up ---------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """Check that the data has two domains, does not mix samples and has the model's classes."""
        data, name = self.datamodule, type(self.datamodule).__name__
        # a prediction asks for nothing but images
        if data is not None and stage != "predict" and not getattr(data, "has_domains", False):
            raise IncompatibleError(
                f"DomainAdaptation learns from a source and a target, and {name} holds one domain: "
                "join two in a DomainPair."
            )
        check_unmixed(data, "DomainAdaptation learns from labels of the source alone")
        classes = getattr(data, "num_classes", None)
        if self.mimicking and classes is not None and classes < self.num_classes:
            raise IncompatibleError(
                f"{name} has {classes} classes and the model {self.num_classes}, over all of which "
                f"mimicking would spread the target: set model.num_classes to {classes}."
            )
        super().setup(stage)

    def shared_parameters(self) -> list[Parameter]:
        """Return body and bottleneck, which all terms but that of the discriminators act on."""
        parts = (self.network.body, self.network.bottleneck)
        return [p for part in parts for p in part.parameters() if p.requires_grad]

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return optimizer groups; those of the body have a learning rate of their own."""
        groups = super().parameter_groups()
        if self.backbone_lr_scale == 1:
            return groups
        body = {id(p) for p in self.network.body.parameters()}
        split: list[dict[str, Any]] = []
        for group in groups:
            for inside, extra in ((True, {"lr_scale": self.backbone_lr_scale}), (False, {})):
                own = [p for p in group["params"] if (id(p) in body) == inside]
                if own:
                    split.append({**group, "params": own, **extra})
        return split

    # ---- training -------------------------------------------------------------------------------

    def objectives(self, batch: Batch) -> Objectives:
        """Return the terms; with ``mimicking`` 0 or without ``alignment`` some are missing."""
        logits, features = self.network(batch["image"])
        objectives = Objectives(predictions=logits, index=batch.get("index"), features=features)
        self._add_classification(objectives, batch)
        aligned = self.align(batch, logits, features)
        if aligned is not None:
            self._add_coupled(objectives, "alignment", aligned.term, self.alignment_weight)
            if aligned.source_logit is not None:
                right = (aligned.source_logit > 0) == (batch["domain"] == SOURCE)
                objectives.logs["discriminator_accuracy"] = right.float().mean()
        if self.mimicking:
            self._add_mimicking(objectives, batch, features)
        return objectives

    def _add_classification(self, objectives: Objectives, batch: Batch) -> None:
        """Add the criterion on the source rows, which alone count."""
        logits, source = objectives.predictions, batch["domain"] == SOURCE
        assert logits is not None
        if ignores_rows(self.criterion):
            # as good as taking them out, for which a GPU would be waited for
            label = batch["label"].where(source, self.ignore_index)
            of_all = replace(objectives, targets=label)
            self.add_term(of_all, "classification", self.criterion, inputs=batch["image"])
            return
        of_source = self.source_objectives(batch, logits, objectives.features)
        if "classification" in of_source.terms:
            objectives.terms |= of_source.terms
            objectives.count |= of_source.count
            return
        value = of_source.per_sample["classification"]
        count = of_source.count.get("classification", torch.ones_like(value))
        every, rows = value.new_zeros(len(source)), source.nonzero().squeeze(1)
        objectives.per_sample["classification"] = every.index_put((rows,), value)
        if count.ndim:
            count = every.index_put((rows,), count.to(every.dtype))
        objectives.count["classification"] = count

    def _add_mimicking(self, objectives: Objectives, batch: Batch, features: Tensor) -> None:
        """Add the terms on rows of the target, and what the discriminators of classes learn."""
        refined, of_target = self.network.refined(features)
        value = self.mimicking_loss(refined, kept=batch["domain"] == TARGET)
        self._add_coupled(objectives, "mimicking", value, self.mimicking)
        if of_target is not None:
            loss = class_discriminator_loss(of_target, batch["label"], batch["domain"], refined)
            # with one optimizer for all, the released code's constants are a weight
            self._add_coupled(objectives, "discriminators", loss, 1 / (2 * self.num_classes))

    @staticmethod
    def _add_coupled(objectives: Objectives, name: str, value: Tensor, weight: float) -> None:
        """Add a term that already is that of the global batch, so that ranks count equally."""
        objectives.terms[name] = value
        objectives.count[name] = torch.ones((), device=value.device)
        objectives.weights[name] = weight

    def guide_objectives(self, batch: Batch) -> Objectives:
        """Return the term ``mimicking`` of the held-out target rows."""
        features = self.network(batch["image"])[1]
        objectives = Objectives(index=batch.get("index"), features=features)
        refined = self.network.refined(features)[0]
        value = self.mimicking_loss(refined, kept=batch["domain"] == TARGET)
        self._add_coupled(objectives, "mimicking", value, 1.0)
        return objectives
