"""The studies: one readable file for each table or figure of a document, and each ablation of ours.

`STUDIES` lists them, `study.py` says what a study is, and `queue.py` ranks the long runs of all of them.
"""

from __future__ import annotations

import difflib

from convexnet.lab.studies import (
    appendix_c,
    appendix_e,
    bibtex,
    constraint_ablation,
    control,
    exemplars,
    fig1,
    fig2,
    fig3,
    fig4,
    fig5,
    fig6,
    human_noise,
    imputation,
    mnist_icnn,
    noise,
    olivetti,
    parity,
    polyhedral,
    recurrent,
    report_head,
    report_imagenet,
    report_mlp,
    report_table1,
    report_table2,
    report_table3,
    synthetic_icnn,
    table1,
    table2,
    table3,
    table4,
    table5,
    table6,
)
from convexnet.lab.studies.study import Study

STUDIES: tuple[Study, ...] = (
    table1.STUDY,
    table4.STUDY,
    constraint_ablation.STUDY,
    fig2.STUDY,
    fig3.STUDY,
    fig4.STUDY,
    fig5.STUDY,
    appendix_e.STUDY,
    table6.STUDY,
    appendix_c.STUDY,
    parity.STUDY,
    noise.STUDY,
    table3.STUDY,
    fig1.STUDY,
    human_noise.STUDY,
    fig6.STUDY,
    recurrent.STUDY,
    polyhedral.STUDY,
    table2.STUDY,
    table5.STUDY,
    report_mlp.STUDY,
    synthetic_icnn.STUDY,
    mnist_icnn.STUDY,
    bibtex.STUDY,
    olivetti.STUDY,
    exemplars.STUDY,
    imputation.STUDY,
    report_table1.STUDY,
    report_table2.STUDY,
    report_table3.STUDY,
    report_imagenet.STUDY,
    report_head.STUDY,
    control.STUDY,
)
"""In the order of a report. A new study is one file and one line here."""


def study_named(name: str) -> Study:
    """The study of that name.

    Raises:
        ValueError: there is none; the closest name is suggested.

    Example:
        >>> study_named("table1").source
        'Sivaprasad et al. 2021, table 1'
    """
    known = {study.name: study for study in STUDIES}
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        suggestion = f" Did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"there is no study {name!r}; there are {', '.join(known)}.{suggestion}")
    return known[name]
