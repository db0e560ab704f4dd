"""What the workers of a server keep in common besides channels: caches, queues, areas, a roster, and locks.

One memfd, made before the first fork and gone with the last process: no name, nothing to clean up.  Every part has a
lock that the kernel frees when its holder dies, and a journal by which whoever comes next undoes what the dead had
begun.  No policy, no logging, no gevent: how to wait is handed in.
"""
