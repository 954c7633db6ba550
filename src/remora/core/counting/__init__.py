"""Distributed reference counting: who holds which object, and when an object is freed.

Two machines. :class:`~remora.core.counting.process.ProcessRefs` is the half in every driver and worker; it knows
which refs live there and why they may be used. :class:`~remora.core.counting.directory.Directory` is the half in
every node daemon; it is the home of the ids made on its node and speaks for its processes at other homes.

Refs travel in **carriers**: a task, a reply, a generator item, the value of a container. The receiver closes each
carrier once, and the one rule of it all is this:

    A close leaves only after every ref that came in the carrier and is still live here is held by this process at
    its home, whatever else covers it. Until the close the sender keeps the refs live, and only its death ends that.

Values of one home may be read, kept and inherited by other nodes. The home knows who has or receives a copy and sends
readers to each other; a copy takes the place of a lost one; and when a home dies, its heir makes its entries anew from
what all living nodes report.

Reading order: `vocabulary`, `carriers`, `process`; then the layers of the directory from below: `holders` (with
`entries` and `parking`), `reading` (`copies`, `local_copies`), `lending` (`spread`), `values`, `keeping`,
`other_nodes`, `reporting`, `heirs` (`rebuilding`), `exports`, `directory`.
"""
