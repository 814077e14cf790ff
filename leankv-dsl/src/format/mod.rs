//! Codecs, KV formats and page layout: derived once, used by everyone.
