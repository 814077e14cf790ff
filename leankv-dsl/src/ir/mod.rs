//! Tile IR.
