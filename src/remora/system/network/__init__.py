"""Connections between nodes.

Every one begins in the same way (:mod:`~remora.system.network.preface`): 32 clear bytes that say who is wanted, one
status byte back, TLS, and a mutual proof of the cluster's secret (:mod:`~remora.system.network.handshake_steps`).
Nothing is decoded before that. Then it carries a :class:`~remora.system.network.stream.Stream` of messages, which
outlives a broken connection, or the bytes of objects (:mod:`~remora.system.network.data_socket`).
"""
