"""What tests need: private real servers, and a proxy that injects network faults."""
