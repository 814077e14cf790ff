//! PTX text and its syntax tree: lexer, parser and printer.
//!
//! * Every statement keeps the line and column it started at.
//! * Printing a tree and parsing the text again gives the same tree ([`ast::Ast::same`]).
//! * The parser knows grammar only; which opcodes and modifiers exist is the decoder's business.

pub mod ast;
mod lexer;
mod parser;
mod parser_body;
mod printer;

pub use lexer::Pos;
