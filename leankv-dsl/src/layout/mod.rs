//! Linear layouts over F2: how a tile is spread over registers, lanes and warps.
