"""The values that options of the command line may have, for `--help`, which imports nothing that they choose from.

The tests compare each with the place that it comes from.
"""

from __future__ import annotations

from convexnet.choices import INITS as INITS
from convexnet.choices import METHODS as METHODS
from convexnet.choices import SOLVERS as SOLVERS

NORMALISATIONS = ("none", "mean-std", "standard", "zca")
WHITENINGS = ("standard", "zca")
WHITE_EPSILON = 0.1
"""The fixed first step of a network: `convexnet.lab.models.first_step`."""

AUGMENTATIONS = (
    *("none", "flip", "crop", "crop-flip", "crop-flip-cutout", "resized-crop-flip", "paper-code"),
    *("crop-flip-jitter-erase", "crop-flip-randaugment", "crop-flip-autoaugment"),
    *("resized-crop-flip-randaugment-erase", "resized-crop-flip-autoaugment"),
)
"""Sets of augmentations: `convexnet.lab.data`."""

DATASETS = (
    *("mnist", "fashion-mnist", "svhn", "stl10", "cifar10", "cifar100", "cifair10", "cifair100", "cifar10-holdout"),
    *("digits", "tiny-imagenet-20", "imagenet", "folder:PATH", "npz:PATH"),
)
NOISES = (
    *("symmetric-including", "symmetric-excluding"),
    *("cifar10n-aggre", "cifar10n-random1", "cifar10n-random2", "cifar10n-random3", "cifar10n-worse"),
)
"""Data sets and wrong labels: `convexnet.lab.data`."""

LOSSES = ("cross-entropy", "label-smoothing", "gce", "sce", "elr")
"""`convexnet.lab.training.robust_losses`, and the recipe's `smoothing`."""

RECIPES = ("paper-text", "paper-code", "ours")
"""`convexnet.lab.training.recipes`."""

PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
"""Of Lightning Fabric."""

MODELS = (
    *("mlp", "mlp-signs", "relu-mlp", "ficnn", "ioc-mlp", "ioc-shallow", "allconv", "ioc-allconv"),
    *("allconv-quarter", "ioc-allconv-quarter", "densenet", "ioc-densenet"),
    *("densenet-16", "ioc-densenet-16", "rnn", "ioc-rnn", "icrnn"),
    *("mixer", "ioc-mixer", "mixer-report", "cyclemlp-b1", "ioc-cyclemlp-b1", "cyclemlp-b1-report"),
    *("efficientnet-b0", "ioc-efficientnet-b0", "ioc-efficientnet-b0-ungated"),
    *("densenet-121", "ioc-densenet-121", "resnet-50", "ioc-resnet-50"),
    *("cnn", "ioc-cnn", "cnn-head"),
)
"""`convexnet.lab.models.registry`."""

STUDIES = (
    (
        "table1",
        "MLP and IOC-MLP on six image sets",
        "Sivaprasad et al. 2021, table 1",
        "A2",
    ),
    (
        "table4",
        "MLP, ReLU-constrained MLP, FICNN and IOC-MLP",
        "Sivaprasad et al. 2021, table 4",
        "A5",
    ),
    (
        "constraint-ablation",
        "Methods, scales, activations, inputs, starts and heads, one change at a time",
        "ours; Sivaprasad et al. 2021, section 4 and appendix B",
        "A1",
    ),
    (
        "fig2",
        "Decision boundaries in the plane",
        "Sivaprasad et al. 2021, figure 2",
        "A9",
    ),
    (
        "fig3",
        "The argmax of two convex functions",
        "Sivaprasad et al. 2021, figure 3",
        "A9",
    ),
    (
        "fig4",
        "A mixture of convex experts on a V-shape",
        "Sivaprasad et al. 2021, figure 4",
        "A7",
    ),
    (
        "fig5",
        "Animals against the rest by one to ten convex experts",
        "Sivaprasad et al. 2021, figure 5a",
        "A7",
    ),
    (
        "appendix-e",
        "Mean images of what each of ten experts sees",
        "Sivaprasad et al. 2021, appendix E",
        "A12",
    ),
    (
        "table6",
        "Boosted convex experts, a gate, and the oracle",
        "Sivaprasad et al. 2021, table 6",
        "A8",
    ),
    (
        "appendix-c",
        "Confidence intervals over five seeds; gain against gap",
        "Sivaprasad et al. 2021, appendix C and figure 5b",
        "A11",
    ),
    (
        "parity",
        "Six networks of one budget: ordinary, regularised, convex, and one hidden layer",
        "ours; Sivaprasad et al. 2021, section 4.1",
        "A2",
    ),
    (
        "noise",
        "Wrong labels: is it convexity, or underfitting, that resists?",
        "ours; Sivaprasad et al. 2021, table 3 and section 4.1",
        "A4",
    ),
    (
        "table3",
        "Labels that are drawn anew, at the peak and at convergence",
        "Sivaprasad et al. 2021, table 3",
        "A4",
    ),
    (
        "fig1",
        "Loss and accuracy on true, random and half random labels",
        "Sivaprasad et al. 2021, figure 1",
        "A4, A11",
    ),
    (
        "human-noise",
        "Labels as people give them, at three levels",
        "ours; Wei et al. 2022; Sivaprasad et al. 2021, table 3",
        "A4",
    ),
    (
        "fig6",
        "Calibration of three architectures, before and after temperature scaling",
        "Sivaprasad et al. 2021, figure 6",
        "A10",
    ),
    (
        "recurrent",
        "Recurrent networks on MNIST, row by row",
        "ours; Sivaprasad et al. 2021, section 5",
        "A13",
    ),
    (
        "polyhedral",
        "Polyhedra, the convex quadratic and XOR in the plane",
        "Sivaprasad et al. 2021, sections 2 and 3.1",
        "A9",
    ),
    (
        "table2",
        "AllConv and DenseNet with their counterparts",
        "Sivaprasad et al. 2021, table 2",
        "A3",
    ),
    (
        "table5",
        "Test images that are in the training part too: ciFAIR, and the hold-out",
        "Sivaprasad et al. 2021, table 5; Barz & Denzler 2020",
        "A6",
    ),
    (
        "report-mlp",
        "The report's own MLP and its counterpart, Adam at 1e-5",
        "Singh 2022, section 5.1",
        "A2",
    ),
    (
        "synthetic-icnn",
        "Energies in the plane: FICNN and PICNN in three ways",
        "Amos & Kolter 2016; Amos, Xu & Kolter 2017, section 6.1",
        "C2, C7",
    ),
    (
        "mnist-icnn",
        "MNIST by an energy over image and label",
        "Amos & Kolter 2016",
        "C2, C7",
    ),
    (
        "bibtex",
        "BibTeX: many labels at once",
        "Amos, Xu & Kolter 2017, section 6.2",
        "C2, C8",
    ),
    (
        "olivetti",
        "Face completion on Olivetti by least energy",
        "Amos, Xu & Kolter 2017, section 6.3",
        "C8",
    ),
    (
        "exemplars",
        "The input that a network likes best for each class, and training towards it",
        "Amos & Kolter 2016",
        "C4",
    ),
    (
        "imputation",
        "Missing inputs filled in by a convex energy",
        "Amos & Kolter 2016; Amos, Xu & Kolter 2017",
        "C5",
    ),
    (
        "report-table1",
        "MLP-Mixer: ordinary, the report's, and certified",
        "Singh 2022, table 1",
        "B1",
    ),
    (
        "report-table2",
        "CycleMLP on CIFAR-10: ordinary, the report's, and certified",
        "Singh 2022, table 2 and figures 3 and 4",
        "B2",
    ),
    (
        "report-table3",
        "CycleMLP on CIFAR-100: ordinary, the report's, and certified",
        "Singh 2022, table 3 and figures 1 and 2",
        "B2",
    ),
    (
        "report-imagenet",
        "Large networks on folders of images, and what they start from",
        "Singh 2022, sections 5.2, 5.4 and 6",
        "B3, B4",
    ),
    (
        "report-head",
        "Convexity for the head alone, for all of a CNN, and for none of it",
        "Singh 2022, section 6",
        "B5",
    ),
    (
        "control",
        "Q-learning with a Q convex in the action, and baselines",
        "Amos, Xu & Kolter 2017, section 6.3",
        "C6",
    ),
)
"""Name, title, source and rows of docs/systems.md: `convexnet.lab.studies`."""
