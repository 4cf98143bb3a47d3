"""What the words of a page mean, and what its figures are not good for."""

from __future__ import annotations


def figures(who: str) -> str:
    """Every figure in a sentence; `who` is a word for what answered, such as head."""
    return f"""
<dl>
<dt>Recall, or sensitivity</dt><dd>Of the images of a class, the share that the {who} decided for it.</dd>
<dt>Specificity</dt><dd>Of the images not of the class, the share that it did not decide for it.</dd>
<dt>Precision</dt><dd>Of the images that it decided for the class, the share that are of it. It falls where the class is
rarer.</dd>
<dt>F1</dt><dd>The harmonic mean of precision and recall.</dd>
<dt>AUC</dt><dd>The probability that an image of the class is ranked above one that is not of it: 0.5 is chance, 1
perfect. No threshold plays a part.</dd>
<dt>AP, average precision</dt><dd>The area under the precision-recall curve: chance is the share of the class.</dd>
<dt>Brier score, ECE</dt><dd>How far probabilities are from what came true: by image, squared, and on average over ten
bins of probability.</dd>
<dt>Balanced accuracy</dt><dd>The mean over classes of recall; of labels, of the mean of recall and specificity. Always
answering the same gives 1 / classes, or 0.5 for labels.</dd>
<dt>Micro, macro, weighted, samples</dt><dd>Averages: over all answers as one heap; over classes, each counting the
same; over classes by their support; over images.</dd>
<dt>Support</dt><dd>How many images are of the class.</dd>
<dt>Intervals</dt><dd>95 %: how far a figure might move with other patients of the same kind (bootstrap over patients,
whose images stay together). They do not cover another hospital, nor another training of the {who}.</dd>
<dt>Majority baseline</dt><dd>A head that has learnt nothing but how frequent each class is.</dd>
</dl>
"""


def limits(who: str, calibrated: str, multi_label: bool) -> str:
    """What nobody should read into the figures.

    Args:
        who: a word for what answered.
        calibrated: whether its probabilities are, in words, HTML.
        multi_label: whether each class is decided by itself.
    """
    decides = (
        f"Each label is decided by itself: a {who} may decide several, or none. That none is decided does not mean "
        "that the image shows nothing."
        if multi_label
        else f"The {who} always decides for one of its classes, also on an image that shows none of them, or is no "
        "radiograph of the chest."
    )
    return f"""
<p>Research use only. This {who} is not a medical device and is not for diagnosis, triage or any other care of
patients.</p>
<p>The figures hold for images like those of the split they were measured on: the same hospitals, machines, views and
ages, labelled in the same way. Labels of public archives are often read from reports or folders by a program, and some
are wrong; a {who} learns their mistakes, and is then measured against them. It may also answer from what has nothing to
do with the disease, such as a marker, a tube, or the machine. Expect worse figures on images from elsewhere, and
measure them there before you rely on any.</p>
<p>{calibrated} Where a class is rarer or more frequent than here, precision changes even if the {who} does not.</p>
<p>{decides}</p>
<p>Groups that are few here, or absent, were hardly measured: that a group is not in the tables does not mean that the
{who} serves it well.</p>
"""
