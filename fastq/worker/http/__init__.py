"""Health and metrics of a node over HTTP, answered by its supervisor without the broker.

``address`` says where, ``server`` speaks HTTP on the node's loop, ``pages`` has the routes, ``metrics`` the numbers, ``doors`` the
local sockets by which ``fastq health`` finds the nodes of its host.
"""
