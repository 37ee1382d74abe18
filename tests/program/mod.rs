//! The program as people run it: the real binary, its arguments, its output, its exit code.

mod administering;
mod checking;
mod configuration;
mod demonstrating;
mod developing;
mod forwarding;
mod import;
mod receiving;
mod serving;
mod subscribing;
