//! PTX on the CPU: parse, print, execute, check, count.
