"""The stand-in for Modal, in layers, each importing only those before it: state, rpc, containers, edge."""
