//! Language models whose attention and cache are LeanKV's.
