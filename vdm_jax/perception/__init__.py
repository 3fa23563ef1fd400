"""What methods ask of networks that are not trained here (flow, depth, words ...): a protocol for each, and something
built in that truly works at toy scale.  A published network takes the same place with its own weights."""
