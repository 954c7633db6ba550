"""Local clusters, simulation, fakes and fault injection. Nothing else imports it."""
