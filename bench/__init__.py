"""The benchmark: how fast is a container engine in Python, beside those in C and Go, and beside the kernel alone?

`make bench` runs it; `python -m bench --only start --quick` one row of it, in less time. It is no test: it prints what
it has measured, the ratios, and whether each goal is met.

How it measures, because a machine is never quiet:

* Only ratios count, between things measured in the same run.
* *cold*: 50 ms of idleness before each start, all contestants in shuffled rounds. This is what a person at a prompt
  meets. *hot*: many starts in a row, in a few blocks, the order of contestants shuffled for each. This is what a test
  suite meets. Of both, the median.
* Nothing of a container exists before it is asked for, and nothing is left when the clock stops. Every single result is
  checked. The overlay's options, the mounts, the masks and the limits of our container are the floor's: that is
  verified by asking the kernel, from inside both, before anything is timed.
* All of it happens in a network and a mount namespace of its own, with daemons of its own.

The peers are Debian's: whichever of crun, runc, bubblewrap, docker, podman, skopeo and umoci is installed is measured,
the others are named. The benchmark installs nothing.
"""
