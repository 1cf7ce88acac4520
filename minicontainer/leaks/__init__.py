"""What was left behind? A snapshot of the machine, the difference of two, and a way to put things back.

A container that is gone must be gone: no mount, cgroup, link, namespace, firewall rule, process or file may stay.
That is a claim about the kernel, so the kernel is asked, before and after:

>>> from minicontainer import leaks
>>> before = leaks.snapshot()
>>> ...                                    # anything: containers, kill -9, experiments
>>> leaks.left_since(before)               # in words; an empty list when all is as it was
[]

A snapshot covers one *instance* (see state.py), so that two people can work on one machine. With `scope="host"` it
covers everything that this process can see, which is what the test suite compares after every test; there, whatever
other programs do to the machine meanwhile shows as well.

`reset()` removes what a broken experiment or a kill -9 left, in this order: what the records of dead containers name,
then whatever bears our name and belongs to nobody, on the assumption that there were no records.

Left out: routes and addresses of links that existed before, sysctls other than ip_forward.
"""

from minicontainer.leaks.look import Snapshot, difference, left_since, snapshot
from minicontainer.leaks.mend import reset

__all__ = ["Snapshot", "difference", "left_since", "reset", "snapshot"]
