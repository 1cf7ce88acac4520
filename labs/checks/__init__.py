"""The checks of the labs, one module for each: `from labs.checks import chroot as check`, then `check.pivot(pivot)`.

`frame` holds what they share. A check looks at what the kernel says of a process that the learner's code has made,
never at the text of the answer.
"""
