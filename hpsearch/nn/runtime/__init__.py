"""The processor and the devices that torch computes on."""
